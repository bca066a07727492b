package edgekit

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A tokenizer file that is damaged, foreign, or of a kind that this core does not support. */
class VocabularyException(message: String) : Exception(message)

/** Stands for "no id" and "no record". */
const val NONE = 0xffffff

/**
 * A TokenMonster `.vocab` (edgekit/tokenizers/tokenmonster/vocab_file.py): UTF-8, NFD or no normalisation, capcode level 0 or 1.
 *
 * A token is stored as a record. A word-like token may have a second record with the same id, whose bytes start with the
 * delete marker and a space. Throws [VocabularyException].
 */
class Vocabulary(data: ByteArray) {
    val capcode: Int
    val nfd: Boolean
    val unk: Int
    val deleteToken: Int

    /** All ids are below it. */
    val tableSize: Int
    val count: Int
    val bytes: Array<ByteArray>
    val flags: IntArray
    val words: IntArray
    val alternatives: Array<IntArray>
    val id: IntArray

    /** Class of a byte that follows a token: 1 letter, 2 other, 3 space, 0 undecided. */
    val follow: IntArray
    private val pieces: Array<ByteArray?>

    init {
        val input = ByteBuffer.wrap(data).order(ByteOrder.LITTLE_ENDIAN)
        fun u8() = input.get().toInt() and 0xff
        fun u24() = u8() or (u8() shl 8) or (u8() shl 16)
        try {
            capcode = u8()
            val charset = u8()
            val normalization = u8()
            if (capcode > 1 || charset > 1 || normalization > 1) {
                throw VocabularyException("capcode $capcode, charset $charset, normalisation $normalization: not supported here")
            }
            nfd = normalization == 1
            input.position(8)
            unk = u24()
            u24() // ids in use
            tableSize = u24()
            count = u24()
            deleteToken = u24()
            u8() // the longest record
            if (count > data.size / 17) throw VocabularyException("damaged: $count records in ${data.size} bytes")
            flags = IntArray(count)
            words = IntArray(count)
            id = IntArray(count)
            pieces = arrayOfNulls(tableSize)
            alternatives = Array(count) { IntArray(2) }
            bytes = Array(count) { i ->
                val token = ByteArray(u8()).also(input::get)
                flags[i] = u8()
                words[i] = u8()
                for (k in 0..1) {
                    alternatives[i][k] = u24()
                    if (alternatives[i][k] != NONE && alternatives[i][k] >= i) throw VocabularyException("damaged: record $i")
                }
                id[i] = u24()
                if (id[i] >= tableSize) throw VocabularyException("damaged: record $i has id ${id[i]}")
                input.getFloat() // the score from training
                pieces[id[i]] = token // an id decodes to its last record
                token
            }
            follow = IntArray(256) { mapOf(1 to 1, 10 to 2, 12 to 3)[u8()] ?: 0 }
        } catch (error: java.nio.BufferUnderflowException) {
            throw VocabularyException("damaged: the file is truncated")
        }
    }

    private val matcher by lazy { Matcher(this) }

    /** Ids of a text. */
    fun encode(text: String): List<Int> = matcher.encode(normalize(text, nfd, capcode))

    /** The bytes of an id before delete markers are applied; empty for an unused id. */
    fun piece(id: Int): ByteArray = pieces.getOrNull(id) ?: ByteArray(0)
}
