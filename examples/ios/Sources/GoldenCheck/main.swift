// Compares the package with edgekit in Python: examples/golden/golden.json, which examples/golden/make.py describes.
//
//     swift run -c release GoldenCheck examples/golden/golden.json story-7m-q4_0=story.gguf
//
// Then what a file that is no model, a prompt that is too long and a cancelled task lead to. Exits with 1 if anything is
// wrong.
import Edgekit
import Foundation

typealias Case = [String: Any]

struct Usage: Error {}

var right = 0, wrong = 0

func compare(_ what: String, _ isRight: Bool) {
    right += isRight ? 1 : 0
    wrong += isRight ? 0 : 1
    if !isRight { print("\(what) differs") }
}

/// Swift's own comparison takes a letter with its accent and the composed letter for the same.
func same(_ a: [String], _ b: Any?) -> Bool { a.map { Array($0.utf8) } == (b as? [String])?.map { Array($0.utf8) } }

func ids(_ value: Any?) -> [UInt32] { (value as? [NSNumber] ?? []).map(\.uint32Value) }

/// Foundation reads some numbers as decimals, whose conversion to binary is off by a bit; their text is exact.
func double(_ value: Any) -> Double { Double((value as! NSNumber).stringValue)! }

func settings(_ given: Case, _ defaults: Settings) -> Settings {
    var result = defaults
    for (name, value) in given {
        switch name {
        case "temperature": result.temperature = double(value)
        case "top_k": result.topK = (value as! NSNumber).intValue
        case "top_p": result.topP = double(value)
        case "min_p": result.minP = double(value)
        case "repetition_penalty": result.repetitionPenalty = double(value)
        case "presence_penalty": result.presencePenalty = double(value)
        case "frequency_penalty": result.frequencyPenalty = double(value)
        case "seed": result.seed = UInt64(value as! String)
        case "max_new_tokens": result.maxNewTokens = (value as! NSNumber).intValue
        case "stop": result.stop = value as! [String]
        default: fatalError("a setting that this program does not know: \(name)")
        }
    }
    return result
}

