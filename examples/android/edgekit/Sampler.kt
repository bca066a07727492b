package edgekit

import kotlin.math.exp
import kotlin.math.ln

/** As in edgekit/settings.py: temperature 0 takes the likeliest token; top-k 0, top-p 1, min-p 0, penalty 1 are off. */
data class Settings(
    val temperature: Double = 0.0,
    val topK: Int = 0,
    val topP: Double = 1.0,
    val minP: Double = 0.0,
    val repetitionPenalty: Double = 1.0,
    val seed: ULong? = null,
    val maxNewTokens: Int = 256,
    val stop: List<String> = emptyList(),
)

private const val GAMMA = 0x9e3779b97f4a7c15uL

private fun mix(start: ULong): ULong {
    var x = start
    x = (x xor (x shr 30)) * 0xbf58476d1ce4e5b9uL
    x = (x xor (x shr 27)) * 0x94d049bb133111ebuL
    return x xor (x shr 31)
}

/** A number in (0, 1) that depends on the arguments alone, the same in every language (edgekit/inference/sampling.py). */
fun uniform(seed: ULong, step: Int, id: Int): Double {
    val start = mix(mix(seed) + GAMMA * (step.toULong() + 1uL))
    return ((mix(start + GAMMA * (id.toULong() + 1uL)) shr 11).toDouble() + 0.5) / (1L shl 53).toDouble()
}

/**
 * From logits to a token, for one text (edgekit/inference/sampling.py): repetition penalty over prompt and text,
 * temperature (both in float32), top-k, top-p, min-p, then a race of exponential variables made from uniform numbers. The
 * same seed gives the same tokens.
 */
class Sampler(private val settings: Settings, vocabSize: Int, prompt: Iterable<Int>) {
    val seed: ULong = settings.seed ?: kotlin.random.Random.nextInt().toUInt().toULong()
    private val seen = BooleanArray(vocabSize)
    private var step = 0

    init {
        for (id in prompt) seen[id] = true
    }

    /** The next token; [logits] is not changed. */
    fun choose(logits: FloatArray): Int {
        val scores = logits.copyOf()
        val penalty = settings.repetitionPenalty.toFloat()
        if (penalty != 1f) {
            for (id in scores.indices) {
                if (seen[id]) scores[id] = if (scores[id] < 0) scores[id] * penalty else scores[id] / penalty
            }
        }
        val token = if (settings.temperature == 0.0) scores.indices.maxBy { scores[it] } else sample(scores)
        seen[token] = true
        return token
    }

    private fun sample(scores: FloatArray): Int {
        val divisor = settings.temperature.toFloat()
        for (id in scores.indices) scores[id] /= divisor
        val top = scores.max().toDouble()
        var ids = scores.indices.toList()
        if (settings.topK in 1 until scores.size) {
            val edge = scores.sortedArray()[scores.size - settings.topK]
            ids = ids.filter { scores[it] >= edge } // with all ties of the last one
        }
        val weights = DoubleArray(scores.size)
        for (id in ids) weights[id] = exp(scores[id].toDouble() - top)
        if (settings.topP < 1) {
            // The fewest that reach p, largest first; lower ids come first among equals because the sort is stable.
            val sorted = ids.sortedByDescending { weights[it] }
            val target = settings.topP * sorted.fold(0.0) { sum, id -> sum + weights[id] }
            var sum = 0.0
            ids = sorted.takeWhile { id -> (sum < target).also { sum += weights[id] } }.sorted()
        }
        val least = maxOf(settings.minP, Double.MIN_VALUE)
        ids = ids.filter { weights[it] >= least }
        val winner = ids.minBy { -ln(uniform(seed, step, it)) / weights[it] } // the first among equals
        step++
        return winner
    }
}
