import Foundation

/// A loaded model with the one sequence in its cache.
public protocol Runtime: AnyObject {
    var vocabSize: Int { get }
    var contextLength: Int { get }
    /// Append ids and return the logits after the last one.
    func forward(_ ids: [Int]) throws -> [Float]
    /// Forget the sequence.
    func reset()
}

/// A vocabulary with EOS and BOS above its ids, as in edgekit/tokenizers/tokenmonster/tokenizer.py.
public struct Tokenizer {
    public let vocabulary: Vocabulary
    public let addBos: Bool
    public var eos: Int { vocabulary.tableSize }
    public var bos: Int { vocabulary.tableSize + 1 }

    public init(_ vocabulary: Vocabulary, vocabSize: Int, addBos: Bool = true) throws {
        if vocabulary.tableSize + 1 >= vocabSize {
            throw EdgekitError("\(vocabSize) rows are too few for \(vocabulary.tableSize) ids, EOS and BOS")
        }
        self.vocabulary = vocabulary
        self.addBos = addBos
    }

    /// The ids to feed for a prompt.
    public func prompt(_ text: String) -> [Int] { (addBos ? [bos] : []) + vocabulary.encode(text) }
}

/// Generates a text (edgekit/inference/generate.py): call `next` for its pieces until it returns nil; to end it, stop calling.
public final class Story {
    /// The ids that the model sees, BOS included.
    public let prompt: [Int]
    public private(set) var tokens: [Int] = []
    /// "stop" (end of the text or a stop string) or "length" (maxNewTokens or the context); "cancelled" before that.
    public private(set) var finishReason = "cancelled"

    private let runtime: Runtime
    private let eos: Int
    private let limit: Int
    private let decoder: Decoder
    private let sampler: Sampler
    private var text: StopText

    public init(_ runtime: Runtime, _ tokenizer: Tokenizer, prompt: String, _ settings: Settings) throws {
        self.runtime = runtime
        self.prompt = tokenizer.prompt(prompt)
        eos = tokenizer.eos
        if prompt.isEmpty { throw EdgekitError("the prompt is empty: give the model at least one character to continue from") }
        if self.prompt.count > runtime.contextLength {
            throw EdgekitError("the prompt has \(self.prompt.count) tokens, but the model's context holds \(runtime.contextLength)")
        }
        limit = min(settings.maxNewTokens, runtime.contextLength + 1 - self.prompt.count)
        decoder = Decoder(tokenizer.vocabulary)
        for id in self.prompt { _ = decoder.feed(id) }  // the prompt may end in half a character
        sampler = Sampler(settings, vocabSize: runtime.vocabSize, prompt: self.prompt)
        text = StopText(settings.stop)
    }

    /// The next piece of text, never empty; nil at the end.
    public func next() throws -> String? {
        while finishReason == "cancelled" {
            if tokens.isEmpty { runtime.reset() }
            let token = sampler.choose(try runtime.forward(tokens.isEmpty ? prompt : [tokens.last!]))
            tokens.append(token)
            var reason = token == eos ? "stop" : tokens.count >= limit ? "length" : nil
            var piece = text.add(token == eos ? "" : decoder.feed(token))
            if reason != nil && !text.found { piece += text.add(decoder.flush()) + text.flush() }
            if text.found { reason = "stop" }
            finishReason = reason ?? finishReason
            if !piece.isEmpty { return piece }
        }
        return nil
    }
}

/// Withholds text while its end may be the beginning of a stop string. Compares code points, as Python does: Swift's own
/// comparison treats a letter with its accent as one character.
struct StopText {
    private let stops: [[Unicode.Scalar]]
    private var pending: [Unicode.Scalar] = []
    private(set) var found = false

    init(_ stops: [String]) { self.stops = stops.map { Array($0.unicodeScalars) } }

    /// The text that is certain now; empty once a stop string was found.
    mutating func add(_ piece: String) -> String {
        if found { return "" }
        let text = pending + Array(piece.unicodeScalars)
        let place = stops.compactMap { StopText.place(of: $0, in: text) }.min()
        found = place != nil
        let certain = place ?? text.count - (stops.map { StopText.overlap(text, $0) }.max() ?? 0)
        pending = found ? [] : Array(text[certain...])
        return StopText.string(text[..<certain])
    }

    mutating func flush() -> String {
        defer { pending = [] }
        return StopText.string(pending[...])
    }

    private static func string(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        return String(view)
    }

    private static func place(of stop: [Unicode.Scalar], in text: [Unicode.Scalar]) -> Int? {
        if stop.count > text.count { return nil }
        return (0...text.count - stop.count).first { text[$0..<$0 + stop.count].elementsEqual(stop) }
    }

    /// Length of the longest suffix of `text` that is a proper prefix of `stop`.
    private static func overlap(_ text: [Unicode.Scalar], _ stop: [Unicode.Scalar]) -> Int {
        stride(from: min(text.count, stop.count - 1), to: 0, by: -1).first { text.suffix($0).elementsEqual(stop.prefix($0)) } ?? 0
    }
}