func hash(_ values: [Float]) -> String {
    var result: UInt64 = 0xcbf2_9ce4_8422_2325
    for value in values {
        for shift: UInt32 in [0, 8, 16, 24] {
            result = (result ^ UInt64(value.bitPattern >> shift & 255)) &* 0x100_0000_01b3
        }
    }
    let digits = String(result, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}

func checkModel(_ name: String, _ path: String, _ golden: Case) async throws {
    let model = try Model(path: path)
    for (i, each) in (golden["encode"] as! [Case]).enumerated() {
        try compare("\(name) encode \(i)", model.encode(each["text"] as! String, bos: false) == ids(each["ids"]))
    }
    for (i, each) in (golden["decode"] as! [Case]).enumerated() {
        compare("\(name) decode \(i)", same(model.pieces(ids(each["ids"])), each["pieces"]))
    }
    for (i, each) in (golden["logits"] as! [Case]).enumerated() {
        var options = Options()
        options.cache = ["f16": .float16, "f32": .float32, "int8": .int8][each["kv"] as! String]!
        options.direct = i % 2 == 1
        options.threads = 1 + i
        let values = try await Model(path: path, options).logits(ids(each["ids"]))
        compare("\(name) logits \(i)", hash(values) == each["fnv1a64"] as! String)
    }
    for (i, each) in (golden["texts"] as! [Case]).enumerated() {
        let prompt = each["prompt"] as! String, chosen = settings(each["settings"] as! Case, model.defaults)
        var pieces: [String] = []
        for try await piece in model.stream(prompt, chosen) { pieces.append(piece) }
        compare("\(name) pieces \(i)", same(pieces, each["pieces"]))
        let whole = try await model.generate(prompt, chosen)  // the prompt is in the cache already
        compare("\(name) prompt \(i)", whole.prompt == ids(each["prompt_ids"]))
        compare("\(name) ids \(i)", whole.tokens == ids(each["ids"]))
        compare("\(name) text \(i)", whole.text == pieces.joined())
        compare("\(name) finish \(i)", whole.finish.rawValue == each["finish"] as! String)
    }
    try await checkErrors(name, path, model)
}

func fails(_ what: String, _ kind: EdgekitError.Kind, _ words: String, _ body: () async throws -> Void) async {
    do {
        try await body()
        compare("\(what): there was no error, which", false)
    } catch let error as EdgekitError {
        compare("\(what): \(error)", error.kind == kind && (words.isEmpty || error.message.contains(words)))
    } catch {
        compare("\(what): \(error)", false)
    }
}

func checkErrors(_ name: String, _ path: String, _ model: Model) async throws {
    let file = try Data(contentsOf: URL(fileURLWithPath: path))
    let other = Data("not a model, but some text of a few words".utf8)
    await fails("no file", .file, "No such file") { _ = try Model(path: path + ".absent") }
    await fails("a folder", .file, "not a file") { _ = try Model(path: "/") }
    await fails("no bytes", .damaged, "empty") { _ = try Model(data: Data()) }
    await fails("another format", .damaged, "GGUF") { _ = try Model(data: other) }
    for length in stride(from: 1, to: file.count, by: file.count / 40) {
        await fails("\(name) cut at \(length)", .damaged, "") { _ = try Model(data: file.prefix(length)) }
    }
    var options = Options()
    options.context = 1 << 31
    await fails("a huge context", .unsupported, "context") { _ = try Model(data: file, options) }
    #if os(Linux)  // other systems promise memory that they do not have
    if model.info.parameters > 1_000_000 {
        (options.context, options.cache) = (1 << 24, .float32)  // more than 100 GB
        await fails("no memory", .memory, "cannot be had") { _ = try Model(data: file, options) }
    }
    #endif
    options.context = -1
    await fails("a context below 0", .argument, "context") { _ = try Model(data: file, options) }
    (options.context, options.threads) = (8, 300)
    await fails("too many threads", .argument, "threads") { _ = try Model(data: file, options) }
    options.threads = 1
    let short = try Model(data: file, options)
    await fails("a long prompt", .context, "context") { _ = try await short.generate("Once upon a time in a far land") }
    await fails("no token", .argument, "empty") { _ = try await short.generate([]) }
    await fails("no such token", .argument, "vocabulary") { _ = try await short.generate([1 << 30]) }
    await fails("no such token", .argument, "vocabulary") { _ = try await short.logits([1 << 30]) }
    await fails("too many tokens", .context, "8") { _ = try await short.logits(Array(repeating: 5, count: 9)) }
    let wrongs: [(String, (inout Settings) -> Void)] = [
        ("temperature", { $0.temperature = -1 }), ("top_p", { $0.topP = 1.5 }), ("min_p", { $0.minP = .nan }),
        ("top_k", { $0.topK = -1 }), ("max_new_tokens", { $0.maxNewTokens = 0 }), ("stop", { $0.stop = [""] }),
        ("NUL", { $0.stop = ["\0"] }), ("banned", { $0.banned = [1 << 30] }), ("bias", { $0.logitBias = [1 << 30: 1] }),
        ("repetition_penalty", { $0.repetitionPenalty = 0 }),
    ]
    for (words, change) in wrongs {
        var settings = model.defaults
        change(&settings)
        await fails(words, .argument, words) { _ = try await model.generate("The", settings) }
    }
    var none = model.defaults
    none.banned = Array(0..<UInt32(model.info.vocabulary))
    await fails("all banned", .noToken, "banned") { _ = try await model.generate("The", none) }
    try await checkOrder(model)
}

/// Texts that end early, and two at once.
func checkOrder(_ model: Model) async throws {
    var settings = model.defaults
    (settings.seed, settings.maxNewTokens, settings.ignoreEOS) = (1, 30, true)
    let whole = try await model.generate("The sun", settings)
    let chosen = settings
    let task = Task {
        var steps = 0
        for try await step in model.steps("The sun", chosen) {
            steps += 1
            if steps == 3 { withUnsafeCurrentTask { $0?.cancel() } }
            if let finish = step.finish { return (steps, finish, step.token) }
        }
        return (steps, Finish.length, nil)
    }
    let (steps, finish, token) = try await task.value
    compare("a cancelled text", steps == 4 && finish == .cancelled && token == nil)
    var some: [UInt32] = []
    for try await step in model.steps("The sun", settings) {
        some.append(step.token!)
        if some.count == 5 { break }
    }
    compare("a text that was left", some == Array(whole.tokens[..<5]))
    var first = model.stream("The sun", settings).makeAsyncIterator()
    _ = try await first.next()
    compare("the next text", try await model.generate("The sun", settings).tokens == whole.tokens)
    let old = first
    await fails("a text after another has begun", .argument, "another text") {
        var old = old
        _ = try await old.next()
    }
    compare("an empty prompt", try await model.generate("", settings).prompt.count == 1)
}

do {
    let arguments = CommandLine.arguments.dropFirst()
    guard let file = arguments.first, arguments.count > 1 else { throw Usage() }
    let golden = try JSONSerialization.jsonObject(with: Data(contentsOf: URL(fileURLWithPath: file))) as! Case
    for argument in arguments.dropFirst() {
        let parts = argument.split(separator: "=", maxSplits: 1).map(String.init)
        guard parts.count == 2, let model = (golden["models"] as! Case)[parts[0]] as? Case else { throw Usage() }
        try await checkModel(parts[0], parts[1], model)
    }
    print(wrong > 0 ? "\(wrong) differ" : "\(right) comparisons, all right")
} catch is Usage {
    print("usage: GoldenCheck golden.json NAME=FILE.gguf ...")
    wrong += 1
} catch {
    print("GoldenCheck: \(error)")
    wrong += 1
}
exit(wrong > 0 ? 1 : 0)
