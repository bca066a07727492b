package edgekit

/** A loaded model with the one sequence in its cache. */
interface Runtime {
    val vocabSize: Int
    val contextLength: Int

    /** Append ids and return the logits after the last one. */
    fun forward(ids: List<Int>): FloatArray

    /** Forget the sequence. */
    fun reset()
}

/** A vocabulary with EOS and BOS above its ids, as in edgekit/tokenizers/tokenmonster/tokenizer.py. */
class Tokenizer(val vocabulary: Vocabulary, vocabSize: Int, private val addBos: Boolean = true) {
    val eos = vocabulary.tableSize
    val bos = vocabulary.tableSize + 1

    init {
        if (bos >= vocabSize) throw VocabularyException("$vocabSize rows are too few for $eos ids, EOS and BOS")
    }

    /** The ids to feed for a prompt. */
    fun prompt(text: String): List<Int> = (if (addBos) listOf(bos) else emptyList()) + vocabulary.encode(text)
}

/**
 * Generates a text (edgekit/inference/generate.py): iterate over [pieces]; [tokens] and [finishReason] are updated
 * meanwhile. Leaving the iteration ends the text.
 */
class Story(
    private val runtime: Runtime,
    private val tokenizer: Tokenizer,
    prompt: String,
    private val settings: Settings,
) {
    /** The ids that the model sees, BOS included. */
    val prompt = tokenizer.prompt(prompt)
    val tokens = ArrayList<Int>()

    /** "stop" (end of the text or a stop string) or "length" (maxNewTokens or the context); "cancelled" before that. */
    var finishReason = "cancelled"
        private set

    init {
        require(prompt.isNotEmpty()) { "the prompt is empty: give the model at least one character to continue from" }
        require(this.prompt.size <= runtime.contextLength) {
            "the prompt has ${this.prompt.size} tokens, but the model's context holds ${runtime.contextLength}"
        }
    }

    val pieces: Sequence<String> = sequence {
        val decoder = Decoder(tokenizer.vocabulary)
        for (id in this@Story.prompt) decoder.feed(id) // the prompt may end in half a character
        val sampler = Sampler(settings, runtime.vocabSize, this@Story.prompt)
        val text = StopText(settings.stop)
        val limit = minOf(settings.maxNewTokens, runtime.contextLength + 1 - this@Story.prompt.size)
        runtime.reset()
        var logits = runtime.forward(this@Story.prompt)
        while (true) {
            val token = sampler.choose(logits)
            tokens += token
            var reason = if (token == tokenizer.eos) "stop" else if (tokens.size >= limit) "length" else null
            var piece = text.add(if (token == tokenizer.eos) "" else decoder.feed(token))
            if (reason != null && !text.found) piece += text.add(decoder.flush()) + text.flush()
            if (text.found) reason = "stop"
            if (reason != null) finishReason = reason
            if (piece.isNotEmpty()) yield(piece)
            if (reason != null) return@sequence
            logits = runtime.forward(listOf(token))
        }
    }
}

/** Withholds text while its end may be the beginning of a stop string. */
internal class StopText(private val stops: List<String>) {
    private var pending = ""
    var found = false
        private set

    /** The text that is certain now; empty once a stop string was found. */
    fun add(piece: String): String {
        if (found) return ""
        val text = pending + piece
        val place = stops.map { text.indexOf(it) }.filter { it >= 0 }.minOrNull()
        found = place != null
        val certain = place ?: (text.length - (stops.maxOfOrNull { overlap(text, it) } ?: 0))
        pending = if (found) "" else text.substring(certain)
        return text.substring(0, certain)
    }

    fun flush(): String = pending.also { pending = "" }

    /** Length of the longest suffix of [text] that is a proper prefix of [stop]. */
    private fun overlap(text: String, stop: String) =
        minOf(text.length, stop.length - 1).downTo(0).first { text.endsWith(stop.substring(0, it)) }
}
