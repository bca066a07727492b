import CEdgekit

/// The engine's model with its one sequence. An actor, because an object of the engine belongs to one thread at a time.
actor Engine {
    nonisolated let tokenizer: Tokenizer
    nonisolated let info: ek_info
    nonisolated let context: Int
    nonisolated let instructions: String
    private let file: Bytes
    private let memory: Block
    private let threads: Threads?
    private let model: OpaquePointer
    /// The text that the cache holds, as far as it is generated.
    private var last: Text?

    init(_ file: Bytes, _ options: Options) throws {
        var info = ek_info()
        try check { ek_inspect(file.start, file.count, &info, $0) }
        tokenizer = try Tokenizer(file)
        threads = try options.threads > 1 ? Threads(options.threads) : nil
        var wanted = ek_options()
        guard let context = UInt32(exactly: options.context) else {
            throw EdgekitError(.argument, "context must be a whole number of at least 0, not \(options.context)")
        }
        wanted.context = context
        wanted.kv = options.cache.value
        wanted.direct = options.direct ? 1 : 0
        wanted.threads = threads?.pointer
        var size = 0
        try check { ek_model_size(file.start, file.count, &wanted, &size, $0) }
        memory = try Block(size, for: "the model")
        let address = memory.address
        var opened: OpaquePointer?
        try check { ek_model_open(file.start, file.count, &wanted, address, size, &opened, $0) }
        (model, self.file, self.info) = (opened!, file, info)
        self.context = Int(ek_model_context(model))
        instructions = String(cString: ek_model_instructions(model))
    }

    /// Logits after the last id, or one row for each.
    func logits(_ ids: [UInt32], every: Bool) throws -> [Float] {
        last = nil
        ek_rewind(model, 0)
        var values = [Float](repeating: 0, count: Int(info.vocabulary) * (every ? ids.count : 1))
        let status = ek_forward(model, ids, ids.count, &values, every ? 1 : 0)
        if status == EK_CONTEXT.rawValue {
            throw EdgekitError(.context, "\(ids.count) tokens do not fit into the context, which holds \(context)")
        }
        if status == EK_ARGUMENT.rawValue {
            let why = ids.isEmpty ? "there is no token" : "a token is outside the vocabulary of \(info.vocabulary)"
            throw EdgekitError(.argument, "no logits: \(why)")
        }
        if status < 0 { throw EdgekitError(status) }
        return values
    }

    /// The next token of a text; nil after the last.
    func next(_ text: Text) throws -> Step? {
        if text.finish != nil { return nil }
        do {
            let generation = try text.generation ?? start(text)
            if last !== text { throw EdgekitError(.argument, "the model has begun another text: it generates one at a time") }
            var token = ek_new_token()
            let status = ek_generation_next(generation, &token)
            if status < 0 { throw EdgekitError(status) }
            text.tokens.append(token.token)
            return text.step(token, id: token.token)
        } catch {
            text.finish = .cancelled
            throw error
        }
    }

    /// Ends a text; the step has what was kept back, and no token. nil if it has ended already.
    func cancel(_ text: Text) -> Step? {
        if text.finish != nil { return nil }
        guard let generation = text.generation, last === text else {
            text.finish = .cancelled
            return nil
        }
        var token = ek_new_token()
        ek_generation_cancel(generation, &token)
        return text.step(token, id: nil)
    }

    private func start(_ text: Text) throws -> OpaquePointer {
        let generation = try text.start(model, tokenizer, reuse: shared(text.prompt.dropLast()))
        last = text
        return generation
    }

    /// How many tokens at the beginning of a prompt the cache holds already.
    private func shared(_ prompt: ArraySlice<UInt32>) -> Int {
        guard let last else { return 0 }
        let held = last.prompt + last.tokens.dropLast()  // the last token was not read
        if ek_length(model) != held.count { return 0 }
        return zip(held, prompt).prefix { $0 == $1 }.count
    }
}

/// Threads that the engine shares its work with.
final class Threads: @unchecked Sendable {
    let pointer: UnsafeMutablePointer<ek_threads>
    private let block: Block

    init(_ count: Int) throws {
        guard let number = UInt32(exactly: count), number <= 256 else {
            throw EdgekitError(.argument, "threads must be 1 to 256, not \(count)")
        }
        let size = ek_threads_size(number)
        block = try Block(size, for: "the threads")
        let address = block.address
        var opened: UnsafeMutablePointer<ek_threads>?
        try check { ek_threads_open(number, address, size, &opened, $0) }
        pointer = opened!
    }

    deinit { ek_threads_close(pointer) }
}
