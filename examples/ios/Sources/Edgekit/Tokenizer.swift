import CEdgekit

/// A file's tokenizer; it is not changed by its use, so that any thread may call it.
final class Tokenizer: @unchecked Sendable {
    let pointer: OpaquePointer
    let facts: ek_tokenizer_info
    private let file: Bytes
    private let block: Block

    init(_ file: Bytes) throws {
        var size = 0
        try check { ek_tokenizer_size(file.start, file.count, 0, &size, $0) }
        block = try Block(size, for: "the tokenizer")
        var opened: OpaquePointer?
        let address = block.address
        try check { ek_tokenizer_open(file.start, file.count, 0, address, size, &opened, $0) }
        (pointer, self.file) = (opened!, file)
        facts = ek_tokenizer_describe(pointer).pointee
    }

    func encode(_ text: String, flags: UInt32) throws -> [UInt32] {
        var text = text
        return try text.withUTF8 { bytes in
            let work = try Block(ek_encode_size(pointer, bytes.count), for: "a text of \(bytes.count) bytes")
            // Most texts have fewer tokens than bytes; BOS and a space may come before them.
            var ids = [UInt32](repeating: 0, count: bytes.count + 2)
            let start = UnsafeRawPointer(bytes.baseAddress).map { $0.assumingMemoryBound(to: CChar.self) }
            for _ in 0..<2 {
                let count = ek_encode(pointer, start, bytes.count, flags, &ids, ids.count, work.address, work.size)
                if count < 0 {
                    throw EdgekitError(.argument, "the text has \(bytes.count) bytes: at most 2^30 are encoded")
                }
                if count <= ids.count { return Array(ids[..<Int(count)]) }
                ids = [UInt32](repeating: 0, count: Int(count))
            }
            return ids
        }
    }

    /// The pieces of text that become certain with each id, then what is left.
    func pieces(_ ids: [UInt32]) -> [String] {
        var decoder = ek_decoder()
        ek_decoder_start(&decoder, pointer)
        var buffer = [UInt8](repeating: 0, count: facts.longest)
        var pieces = ids.map { id in
            String(decoding: buffer[..<ek_decoder_feed(&decoder, id, &buffer)], as: UTF8.self)
        }
        pieces.append(String(decoding: buffer[..<ek_decoder_flush(&decoder, &buffer)], as: UTF8.self))
        return pieces
    }
}
