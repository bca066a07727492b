// Checks the core against ../golden/ports.json, without a phone. ../golden/ports.py describes the cases.
//
//     swiftc -O Sources/Edgekit/*.swift Sources/GoldenCheck/main.swift -o check
//     ./check ../golden/ports.json ../../edgekit/bundled/story-7m/tokenmonster.vocab

import Foundation

#if canImport(Edgekit)
import Edgekit
#endif

typealias Case = [String: Any]

/// Foundation parses some numbers as decimals whose conversion to binary is off by a bit; their text is exact.
func double(_ value: Any) -> Double { Double((value as! NSNumber).stringValue)! }

func settings(_ given: Case) -> Settings {
    var result = Settings()
    result.temperature = double(given["temperature"]!)
    result.topK = (given["top_k"] as? NSNumber)?.intValue ?? result.topK
    result.topP = given["top_p"].map(double) ?? result.topP
    result.minP = given["min_p"].map(double) ?? result.minP
    result.repetitionPenalty = given["repetition_penalty"].map(double) ?? result.repetitionPenalty
    result.seed = (given["seed"] as? String).flatMap { UInt64($0) }
    result.maxNewTokens = (given["max_new_tokens"] as? NSNumber)?.intValue ?? result.maxNewTokens
    result.stop = given["stop"] as? [String] ?? result.stop
    return result
}

func ints(_ values: Any?) -> [Int] { (values as! [NSNumber]).map(\.intValue) }

func scalars(_ text: String) -> [UInt32] { text.unicodeScalars.map(\.value) }

func logits(_ size: Int, _ last: Int, _ length: Int) -> [Float] {
    (0..<size).map { Float(10 * uniform(UInt64(last), length, $0)) }
}

/// Logits from the rule in ../golden/ports.py.
final class RuleRuntime: Runtime {
    let vocabSize: Int
    let contextLength: Int
    private let eos: Int
    private let eosAt: Int?
    private var length = 0

    init(_ vocabSize: Int, _ contextLength: Int, _ eos: Int, _ eosAt: Int?) {
        (self.vocabSize, self.contextLength, self.eos, self.eosAt) = (vocabSize, contextLength, eos, eosAt)
    }

    func forward(_ ids: [Int]) -> [Float] {
        length += ids.count
        var values = logits(vocabSize, ids.last!, length)
        if let at = eosAt, length >= at { values[eos] = 30 }
        return values
    }

    func reset() { length = 0 }
}

let files = CommandLine.arguments.dropFirst().map { URL(fileURLWithPath: $0) }
let golden = try JSONSerialization.jsonObject(with: Data(contentsOf: files[0])) as! Case
let size = ((golden["vocabulary"] as! Case)["vocab_size"] as! NSNumber).intValue
let tokenizer = try Tokenizer(Vocabulary([UInt8](Data(contentsOf: files[1]))), vocabSize: size)
var right = 0
var wrong = 0

func check(_ part: String, _ answer: (Case) throws -> [String: Bool]) rethrows {
    for (i, given) in (golden[part] as! [Case]).enumerated() {
        for (key, same) in try answer(given) where !same {
            print("\(part) \(i): \(key) differs")
            wrong += 1
        }
        right += 1
    }
}

// Compares code points: Swift's own comparison treats a letter with its accent as one character.
func same(_ pieces: [String], _ given: Any?) -> Bool { pieces.map(scalars) == (given as! [String]).map(scalars) }

check("encode") { ["ids": tokenizer.vocabulary.encode($0["text"] as! String) == ints($0["ids"])] }
check("decode") { given in
    let decoder = Decoder(tokenizer.vocabulary)
    return ["pieces": same(ints(given["ids"]).map(decoder.feed) + [decoder.flush()], given["pieces"])]
}
check("uniform") { given in
    let seed = UInt64(given["seed"] as! String)!
    let step = (given["step"] as! NSNumber).intValue
    let values = ints(given["ids"]).map { uniform(seed, step, $0) }
    return ["values": values == (given["values"] as! [Any]).map(double)]
}
check("sample") { given in
    let sampler = Sampler(settings(given["settings"] as! Case), vocabSize: size, prompt: ints(given["seen"]))
    return ["tokens": ints(given["rows"]).map { sampler.choose(logits(size, $0, 0)) } == ints(given["tokens"])]
}
try check("loop") { given in
    let contextLength = (given["context_length"] as! NSNumber).intValue
    let runtime = RuleRuntime(size, contextLength, tokenizer.eos, (given["eos_at"] as? NSNumber)?.intValue)
    let chosen = settings(given["settings"] as! Case)
    let story = try Story(runtime, tokenizer, prompt: given["prompt"] as! String, chosen)
    var pieces: [String] = []
    while let piece = try story.next() { pieces.append(piece) }
    return [
        "prompt_ids": story.prompt == ints(given["prompt_ids"]), "pieces": same(pieces, given["pieces"]),
        "tokens": story.tokens == ints(given["tokens"]),
        "finish_reason": story.finishReason == given["finish_reason"] as! String,
    ]
}
print(wrong > 0 ? "\(wrong) differences" : "\(right) cases, all right")
exit(wrong > 0 ? 1 : 0)
