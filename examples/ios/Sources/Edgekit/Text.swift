import Foundation

// Converts text to the byte stream that tokens are matched in, and back (edgekit/tokenizers/tokenmonster/capcode.py, level 1).
//
// Character classes and NFD use the system's Unicode version. The vocabularies were built with Unicode 13, so newer
// characters may be split differently. The limit of 30 combining marks in a row (UAX 15, stream-safe) is not implemented.

private let marker: UInt8 = 0x7f

/// The stream that tokens are matched in: NFD, and at level 1 a marker and a space before a word without a space.
func normalize(_ source: String, nfd: Bool, capcode: Int) -> [UInt8] {
    let text = nfd ? source.decomposedStringWithCanonicalMapping : source
    if capcode == 0 { return Array(text.utf8) }
    var out = String.UnicodeScalarView()
    var earlier: Character = "^"
    var previous: Character = "^"
    for scalar in text.unicodeScalars {
        let kind = kindOf(scalar)
        var joined = true
        if kind == "l" { joined = "Sml".contains(previous) || (previous == "A" && earlier == "l") }
        if kind == "n" { joined = "Sn".contains(previous) }
        if !joined { out.append(contentsOf: "\u{7f} ".unicodeScalars) }
        out.append(scalar == "\u{7f}" ? "\u{14}" : scalar)
        earlier = previous
        previous = kind
    }
    return Array(String(out).utf8)
}

/// S space, A apostrophe, l letter, n number, m mark, o other.
private func kindOf(_ scalar: Unicode.Scalar) -> Character {
    if scalar == " " { return "S" }
    if scalar == "'" || scalar == "\u{2019}" { return "A" }
    switch scalar.properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return "l"
    case .decimalNumber, .letterNumber, .otherNumber: return "n"
    case .nonspacingMark, .spacingMark, .enclosingMark: return "m"
    default: return "o"
    }
}

/// Streaming decoder from ids to text. It withholds incomplete characters and applies delete markers; ill-formed UTF-8
/// becomes U+FFFD, as in Python's decoder.
public final class Decoder {
    private let vocabulary: Vocabulary
    private var delete = false
    private var pending: [UInt8] = []

    public init(_ vocabulary: Vocabulary) { self.vocabulary = vocabulary }

    /// The text that is certain after this id.
    public func feed(_ id: Int) -> String {
        for byte in vocabulary.piece(id) {
            if vocabulary.capcode == 0 {
                pending.append(byte)
            } else if delete {  // the marker deletes the next byte, whatever it is
                delete = false
            } else if byte == marker {
                delete = true
            } else {
                pending.append(byte)
            }
        }
        return read()
    }

    /// The withheld text; resets the decoder.
    public func flush() -> String {
        let surrogate = pending.count > 1 && pending[0] == 0xed && pending[1] >= 0xa0
        defer {
            pending = []
            delete = false
        }
        return String(repeating: "\u{fffd}", count: surrogate ? 2 : min(pending.count, 1))
    }

    private func read() -> String {
        var out = ""
        var at = 0
        while at < pending.count {
            let length = measure(at)
            if length == 0 { break }
            out += length < 0 ? "\u{fffd}" : String(decoding: pending[at..<at + length], as: UTF8.self)
            at += abs(length)
        }
        pending.removeFirst(at)
        return out
    }

    /// n > 0: a character of n bytes begins here; n < 0: an ill-formed part of -n bytes; 0: more bytes are needed.
    private func measure(_ at: Int) -> Int {
        let lead = pending[at]
        if lead < 0x80 { return 1 }
        if lead < 0xc2 || lead > 0xf4 { return -1 }
        let length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
        var low: UInt8 = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80
        var high: UInt8 = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf
        for k in 1..<length {
            if at + k >= pending.count { return 0 }
            let byte = pending[at + k]
            // A surrogate is ill-formed in any case, but Python's decoder waits for a third byte.
            if lead == 0xed && k == 1 && (0xa0...0xbf).contains(byte) && at + 2 == pending.count { return 0 }
            if byte < low || byte > high { return -k }
            low = 0x80
            high = 0xbf
        }
        return length
    }
}
