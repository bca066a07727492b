import Foundation

/// A text, token by token: `for try await step in model.steps("Once upon a time")`.
///
/// No step is made before it is asked for; leaving the loop ends the text. In a task that is cancelled the text ends too,
/// with a step that has what was kept back and `.cancelled`. The steps are made off the main thread.
public struct Steps: AsyncSequence, Sendable {
    public typealias Element = Step

    let engine: Engine
    let prompt: @Sendable () throws -> [UInt32]
    let settings: Settings
    /// The seed of this text, also where the settings have none.
    public let seed: UInt64

    init(_ engine: Engine, _ settings: Settings, _ prompt: @escaping @Sendable () throws -> [UInt32]) {
        (self.engine, self.settings, self.prompt) = (engine, settings, prompt)
        seed = settings.seed ?? UInt64.random(in: 0..<1 << 32)
    }

    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(steps: self) }

    public struct AsyncIterator: AsyncIteratorProtocol {
        let steps: Steps
        private var text: Text?

        init(steps: Steps) { self.steps = steps }

        public mutating func next() async throws -> Step? {
            let text = try self.text ?? Text(steps.prompt(), steps.settings, seed: steps.seed)
            self.text = text
            return Task.isCancelled ? await steps.engine.cancel(text) : try await steps.engine.next(text)
        }
    }
}

/// A text, piece by piece, none of them empty: `for try await piece in model.stream("Once upon a time")`. See `Steps`.
public struct TextStream: AsyncSequence, Sendable {
    public typealias Element = String

    let steps: Steps
    public var seed: UInt64 { steps.seed }

    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(steps: steps.makeAsyncIterator()) }

    public struct AsyncIterator: AsyncIteratorProtocol {
        var steps: Steps.AsyncIterator

        public mutating func next() async throws -> String? {
            while let step = try await steps.next() {
                if !step.text.isEmpty { return step.text }
            }
            return nil
        }
    }
}

/// A whole text.
public struct Generation: Hashable, Sendable {
    /// The ids that the model read, BOS included.
    public let prompt: [UInt32]
    public internal(set) var tokens: [UInt32] = []
    public internal(set) var text = ""
    public internal(set) var finish = Finish.cancelled
    public let seed: UInt64
}
