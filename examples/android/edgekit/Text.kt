package edgekit

import java.text.Normalizer

// Converts text to the byte stream that tokens are matched in, and back (edgekit/tokenizers/tokenmonster/capcode.py, level 1).
//
// Character classes and NFD use the system's Unicode version. The vocabularies were built with Unicode 13, so newer
// characters may be split differently. The limit of 30 combining marks in a row (UAX 15, stream-safe) is not implemented.

private const val MARKER = 0x7f

/** The stream that tokens are matched in: NFD, and at level 1 a marker and a space before a word without a space. */
internal fun normalize(source: String, nfd: Boolean, capcode: Int): ByteArray {
    val text = if (nfd) Normalizer.normalize(source, Normalizer.Form.NFD) else source
    if (capcode == 0) return text.toByteArray()
    val out = StringBuilder()
    var earlier = '^'
    var previous = '^'
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        val kind = kindOf(point)
        val joined = when (kind) {
            'l' -> previous in "Sml" || (previous == 'A' && earlier == 'l')
            'n' -> previous in "Sn"
            else -> true
        }
        if (!joined) out.append(MARKER.toChar()).append(' ')
        out.appendCodePoint(if (point == MARKER) 0x14 else point)
        earlier = previous
        previous = kind
        at += Character.charCount(point)
    }
    return out.toString().toByteArray()
}

/** S space, A apostrophe, l letter, n number, m mark, o other. */
private fun kindOf(point: Int): Char = when {
    point == ' '.code -> 'S'
    point == '\''.code || point == 0x2019 -> 'A'
    Character.isLetter(point) -> 'l'
    else -> when (Character.getType(point).toByte()) {
        Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER -> 'n'
        Character.NON_SPACING_MARK, Character.COMBINING_SPACING_MARK, Character.ENCLOSING_MARK -> 'm'
        else -> 'o'
    }
}

/**
 * Streaming decoder from ids to text. It withholds incomplete characters and applies delete markers; ill-formed UTF-8
 * becomes U+FFFD, as in Python's decoder.
 */
class Decoder(private val vocabulary: Vocabulary) {
    private var delete = false
    private var pending = ByteArray(0)

    /** The text that is certain after this id. */
    fun feed(id: Int): String {
        var bytes = vocabulary.piece(id)
        if (vocabulary.capcode == 1) {
            // The marker deletes the next byte, whatever it is.
            bytes = bytes.filter { byte ->
                val drop = delete || byte.toInt() == MARKER
                delete = !delete && byte.toInt() == MARKER
                !drop
            }.toByteArray()
        }
        return read(pending + bytes)
    }

    /** The withheld text; resets the decoder. */
    fun flush(): String {
        val surrogate = pending.size > 1 && pending[0] == 0xed.toByte() && pending[1] >= 0xa0.toByte()
        val rest = "\ufffd".repeat(if (surrogate) 2 else minOf(pending.size, 1))
        pending = ByteArray(0)
        delete = false
        return rest
    }

    private fun read(bytes: ByteArray): String {
        val out = StringBuilder()
        var at = 0
        while (at < bytes.size) {
            val length = measure(bytes, at)
            if (length == 0) break
            if (length < 0) out.append('\ufffd') else out.append(String(bytes, at, length, Charsets.UTF_8))
            at += Math.abs(length)
        }
        pending = bytes.copyOfRange(at, bytes.size)
        return out.toString()
    }

    /** n > 0: a character of n bytes begins here; n < 0: an ill-formed part of -n bytes; 0: more bytes are needed. */
    private fun measure(bytes: ByteArray, at: Int): Int {
        val lead = bytes[at].toInt() and 0xff
        if (lead < 0x80) return 1
        if (lead < 0xc2 || lead > 0xf4) return -1
        val length = if (lead < 0xe0) 2 else if (lead < 0xf0) 3 else 4
        var low = when (lead) { 0xe0 -> 0xa0; 0xf0 -> 0x90; else -> 0x80 }
        var high = when (lead) { 0xed -> 0x9f; 0xf4 -> 0x8f; else -> 0xbf }
        for (k in 1 until length) {
            if (at + k >= bytes.size) return 0
            val byte = bytes[at + k].toInt() and 0xff
            // A surrogate is ill-formed in any case, but Python's decoder waits for a third byte.
            if (lead == 0xed && k == 1 && byte in 0xa0..0xbf && at + 2 == bytes.size) return 0
            if (byte < low || byte > high) return -k
            low = 0x80
            high = 0xbf
        }
        return length
    }
}
