import Foundation

/// As in edgekit/settings.py: temperature 0 takes the likeliest token; top-k 0, top-p 1, min-p 0 and penalty 1 are off.
public struct Settings {
    public var temperature = 0.0
    public var topK = 0
    public var topP = 1.0
    public var minP = 0.0
    public var repetitionPenalty = 1.0
    public var seed: UInt64?
    public var maxNewTokens = 256
    public var stop: [String] = []
    public init() {}
}

private let gamma: UInt64 = 0x9e37_79b9_7f4a_7c15

private func mix(_ start: UInt64) -> UInt64 {
    var x = start
    x = (x ^ (x >> 30)) &* 0xbf58_476d_1ce4_e5b9
    x = (x ^ (x >> 27)) &* 0x94d0_49bb_1331_11eb
    return x ^ (x >> 31)
}

/// A number in (0, 1) that depends on the arguments alone, the same in every language (edgekit/inference/sampling.py).
public func uniform(_ seed: UInt64, _ step: Int, _ id: Int) -> Double {
    let start = mix(mix(seed) &+ gamma &* UInt64(step + 1))
    return (Double(mix(start &+ gamma &* UInt64(id + 1)) >> 11) + 0.5) * 0x1p-53
}

/// From logits to a token, for one text (edgekit/inference/sampling.py): repetition penalty over prompt and text,
/// temperature (both in float32), top-k, top-p, min-p, then a race of exponential variables made from uniform numbers. The
/// same seed gives the same tokens.
public final class Sampler {
    public let seed: UInt64
    private let settings: Settings
    private var seen: [Bool]
    private var step = 0

    public init(_ settings: Settings, vocabSize: Int, prompt: [Int]) {
        self.settings = settings
        seed = settings.seed ?? UInt64(UInt32.random(in: 0...UInt32.max))
        seen = Array(repeating: false, count: vocabSize)
        for id in prompt { seen[id] = true }
    }

    /// The next token.
    public func choose(_ logits: [Float]) -> Int {
        var scores = logits
        let penalty = Float(settings.repetitionPenalty)
        if penalty != 1 {
            for id in scores.indices where seen[id] {
                scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty
            }
        }
        let token = settings.temperature == 0 ? scores.firstIndex(of: scores.max()!)! : sample(&scores)
        seen[token] = true
        return token
    }

    private func sample(_ scores: inout [Float]) -> Int {
        let divisor = Float(settings.temperature)
        for id in scores.indices { scores[id] /= divisor }
        let top = Double(scores.max()!)
        var ids = Array(scores.indices)
        if settings.topK > 0 && settings.topK < scores.count {
            let edge = scores.sorted()[scores.count - settings.topK]
            ids = ids.filter { scores[$0] >= edge }  // with all ties of the last one
        }
        var weights = [Double](repeating: 0, count: scores.count)
        for id in ids { weights[id] = exp(Double(scores[id]) - top) }
        if settings.topP < 1 {
            // The fewest that reach p, largest first; lower ids come first among equals.
            let sorted = ids.sorted { weights[$0] != weights[$1] ? weights[$0] > weights[$1] : $0 < $1 }
            let target = settings.topP * sorted.reduce(0) { $0 + weights[$1] }
            var sum = 0.0
            ids = sorted.prefix { id in
                defer { sum += weights[id] }
                return sum < target
            }.sorted()
        }
        let least = max(settings.minP, Double.leastNonzeroMagnitude)
        var winner = 0
        var soonest = Double.infinity
        for id in ids where weights[id] >= least {
            let time = -log(uniform(seed, step, id)) / weights[id]
            if time < soonest {
                soonest = time
                winner = id
            }
        }
        step += 1
        return winner
    }
}
