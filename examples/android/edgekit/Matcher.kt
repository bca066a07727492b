package edgekit

// Flags of a record.
private const val ENDS_LETTER = 1
private const val BEGINS_LETTER = 2
private const val BEGINS_SPACE = 4
private const val ENDS_MARKER = 8
private const val BEGINS_MARKER = 16
private const val WHOLE_WORD = 32
private const val UNIFORM = 128

private const val LETTER = 1
private const val SPACE = 3
private const val WORST = Int.MIN_VALUE

/**
 * TokenMonster's choice of tokens (edgekit/tokenizers/tokenmonster/matcher.py): a normalised byte stream in, ids out.
 *
 * At each step the candidates are the longest match and up to two shorter alternatives from the vocabulary. Each is scored
 * together with the longest match after it, with and without a delete marker and a space in between. The constants come
 * from the reference library.
 */
internal class Matcher(private val v: Vocabulary) {
    // All records as one tree. Its edges are in a hash table from (node, byte) to the child node.
    private val slots = Integer.highestOneBit(v.bytes.sumOf { it.size } + 8) * 4
    private val keys = LongArray(slots) { -1 }
    private val children = IntArray(slots)
    private val ends = IntArray(v.bytes.sumOf { it.size } + 1) { -1 } // node -> the record that ends there
    private val afterSpace: Int // the node after a space

    init {
        var nodes = 1
        v.bytes.forEachIndexed { record, token ->
            var node = 0
            for (byte in token) {
                val at = slot(node, byte.toInt() and 0xff)
                if (keys[at] < 0) {
                    keys[at] = node * 256L + (byte.toInt() and 0xff)
                    children[at] = nodes++
                }
                node = children[at]
            }
            ends[node] = record
        }
        afterSpace = child(0, 32)
    }

    private fun slot(node: Int, byte: Int): Int {
        val key = node * 256L + byte
        var at = ((key * -0x61c8864680b583ebL) ushr 32).toInt() and (slots - 1)
        while (keys[at] >= 0 && keys[at] != key) at = (at + 1) and (slots - 1)
        return at
    }

    private fun child(node: Int, byte: Int) = slot(node, byte).let { if (keys[it] < 0) 0 else children[it] }

    /** The longest record that begins at [from], searched from node [start]; -1 if there is none. */
    private fun longest(data: ByteArray, from: Int, start: Int): Int {
        var node = start
        var best = ends[node]
        for (at in from until data.size) {
            node = child(node, data[at].toInt() and 0xff)
            if (node == 0) break
            if (ends[node] >= 0) best = ends[node]
        }
        return best
    }

    private fun has(record: Int, flag: Int) = if (v.flags[record] and flag != 0) 1 else 0

    private fun first(record: Int, carry: Int): Int {
        val words = v.words[record] - carry
        return v.bytes[record].size - carry + has(record, UNIFORM) + maxOf(0, words - 1) + 100 * words
    }

    /** The score of [next] after [first]; [virtual] if its leading space is not in the text. */
    private fun second(first: Int, next: Int, after: Int, virtual: Boolean): Int {
        val splitsWord = has(first, ENDS_LETTER)
        var score = first(next, 0) + (if (after == SPACE) 1 else 0) + (if (after > LETTER) 100 else 0)
        if (after == LETTER) score -= 3 * has(next, ENDS_LETTER)
        score -= 100 * has(first, ENDS_MARKER) * has(next, BEGINS_MARKER)
        return if (virtual) score - 2 - 103 * splitsWord
        else score + has(next, BEGINS_SPACE) - 103 * splitsWord * has(next, BEGINS_LETTER)
    }

    fun encode(data: ByteArray): List<Int> {
        val out = ArrayList<Int>()
        fun classAt(at: Int) = v.follow[if (at < data.size) data[at].toInt() and 0xff else 0]
        var place = 0
        while (place < data.size) {
            var token = longest(data, place, 0)
            if (token < 0) {
                if (v.unk != NONE) out += v.unk
                place++
                continue
            }
            var carry = 0 // 1 while the leading space of the token is virtual
            while (true) {
                val end = place + v.bytes[token].size - carry
                var best: Candidate? = null
                var joined: Candidate? = null
                val settled = end == data.size || (has(token, WHOLE_WORD) == 1 && classAt(end) == SPACE)
                for (first in if (settled) emptyList() else listOf(token) + v.alternatives[token].filter { it != NONE }) {
                    val at = place + v.bytes[first].size - carry
                    val next = longest(data, at, 0)
                    if (next < 0) continue
                    fun candidate(second: Int, stop: Int, virtual: Boolean): Candidate {
                        var score = first(first, carry) + second(first, second, classAt(stop), virtual)
                        if (stop <= end) score -= if (stop < end) 100 else 10000
                        return Candidate(score, first, at, second)
                    }
                    val stop = at + v.bytes[next].size
                    candidate(next, stop, false).let { if (it.score > (best?.score ?: WORST)) best = it }
                    // The next token would stop inside a word: one that begins with a space may be better, after a marker.
                    val joinable = has(next, BEGINS_LETTER) == 1 && v.words[next] == 0 && classAt(stop) == LETTER
                    if (!joinable || v.deleteToken == NONE || afterSpace == 0) continue
                    val other = longest(data, at, afterSpace)
                    if (other < 0 || v.bytes[other].size <= v.bytes[next].size + 1) continue
                    candidate(other, at + v.bytes[other].size - 1, true)
                        .let { if (it.score > (joined?.score ?: WORST)) joined = it }
                }
                val plain = best
                if (plain == null) {
                    out += v.id[token]
                    place = end
                    break
                }
                val chosen = joined?.takeIf { it.score > plain.score } ?: plain
                out += v.id[chosen.first]
                if (chosen === joined) out += v.deleteToken
                place = chosen.at
                token = chosen.next
                carry = if (chosen === joined) 1 else 0
            }
        }
        return out
    }

    private class Candidate(val score: Int, val first: Int, val at: Int, val next: Int)
}
