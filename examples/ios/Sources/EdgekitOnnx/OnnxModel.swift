import Edgekit
import Foundation
import OnnxRuntimeBindings

/// An `.onnx` file from `edgekit convert --to onnx` on ONNX Runtime (edgekit/runtimes/onnx.py). The file contains weights,
/// configuration and vocabulary. converters/_onnx_fused.py describes the graph's inputs.
public final class OnnxModel: Runtime {
    public let vocabSize: Int
    public let contextLength: Int
    public let tokenizer: Tokenizer
    private let environment: ORTEnv
    private let session: ORTSession
    private let cacheNames: [String]
    private let cacheShape: [NSNumber]
    private var cache: [String: ORTValue] = [:]  // keys and values after the last call
    private var length = 0

    public init(path: String, threads: Int32 = 2) throws {
        let files = try metadata(Data(contentsOf: URL(fileURLWithPath: path), options: .alwaysMapped))
        func file(_ name: String) throws -> Data {
            guard let text = files["edgekit.file." + name], let data = Data(base64Encoded: text) else {
                throw EdgekitError("\(path) does not contain \(name)")
            }
            return data
        }
        func json(_ name: String) throws -> [String: Any] {
            try JSONSerialization.jsonObject(with: file(name)) as? [String: Any] ?? [:]
        }
        let config = try json("config.json")
        func number(_ name: String) -> Int? { (config[name] as? NSNumber)?.intValue }
        guard let size = number("vocab_size"), let context = number("max_position_embeddings"),
            let heads = number("num_attention_heads"), let hidden = number("hidden_size"),
            let layers = number("num_hidden_layers")
        else { throw EdgekitError("\(path): config.json is incomplete") }
        vocabSize = size
        contextLength = context
        // ONNX Runtime's attention needs a head size divisible by 16; the graph pads other sizes.
        let headSize = ((number("head_dim") ?? hidden / heads) + 15) / 16 * 16
        cacheShape = [1, number("num_key_value_heads") ?? heads, 0, headSize].map { NSNumber(value: $0) }
        cacheNames = (0..<layers).flatMap { ["\($0).key", "\($0).value"] }
        let addBos = try json("tokenizer_config.json")["add_bos_token"] as? Bool ?? false
        tokenizer = try Tokenizer(Vocabulary([UInt8](file("tokenmonster.vocab"))), vocabSize: size, addBos: addBos)
        environment = try ORTEnv(loggingLevel: .warning)
        let options = try ORTSessionOptions()
        try options.setIntraOpNumThreads(threads)
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
    }

    public func forward(_ ids: [Int]) throws -> [Float] {
        let total = length + ids.count
        var inputs = [
            "input_ids": try tensor(ids.map(Int64.init), .int64, [1, NSNumber(value: ids.count)]),
            "logit_positions": try tensor([Int64(ids.count - 1)], .int64, [1]),
            "seqlens_k": try tensor([Int32(total - 1)], .int32, [1]),
            "total_sequence_length": try tensor([Int32(total)], .int32, []),
        ]
        for name in cacheNames {
            inputs["past_key_values." + name] = try cache["present." + name] ?? tensor([Float](), .float, cacheShape)
        }
        let outputNames = Set(["logits"] + cacheNames.map { "present." + $0 })
        var outputs = try session.run(withInputs: inputs, outputNames: outputNames, runOptions: nil)
        guard let logits = outputs.removeValue(forKey: "logits") else { throw EdgekitError("the model returned no logits") }
        cache = outputs
        length = total
        let data = try logits.tensorData() as Data
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }

    public func reset() {
        cache = [:]
        length = 0
    }

    private func tensor<Number>(_ values: [Number], _ type: ORTTensorElementDataType, _ shape: [NSNumber]) throws -> ORTValue {
        // At least one element, so that an empty cache has an address.
        let data = NSMutableData(length: max(values.count, 1) * MemoryLayout<Number>.stride)!
        values.withUnsafeBytes { bytes in
            if let address = bytes.baseAddress { memcpy(data.mutableBytes, address, bytes.count) }
        }
        return try ORTValue(tensorData: data, elementType: type, shape: shape)
    }
}

/// The metadata of an `.onnx` file (ModelProto.metadata_props, field 14). ONNX Runtime's Objective-C interface does not expose
/// it. Reading the message's outermost fields is enough; the graph with its weights is one field, which is skipped.
func metadata(_ data: Data) throws -> [String: String] {
    var texts: [String: String] = [:]
    for (field, part) in try fields(data) where field == 14 {
        let entry = Dictionary(try fields(part), uniquingKeysWith: { $1 })
        if let key = entry[1], let value = entry[2] {
            texts[String(decoding: key, as: UTF8.self)] = String(decoding: value, as: UTF8.self)
        }
    }
    return texts
}

/// Number and bytes of each length-delimited field of a protobuf message; other fields are skipped.
private func fields(_ data: Data) throws -> [(Int, Data)] {
    var parts: [(Int, Data)] = []
    var at = data.startIndex
    func varint() throws -> Int {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            guard at < data.endIndex else { throw EdgekitError("the model is damaged: the file is truncated") }
            let byte = data[at]
            at += 1
            value |= UInt64(byte & 127) << shift
            if byte < 128 { break }
        }
        return Int(truncatingIfNeeded: value)
    }
    while at < data.endIndex {
        let tag = try varint()
        switch tag & 7 {
        case 0: _ = try varint()
        case 1: at += 8
        case 5: at += 4
        case 2:
            let length = try varint()
            guard length >= 0, length <= data.endIndex - at else {
                throw EdgekitError("the model is damaged: the file is truncated")
            }
            parts.append((tag >> 3, data[at..<at + length]))
            at += length
        default: throw EdgekitError("the model is damaged: not an ONNX file")
        }
    }
    return parts
}
