import CEdgekit
import Foundation

/// How a model is opened.
public struct Options: Hashable, Sendable {
    public enum Cache: Hashable, Sendable {
        case float32, float16, int8

        var value: UInt32 {
            switch self {
            case .float32: return UInt32(EK_KV_F32)
            case .float16: return UInt32(EK_KV_F16)
            case .int8: return UInt32(EK_KV_I8)
            }
        }
    }

    /// Positions; 0: those that the model was trained for.
    public var context = 0
    /// Type of the keys and values.
    public var cache = Cache.float16
    /// Threads that compute; they change no bit of a result. A phone has two fast cores.
    public var threads = 2
    /// Run on the file's own bytes: opens at once, needs little memory, and is slower.
    public var direct = false

    public init() {}
}

/// What a file's model is.
public struct Info: Hashable, Sendable {
    public let vocabulary, hidden, layers, heads, kvHeads: Int
    /// Positions that the model was trained for, and those that it was opened with.
    public let trainedContext, context: Int
    public let parameters: UInt64
    /// The instruction set that the engine uses here.
    public let instructions: String
    public let engineVersion: String
}

/// A Llama from a GGUF file, with its tokenizer.
///
/// It generates one text at a time: one that is begun ends the one before. Any task may use it.
public final class Model: Sendable {
    public let info: Info
    /// The file's own settings.
    public let defaults: Settings
    private let engine: Engine

    /// Opens a file. It is mapped into memory: do not change it while the model is in use.
    ///
    /// Takes some milliseconds, and as much memory as the file has bytes, unless `options.direct`.
    /// Throws `EdgekitError`: no such file, another format, a damaged file, not enough memory.
    public convenience init(path: String, _ options: Options = Options()) throws {
        try self.init(Bytes(path: path), options)
    }

    public convenience init(data: Data, _ options: Options = Options()) throws { try self.init(Bytes(data), options) }

    private init(_ file: Bytes, _ options: Options) throws {
        engine = try Engine(file, options)
        defaults = try Settings(file)
        let info = engine.info
        self.info = Info(
            vocabulary: Int(info.vocabulary), hidden: Int(info.hidden), layers: Int(info.layers), heads: Int(info.heads),
            kvHeads: Int(info.kv_heads), trainedContext: Int(info.context), context: engine.context,
            parameters: info.parameters, instructions: engine.instructions, engineVersion: String(cString: ek_version()))
    }

    /// The ids of a prompt, BOS included if the model wants it. An empty text is BOS alone (EOS, if there is no BOS).
    /// With `specials` the spelling of a special token, such as `<|im_end|>`, is that token.
    public func encode(_ text: String, specials: Bool = false, bos: Bool = true) throws -> [UInt32] {
        let tokenizer = engine.tokenizer, facts = tokenizer.facts
        let flags = (bos ? UInt32(EK_ADD_BOS) : 0) | (specials ? UInt32(EK_PARSE_SPECIALS) : 0)
        if text.isEmpty, bos, let first = [facts.bos, facts.eos].first(where: { $0 >= 0 }) { return [UInt32(first)] }
        let ids = try tokenizer.encode(text, flags: flags)
        if bos, !text.isEmpty, ids.count <= Int(facts.add_bos) {
            throw EdgekitError(.argument, "the prompt has no character that the vocabulary can write")
        }
        return ids
    }

    /// The text of ids; special tokens print nothing.
    public func decode(_ ids: [UInt32]) -> String { pieces(ids).joined() }

    /// What becomes certain with each id, then what is left: one piece more than ids.
    public func pieces(_ ids: [UInt32]) -> [String] { engine.tokenizer.pieces(ids) }

    /// Logits after the last id, as many as the vocabulary has tokens; with `every` a row for each id, one after the other.
    public func logits(_ ids: [UInt32], every: Bool = false) async throws -> [Float] {
        try await engine.logits(ids, every: every)
    }

    /// Starts a text: `for try await piece in model.stream("Once upon a time")`. Without settings, the file's own.
    public func stream(_ prompt: String, _ settings: Settings? = nil) -> TextStream {
        TextStream(steps: steps(prompt, settings))
    }

    /// The same from ids, as they are.
    public func stream(_ prompt: [UInt32], _ settings: Settings? = nil) -> TextStream {
        TextStream(steps: steps(prompt, settings))
    }

    public func steps(_ prompt: String, _ settings: Settings? = nil) -> Steps {
        Steps(engine, settings ?? defaults) { [self] in try encode(prompt) }
    }

    public func steps(_ prompt: [UInt32], _ settings: Settings? = nil) -> Steps {
        Steps(engine, settings ?? defaults) { prompt }
    }

    /// The whole text. If the task is cancelled, what there was until then.
    public func generate(_ prompt: String, _ settings: Settings? = nil) async throws -> Generation {
        try await generate(encode(prompt), settings)
    }

    public func generate(_ prompt: [UInt32], _ settings: Settings? = nil) async throws -> Generation {
        let steps = steps(prompt, settings)
        var result = Generation(prompt: prompt, seed: steps.seed)
        for try await step in steps {
            if let token = step.token { result.tokens.append(token) }
            result.text += step.text
            result.finish = step.finish ?? result.finish
        }
        return result
    }
}
