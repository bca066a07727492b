/// An error with a one-line message for people.
public struct EdgekitError: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// Stands for "no id" and "no record".
let none = 0xffffff

/// A TokenMonster `.vocab` (edgekit/tokenizers/tokenmonster/vocab_file.py): UTF-8, NFD or no normalisation, capcode level 0 or 1.
///
/// A token is stored as a record. A word-like token may have a second record with the same id, whose bytes start with the
/// delete marker and a space.
public final class Vocabulary {
    public let capcode: Int
    public let nfd: Bool
    let unk: Int
    let deleteToken: Int
    /// All ids are below it.
    public let tableSize: Int
    private(set) var bytes: [[UInt8]] = []
    private(set) var flags: [Int] = []
    private(set) var words: [Int] = []
    private(set) var alternatives: [[Int]] = []
    private(set) var id: [Int] = []
    /// Class of a byte that follows a token: 1 letter, 2 other, 3 space, 0 undecided.
    private(set) var follow: [Int] = []
    private var pieces: [[UInt8]]
    private lazy var matcher = Matcher(self)

    public init(_ data: [UInt8]) throws {
        var input = Reader(data)
        capcode = try input.u8()
        let charset = try input.u8()
        let normalization = try input.u8()
        if capcode > 1 || charset > 1 || normalization > 1 {
            throw EdgekitError("capcode \(capcode), charset \(charset), normalisation \(normalization): not supported here")
        }
        nfd = normalization == 1
        input.at = 8
        unk = try input.u24()
        _ = try input.u24()  // ids in use
        tableSize = try input.u24()
        let count = try input.u24()
        deleteToken = try input.u24()
        _ = try input.u8()  // the longest record
        pieces = Array(repeating: [], count: tableSize)
        for i in 0..<count {
            let token = try input.take(input.u8())
            bytes.append(token)
            flags.append(try input.u8())
            words.append(try input.u8())
            let named = [try input.u24(), try input.u24()].filter { $0 != none }
            let tokenId = try input.u24()
            _ = try input.take(4)  // the score from training
            if tokenId >= tableSize || named.contains(where: { $0 >= i }) { throw EdgekitError("damaged: record \(i)") }
            alternatives.append(named)
            id.append(tokenId)
            pieces[tokenId] = token  // an id decodes to its last record
        }
        follow = try input.take(256).map { [1: 1, 10: 2, 12: 3][$0] ?? 0 }
    }

    /// Ids of a text.
    public func encode(_ text: String) -> [Int] { matcher.encode(normalize(text, nfd: nfd, capcode: capcode)) }

    /// The bytes of an id before delete markers are applied; empty for an unused id.
    func piece(_ id: Int) -> [UInt8] { pieces.indices.contains(id) ? pieces[id] : [] }
}

private struct Reader {
    let data: [UInt8]
    var at = 0
    init(_ data: [UInt8]) { self.data = data }

    mutating func take(_ count: Int) throws -> [UInt8] {
        if at + count > data.count { throw EdgekitError("damaged: the file is truncated") }
        defer { at += count }
        return Array(data[at..<at + count])
    }

    mutating func u8() throws -> Int { Int(try take(1)[0]) }

    mutating func u24() throws -> Int {
        let part = try take(3)
        return Int(part[0]) | Int(part[1]) << 8 | Int(part[2]) << 16
    }
}
