package edgekit

import kotlin.random.Random

/** What went wrong, in one sentence: a damaged or unknown file, no memory, a prompt that is too long, a closed model. */
class EdgekitException(message: String) : RuntimeException(message)

/**
 * How a text is generated. What is null is as the model's file asks for, or else off; `maxNewTokens` is then 256. Meaning and
 * order are those of edgekit in Python: the same settings and seed give the same tokens there.
 *
 * @property temperature 0: always the most likely token.
 * @property topK 0: off.
 * @property topP 1: off.
 * @property minP 0: off.
 * @property repetitionPenalty 1: off; counts the prompt and the text.
 * @property presencePenalty 0: off; counts the text. `frequencyPenalty` too.
 * @property noRepeatNgramSize 0: off.
 * @property seed null: a new one each time.
 * @property maxNewTokens 0: as many as the context holds.
 * @property stop the text ends before the first of these.
 * @property ignoreEos continue past the end of the text.
 * @property banReplacement never print U+FFFD.
 */
data class Settings(
    val temperature: Double? = null,
    val topK: Int? = null,
    val topP: Double? = null,
    val minP: Double? = null,
    val repetitionPenalty: Double? = null,
    val presencePenalty: Double? = null,
    val frequencyPenalty: Double? = null,
    val noRepeatNgramSize: Int? = null,
    val seed: ULong? = null,
    val maxNewTokens: Int? = null,
    val stop: List<String> = emptyList(),
    val ignoreEos: Boolean = false,
    val banReplacement: Boolean = false,
) {
    /** As `Native.start` takes them. */
    internal fun numbers() = doubleArrayOf(
        number(temperature), number(topP), number(minP), number(repetitionPenalty), number(presencePenalty),
        number(frequencyPenalty), number(topK), number(noRepeatNgramSize), number(maxNewTokens),
        if (ignoreEos) 1.0 else 0.0, if (banReplacement) 1.0 else 0.0,
    )

    internal fun stops(): ByteArray {
        if (stop.any { '\u0000' in it }) throw EdgekitException("stop: a text has a zero character")
        return stop.joinToString("") { "$it\u0000" }.toByteArray()
    }

    internal fun seedOrNew(): ULong = seed ?: Random.nextInt().toUInt().toULong()

    private fun number(value: Number?): Double {
        val number = value?.toDouble() ?: return Double.NaN // which stands for the file's own
        if (number.isNaN()) throw EdgekitException("a setting is not a number")
        return number
    }
}

/**
 * How a model is opened. None of it changes a token but `kv` and, where a text reaches its end, `context`.
 *
 * @property context tokens of prompt and text together; 0: as many as the file says. Memory grows with it.
 * @property threads of the engine, the caller's included.
 * @property kv type of the cache of keys and values.
 */
data class Options(
    val context: Int = 0,
    val threads: Int = Runtime.getRuntime().availableProcessors().coerceIn(1, 2),
    val kv: Kv = Kv.F16,
)

/** Types of the cache, in the engine's order. */
enum class Kv { F32, F16, I8 }
