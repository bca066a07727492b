// Checks the core against ../golden/ports.json on any JVM, without a phone. ../golden/ports.py describes the cases.
//
//     kotlinc edgekit/{Vocabulary,Matcher,Text,Sampler,Story}.kt GoldenCheck.kt -include-runtime -d check.jar
//     java -jar check.jar ../golden/ports.json ../../edgekit/bundled/story-7m/tokenmonster.vocab

import edgekit.Decoder
import edgekit.Runtime
import edgekit.Sampler
import edgekit.Settings
import edgekit.Story
import edgekit.Tokenizer
import edgekit.Vocabulary
import edgekit.uniform
import java.io.File
import kotlin.system.exitProcess

private typealias Case = Map<String, Any?>

/** A minimal JSON parser: objects, arrays, strings, numbers (as Double), true, false, null. */
private class Json(private val text: String) {
    private var at = 0

    fun value(): Any? {
        skip()
        return when (text[at]) {
            '{' -> list('}') { (value() as String).also { skip(); at++ } to value() }.toMap()
            '[' -> list(']') { value() }
            '"' -> string()
            else -> {
                val word = text.substring(at).takeWhile { it.isLetterOrDigit() || it in "+-." }
                at += word.length
                when (word) { "true" -> true; "false" -> false; "null" -> null; else -> word.toDouble() }
            }
        }
    }

    private fun skip() { while (text[at].isWhitespace()) at++ }

    private fun <T> list(end: Char, item: () -> T): List<T> {
        val out = ArrayList<T>()
        at++
        skip()
        while (text[at] != end) {
            out += item()
            skip()
            if (text[at] == ',') at++
            skip()
        }
        at++
        return out
    }

    private fun string(): String {
        val out = StringBuilder()
        while (text[++at] != '"') {
            if (text[at] != '\\') out.append(text[at])
            else when (val escape = text[++at]) {
                'u' -> out.append(text.substring(at + 1, at + 5).toInt(16).toChar()).also { at += 4 }
                else -> out.append(mapOf('n' to '\n', 'r' to '\r', 't' to '\t', 'b' to '\b', 'f' to '\u000c')[escape] ?: escape)
            }
        }
        at++
        return out.toString()
    }
}

@Suppress("UNCHECKED_CAST")
private fun Case.cases(name: String) = get(name) as List<Case>

@Suppress("UNCHECKED_CAST")
private fun Case.ints(name: String) = (get(name) as List<Double>).map { it.toInt() }

private fun Case.text(name: String) = get(name) as String

private fun Case.int(name: String) = (get(name) as Double).toInt()

@Suppress("UNCHECKED_CAST")
private fun settings(given: Case) = Settings(
    temperature = given["temperature"] as Double,
    topK = (given["top_k"] as Double? ?: 0.0).toInt(),
    topP = given["top_p"] as Double? ?: 1.0,
    minP = given["min_p"] as Double? ?: 0.0,
    repetitionPenalty = given["repetition_penalty"] as Double? ?: 1.0,
    seed = (given["seed"] as String?)?.toULong(),
    maxNewTokens = (given["max_new_tokens"] as Double? ?: 256.0).toInt(),
    stop = given["stop"] as List<String>? ?: emptyList(),
)

private fun logits(size: Int, last: Int, length: Int) =
    FloatArray(size) { (10 * uniform(last.toULong(), length, it)).toFloat() }

/** Logits from the rule in ../golden/ports.py. */
private class RuleRuntime(
    override val vocabSize: Int,
    override val contextLength: Int,
    private val eos: Int,
    private val eosAt: Int?,
) : Runtime {
    private var length = 0

    override fun forward(ids: List<Int>): FloatArray {
        length += ids.size
        return logits(vocabSize, ids.last(), length).also { if (eosAt != null && length >= eosAt) it[eos] = 30f }
    }

    override fun reset() {
        length = 0
    }
}

@Suppress("UNCHECKED_CAST")
fun main(arguments: Array<String>) {
    val golden = Json(File(arguments[0]).readText()).value() as Case
    val size = (golden["vocabulary"] as Case).int("vocab_size")
    val tokenizer = Tokenizer(Vocabulary(File(arguments[1]).readBytes()), size)
    var right = 0
    var wrong = 0
    fun check(part: String, answers: (Case) -> Map<String, Any?>) = golden.cases(part).forEachIndexed { i, case ->
        for ((key, value) in answers(case)) {
            val expected = if (value is List<*> && value.firstOrNull() is Int) case.ints(key) else case[key]
            if (value == expected) continue
            println("$part $i: $key $value, expected $expected")
            wrong++
        }
        right++
    }
    check("encode") { mapOf("ids" to tokenizer.vocabulary.encode(it.text("text"))) }
    check("decode") { case ->
        val decoder = Decoder(tokenizer.vocabulary)
        mapOf("pieces" to case.ints("ids").map(decoder::feed) + decoder.flush())
    }
    check("uniform") { case ->
        mapOf("values" to case.ints("ids").map { uniform(case.text("seed").toULong(), case.int("step"), it) })
    }
    check("sample") { case ->
        val sampler = Sampler(settings(case["settings"] as Case), size, case.ints("seen"))
        mapOf("tokens" to case.ints("rows").map { sampler.choose(logits(size, it, 0)) })
    }
    check("loop") { case ->
        val runtime = RuleRuntime(size, case.int("context_length"), tokenizer.eos, (case["eos_at"] as Double?)?.toInt())
        val story = Story(runtime, tokenizer, case.text("prompt"), settings(case["settings"] as Case))
        val pieces = story.pieces.toList()
        mapOf(
            "prompt_ids" to story.prompt, "pieces" to pieces,
            "tokens" to story.tokens, "finish_reason" to story.finishReason,
        )
    }
    println(if (wrong > 0) "$wrong differences" else "$right cases, all right")
    exitProcess(if (wrong > 0) 1 else 0)
}
