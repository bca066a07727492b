// Flags of a record.
private let endsLetter = 1
private let beginsLetter = 2
private let beginsSpace = 4
private let endsMarker = 8
private let beginsMarker = 16
private let wholeWord = 32
private let uniformFlag = 128

private let letter = 1
private let space = 3

/// TokenMonster's choice of tokens (edgekit/tokenizers/tokenmonster/matcher.py): a normalised byte stream in, ids out.
///
/// At each step the candidates are the longest match and up to two shorter alternatives from the vocabulary. Each is scored
/// together with the longest match after it, with and without a delete marker and a space in between. The constants come
/// from the reference library.
final class Matcher {
    private unowned let v: Vocabulary
    /// All records as one tree: from 256 node + byte to the child node.
    private var children: [Int: Int] = [:]
    private var ends: [Int] = [-1]  // node -> the record that ends there
    private var afterSpace = 0  // the node after a space

    init(_ vocabulary: Vocabulary) {
        v = vocabulary
        for (record, token) in v.bytes.enumerated() {
            var node = 0
            for byte in token {
                let edge = 256 * node + Int(byte)
                if let next = children[edge] {
                    node = next
                } else {
                    node = ends.count
                    children[edge] = node
                    ends.append(-1)
                }
            }
            ends[node] = record
        }
        afterSpace = children[32] ?? 0
    }

    /// The longest record that begins at `from`, searched from node `start`; -1 if there is none.
    private func longest(_ data: [UInt8], _ from: Int, _ start: Int) -> Int {
        var node = start
        var best = ends[node]
        var at = from
        while at < data.count, let next = children[256 * node + Int(data[at])] {
            node = next
            if ends[node] >= 0 { best = ends[node] }
            at += 1
        }
        return best
    }

    private func has(_ record: Int, _ flag: Int) -> Int { v.flags[record] & flag != 0 ? 1 : 0 }

    private func first(_ record: Int, _ carry: Int) -> Int {
        let words = v.words[record] - carry
        return v.bytes[record].count - carry + has(record, uniformFlag) + max(0, words - 1) + 100 * words
    }

    /// The score of `next` after `first`; `virtual` if its leading space is not in the text.
    private func second(_ first: Int, _ next: Int, _ after: Int, virtual: Bool) -> Int {
        let splitsWord = has(first, endsLetter)
        var score = self.first(next, 0) + (after == space ? 1 : 0) + (after > letter ? 100 : 0)
        if after == letter { score -= 3 * has(next, endsLetter) }
        score -= 100 * has(first, endsMarker) * has(next, beginsMarker)
        if virtual { return score - 2 - 103 * splitsWord }
        return score + has(next, beginsSpace) - 103 * splitsWord * has(next, beginsLetter)
    }

    private struct Candidate {
        var score = Int.min
        var first = 0
        var at = 0
        var next = 0
    }

    func encode(_ data: [UInt8]) -> [Int] {
        var out: [Int] = []
        let classAt = { (at: Int) in self.v.follow[at < data.count ? Int(data[at]) : 0] }
        var place = 0
        while place < data.count {
            var token = longest(data, place, 0)
            if token < 0 {
                if v.unk != none { out.append(v.unk) }
                place += 1
                continue
            }
            var carry = 0  // 1 while the leading space of the token is virtual
            while true {
                let end = place + v.bytes[token].count - carry
                var best = Candidate()
                var joined = Candidate()
                let settled = end == data.count || (has(token, wholeWord) == 1 && classAt(end) == space)
                for first in settled ? [] : [token] + v.alternatives[token] {
                    let at = place + v.bytes[first].count - carry
                    let next = longest(data, at, 0)
                    if next < 0 { continue }
                    let candidate = { (other: Int, stop: Int, virtual: Bool) -> Candidate in
                        var score = self.first(first, carry) + self.second(first, other, classAt(stop), virtual: virtual)
                        if stop <= end { score -= stop < end ? 100 : 10000 }
                        return Candidate(score: score, first: first, at: at, next: other)
                    }
                    let stop = at + v.bytes[next].count
                    let plain = candidate(next, stop, false)
                    if plain.score > best.score { best = plain }
                    // The next token would stop inside a word: one that begins with a space may be better, after a marker.
                    let joinable = has(next, beginsLetter) == 1 && v.words[next] == 0 && classAt(stop) == letter
                    if !joinable || v.deleteToken == none || afterSpace == 0 { continue }
                    let other = longest(data, at, afterSpace)
                    if other < 0 || v.bytes[other].count <= v.bytes[next].count + 1 { continue }
                    let virtual = candidate(other, at + v.bytes[other].count - 1, true)
                    if virtual.score > joined.score { joined = virtual }
                }
                if best.score == Int.min {
                    out.append(v.id[token])
                    place = end
                    break
                }
                carry = joined.score > best.score ? 1 : 0
                let chosen = carry == 1 ? joined : best
                out.append(v.id[chosen.first])
                if carry == 1 { out.append(v.deleteToken) }
                place = chosen.at
                token = chosen.next
            }
        }
        return out
    }
}
