package edgekit

import java.io.Closeable
import java.io.File
import java.io.FileDescriptor
import java.io.FileInputStream
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel

/**
 * A GGUF file on edgekit's engine. Any thread may use it; one text at a time is generated. A model that is not closed keeps
 * its memory.
 */
class Model private constructor(buffer: ByteBuffer, position: Long, length: Long, options: Options) : Closeable {
    private var handle = Native.open(buffer, position, length, options.context, options.kv.ordinal + 1, options.threads)

    /** The text that the engine is generating. */
    internal var current: TextStream? = null

    /** Runs one function of the engine: its objects belong to one thread at a time. */
    internal inline fun <T> locked(use: (Long) -> T): T = synchronized(this) { use(handle) }

    val info: Info = Native.info(handle).let {
        Info(
            vocabulary = it[0].toInt(), layers = it[1].toInt(), hidden = it[2].toInt(), context = it[3].toInt(),
            parameters = it[4], threads = it[5].toInt(), bos = it[6].toInt().takeIf { id -> id >= 0 },
            eos = it[7].toInt().takeIf { id -> id >= 0 }, instructions = String(Native.instructions(handle), Charsets.UTF_8),
        )
    }

    /**
     * The ids of a text, without BOS.
     *
     * @param special read the spelling of a special token, such as `<|im_end|>`, as that token.
     */
    fun encode(text: String, special: Boolean = false): IntArray =
        locked { Native.encode(it, utf8(text), if (special) Native.PARSE_SPECIALS else 0) }

    /** The ids to feed for a prompt: BOS first if the model wants it; for an empty one BOS, or EOS if there is none. */
    fun encodePrompt(prompt: String, special: Boolean = false): IntArray {
        val flags = Native.ADD_BOS or if (special) Native.PARSE_SPECIALS else 0
        if (prompt.isEmpty()) (info.bos ?: info.eos)?.let { return intArrayOf(it) }
        return locked { Native.encode(it, utf8(prompt), flags) }
    }

    /** The text of ids. Bytes that are no UTF-8 become U+FFFD. */
    fun decode(ids: IntArray): String = locked { String(Native.decode(it, ids, IntArray(ids.size + 1)), Charsets.UTF_8) }

    /** The text that becomes certain with each id, then what the last ones left unfinished. */
    fun pieces(ids: IntArray): List<String> {
        val ends = IntArray(ids.size + 1)
        val text = locked { Native.decode(it, ids, ends) }
        return ends.indices.map { i ->
            val begin = if (i == 0) 0 else ends[i - 1]
            String(text, begin, ends[i] - begin, Charsets.UTF_8)
        }
    }

    /** The logits after these ids, one for each id of the vocabulary. A text that is being generated ends. */
    fun logits(ids: IntArray): FloatArray = locked {
        current = null
        Native.logits(it, ids)
    }

    /**
     * Starts a text, whose pieces come as they are asked for. One that was being generated ends. The beginning that a
     * prompt has in common with the last prompt and text is not read again.
     */
    fun start(prompt: String, settings: Settings = Settings()) = start(encodePrompt(prompt), settings)

    fun start(prompt: IntArray, settings: Settings = Settings()) = TextStream(this, prompt.copyOf(), settings)

    /** A whole text. */
    fun generate(prompt: String, settings: Settings = Settings(), onPiece: (String) -> Unit = {}): TextStream =
        start(prompt, settings).apply { forEach(onPiece) }

    /** Frees the memory, once the token that is being computed is done. Twice is no error. */
    override fun close() = locked {
        handle = 0
        current = null
        Native.close(it)
    }

    companion object {
        /** Opens a file, which must not be changed before the model is closed. */
        @JvmStatic
        @JvmOverloads
        fun open(file: File, options: Options = Options()): Model = reading {
            FileInputStream(file).use { map(it.channel, 0, it.channel.size(), options) }
        }

        /** Opens a part of a file, which may be closed afterwards: an uncompressed asset, as `AssetFileDescriptor` has it. */
        @JvmStatic
        @JvmOverloads
        fun open(file: FileDescriptor, position: Long, length: Long, options: Options = Options()): Model =
            reading { map(FileInputStream(file).channel, position, length, options) }

        /** Opens a file's bytes in a direct buffer, from its position to its limit. They must not change. */
        @JvmStatic
        @JvmOverloads
        fun open(bytes: ByteBuffer, options: Options = Options()): Model =
            Model(bytes, bytes.position().toLong(), bytes.remaining().toLong(), options)

        private fun map(channel: FileChannel, position: Long, length: Long, options: Options): Model {
            if (position < 0 || length < 0 || length > channel.size() - position)
                throw EdgekitException("the file has ${channel.size()} bytes, not $length from $position on")
            if (length > Int.MAX_VALUE) throw EdgekitException("the file has more than 2 GB")
            return open(channel.map(FileChannel.MapMode.READ_ONLY, position, length), options)
        }

        private fun reading(open: () -> Model): Model =
            try { open() } catch (error: IOException) { throw EdgekitException("cannot read the model: ${error.message}") }
    }
}

/**
 * What a file's model is.
 *
 * @property vocabulary ids are smaller than it.
 * @property context tokens of prompt and text together.
 * @property bos null if there is none, or no tokenizer. `eos` too.
 * @property instructions the processor's instruction set that the engine uses, such as `dotprod`.
 */
data class Info(
    val vocabulary: Int, val layers: Int, val hidden: Int, val context: Int, val parameters: Long, val threads: Int,
    val bos: Int?, val eos: Int?, val instructions: String,
)

/** Throws for half a surrogate pair, which no UTF-8 has. */
private fun utf8(text: String): ByteArray =
    try { text.encodeToByteArray(throwOnInvalidSequence = true) }
    catch (_: CharacterCodingException) { throw EdgekitException("the text has half a surrogate pair") }
