// A whole app: one screen that writes stories, on a phone or a Mac. examples/ios/README.md says how to build it.
import Edgekit
import SwiftUI

@main
struct StoryApp: App {
    var body: some Scene {
        WindowGroup { StoryView() }
    }
}

/// Writes one text at a time with the model `story.gguf` of the app's resources.
@MainActor
final class Writer: ObservableObject {
    @Published private(set) var text = ""
    @Published private(set) var status = ""
    @Published private(set) var isWriting = false
    private var model: Model?
    private var task: Task<Void, Never>?

    func write(_ prompt: String, temperature: Double) {
        stop()
        (text, status, isWriting) = (prompt, "", true)
        task = Task {
            do {
                try await continueText(prompt, temperature)
            } catch {
                status = error.localizedDescription
            }
            if !Task.isCancelled { isWriting = false }
        }
    }

    func stop() {
        task?.cancel()
        (task, isWriting) = (nil, false)
    }

    private func continueText(_ prompt: String, _ temperature: Double) async throws {
        let model = try await opened()
        var settings = model.defaults
        settings.temperature = temperature
        settings.banReplacement = true
        let start = Date()
        var count = 0
        for try await step in model.steps(prompt, settings) {
            if Task.isCancelled { return }  // another text may be on the screen already
            text += step.text
            count += 1
            status = String(format: "%.0f tokens/s", Double(count) / Date().timeIntervalSince(start))
        }
    }

    /// Opening takes some milliseconds, so it is not done on the main thread.
    private func opened() async throws -> Model {
        if let model { return model }
        guard let path = Bundle.main.path(forResource: "story", ofType: "gguf") else {
            throw CocoaError(.fileNoSuchFile, userInfo: [NSFilePathErrorKey: "story.gguf"])
        }
        let opened = try await Task.detached { try Model(path: path) }.value
        model = opened
        return opened
    }
}

@MainActor
struct StoryView: View {
    @StateObject private var writer = Writer()
    @State private var prompt = "Once upon a time"
    @State private var temperature = 0.8

    var body: some View {
        VStack(alignment: .leading, spacing: 16) {
            TextField("How the story begins", text: $prompt)
                .textFieldStyle(.roundedBorder)
                .onSubmit { write() }
            HStack {
                Text("Temperature \(temperature, specifier: "%.1f")").monospacedDigit()
                Slider(value: $temperature, in: 0...1.5)
            }
            Button(writer.isWriting ? "Stop" : "Write") { writer.isWriting ? writer.stop() : write() }
                .buttonStyle(.borderedProminent)
            ScrollView {
                Text(writer.text)
                    .frame(maxWidth: .infinity, alignment: .leading)
                    .textSelection(.enabled)
            }
            Text(writer.status).font(.footnote).foregroundColor(.secondary)
        }
        .padding()
    }

    private func write() { writer.write(prompt, temperature: temperature) }
}
