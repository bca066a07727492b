import Foundation

// From text to the byte stream that tokens are written in, and back (edgekit/capcode.py, level 1).
//
// Character classes and NFD are those of the system's own Unicode; the vocabularies were made with Unicode 13, so characters
// that are newer may be split otherwise. The limit of 30 combining marks in a row (UAX 15, stream-safe) is left out.

private let marker: UInt8 = 0x7f

/// The stream that tokens are matched in: NFD, and at level 1 a marker and a space before a word that has none.
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

/// Turns ids into text as they come. Held back are a delete marker that waits for its character and half a character;
/// ill-formed UTF-8 becomes U+FFFD, as Python's decoder shows it.
public final class Decoder {
    private let vocabulary: Vocabulary
    private var delete = false
    private var held: [UInt8] = []

    public init(_ vocabulary: Vocabulary) { self.vocabulary = vocabulary }

    /// The text that is certain after this id.
    public func feed(_ id: Int) -> String {
        for byte in vocabulary.piece(id) {
            if vocabulary.capcode == 0 {
                held.append(byte)
            } else if delete {  // the marker takes the next byte with it, whatever that is
                delete = false
            } else if byte == marker {
                delete = true
            } else {
                held.append(byte)
            }
        }
        return read()
    }

    /// The text still held back; the decoder starts anew.
    public func flush() -> String {
        let surrogate = held.count > 1 && held[0] == 0xed && held[1] >= 0xa0
        defer {
            held = []
            delete = false
        }
        return String(repeating: "\u{fffd}", count: surrogate ? 2 : min(held.count, 1))
    }

    private func read() -> String {
        var out = ""
        var at = 0
        while at < held.count {
            let length = measure(at)
            if length == 0 { break }
            out += length < 0 ? "\u{fffd}" : String(decoding: held[at..<at + length], as: UTF8.self)
            at += abs(length)
        }
        held.removeFirst(at)
        return out
    }

    /// n > 0: a character of n bytes begins here; n < 0: an ill-formed part of -n bytes; 0: the rest is still to come.
    private func measure(_ at: Int) -> Int {
        let lead = held[at]
        if lead < 0x80 { return 1 }
        if lead < 0xc2 || lead > 0xf4 { return -1 }
        let length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
        var low: UInt8 = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80
        var high: UInt8 = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf
        for k in 1..<length {
            if at + k >= held.count { return 0 }
            let byte = held[at + k]
            // A surrogate is ill-formed whatever follows, but Python's decoder waits for a third byte.
            if lead == 0xed && k == 1 && (0xa0...0xbf).contains(byte) && at + 2 == held.count { return 0 }
            if byte < low || byte > high { return -k }
            low = 0x80
            high = 0xbf
        }
        return length
    }
}
