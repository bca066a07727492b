import CEdgekit

/// How a text is generated. Meaning, order and bounds are those of edgekit in Python (`edgekit.settings.Generating`): the
/// same settings and seed give the same tokens. `Model.defaults` has a model's own.
public struct Settings: Hashable, Sendable {
    /// 0: always the most likely token.
    public var temperature = 0.0
    /// Keep this many of the most likely tokens; 0: all.
    public var topK = 0
    /// Keep the fewest tokens whose probabilities add up to this; 1: all.
    public var topP = 1.0
    /// Drop tokens less likely than this times the most likely one.
    public var minP = 0.0
    /// Weaken tokens of the prompt and the text; 1: off.
    public var repetitionPenalty = 1.0
    /// OpenAI's, from -2 to 2; they count the new text.
    public var presencePenalty = 0.0
    public var frequencyPenalty = 0.0
    /// nil: another one each time.
    public var seed: UInt64?
    /// nil: as many as the context holds.
    public var maxNewTokens: Int? = 256
    /// The text ends before the first of these.
    public var stop: [String] = []
    /// Never print U+FFFD.
    public var banReplacement = false
    /// Continue past the end of the text.
    public var ignoreEOS = false
    /// Added to the logits of these ids.
    public var logitBias: [UInt32: Float] = [:]
    /// Ids that are never chosen.
    public var banned: [UInt32] = []
    /// Never repeat so many tokens in a row; 0: off.
    public var noRepeatNgramSize = 0

    public init() {}

    /// Those that a file asks for.
    init(_ file: Bytes) throws {
        var own = ek_generating()
        try check { ek_generating_defaults(file.start, file.count, &own, $0) }
        let sampling = own.sampling
        (temperature, topK, topP, minP) = (sampling.temperature, Int(sampling.top_k), sampling.top_p, sampling.min_p)
        repetitionPenalty = sampling.repetition_penalty
        maxNewTokens = own.max_new_tokens > 0 ? Int(own.max_new_tokens) : nil
    }

    /// Calls `body` with the engine's form of these settings; the pointers in it are valid until `body` returns.
    func withEngine<Result>(seed: UInt64, _ body: (inout ek_generating) throws -> Result) throws -> Result {
        var settings = ek_generating()
        ek_sampling_defaults(&settings.sampling)
        settings.sampling.temperature = temperature
        settings.sampling.top_k = try Settings.unsigned("top_k", topK)
        settings.sampling.top_p = topP
        settings.sampling.min_p = minP
        settings.sampling.repetition_penalty = repetitionPenalty
        settings.sampling.presence_penalty = presencePenalty
        settings.sampling.frequency_penalty = frequencyPenalty
        settings.sampling.no_repeat_ngram_size = try Settings.unsigned("no_repeat_ngram_size", noRepeatNgramSize)
        settings.sampling.seed = seed
        settings.max_new_tokens = try maxNewTokens.map { try Settings.unsigned("max_new_tokens", $0, least: 1) } ?? 0
        settings.ignore_ends = ignoreEOS ? 1 : 0
        settings.ban_replacement = banReplacement ? 1 : 0
        let biases = logitBias.sorted { $0.key < $1.key }
        return try biases.map(\.key).withUnsafeBufferPointer { biased in
            try biases.map(\.value).withUnsafeBufferPointer { values in
                try banned.withUnsafeBufferPointer { never in
                    (settings.sampling.bias_ids, settings.sampling.biases) = (biased.baseAddress, values.baseAddress)
                    (settings.sampling.bias_count, settings.sampling.banned) = (UInt32(biased.count), never.baseAddress)
                    settings.sampling.banned_count = UInt32(never.count)
                    return try body(&settings)
                }
            }
        }
    }

    private static func unsigned(_ name: String, _ value: Int, least: UInt32 = 0) throws -> UInt32 {
        guard let number = UInt32(exactly: value), number >= least else {
            throw EdgekitError(.argument, "\(name) must be a whole number of at least \(least), not \(value)")
        }
        return number
    }
}
