package edgekit

import java.io.Closeable

/**
 * A text that is being generated: an iterator of its pieces, whole characters each, computed on the thread that asks for them.
 * [text], [tokens] and [finishReason] have what there is so far. Made by [Model.start].
 *
 * @property prompt the ids that were fed to the model.
 * @property seed what the tokens are drawn with.
 */
class TextStream internal constructor(private val model: Model, val prompt: IntArray, settings: Settings) :
    Iterator<String>, Closeable {
    val seed: ULong = settings.seedOrNew()
    private val ids = ArrayList<Int>()
    private val written = StringBuilder()
    private val state = IntArray(2)
    private var piece: String? = null

    @Volatile private var cancelled = false

    /** "stop" (end of the text or a stop string), "length" (`maxNewTokens` or the context) or "cancelled"; null at first. */
    @Volatile
    var finishReason: String? = null
        private set

    /** Tokens of the prompt that were in the model's cache already, and not read again. */
    val reusedTokens: Int

    /** The new ids; the last may be one that ends a text. */
    val tokens: List<Int> get() = ids

    /** The text without the prompt's. */
    val text: String get() = written.toString()

    init {
        reusedTokens = model.locked {
            model.current = null
            Native.start(it, prompt, settings.numbers(), seed.toLong(), settings.stops()).also { model.current = this }
        }
    }

    override fun hasNext(): Boolean {
        while (piece == null && finishReason == null) piece = step().ifEmpty { null }
        return piece != null
    }

    override fun next(): String {
        if (!hasNext()) throw NoSuchElementException("the text is complete")
        return piece!!.also { piece = null }
    }

    /** Ends the text after the current token, with what was kept back of it; from any thread. */
    fun cancel() { cancelled = true }

    /** Ends the text now. */
    override fun close() {
        cancel()
        model.locked { if (model.current === this) model.current = null }
        if (finishReason == null) finishReason = "cancelled"
    }

    /** One token's text, which may be empty. */
    private fun step(): String = model.locked { handle ->
        if (handle != 0L && model.current !== this) throw EdgekitException("the model was used for something else before this text was complete")
        val bytes = if (cancelled) Native.cancel(handle, state) else Native.next(handle, state)!!
        if (state[1] != CANCELLED) ids += state[0]
        val part = String(bytes, Charsets.UTF_8)
        written.append(part)
        if (state[1] != 0) {
            finishReason = REASONS[state[1]]
            model.current = null
        }
        part
    }

    private companion object {
        const val CANCELLED = 3
        val REASONS = listOf(null, "stop", "length", "cancelled")
    }
}
