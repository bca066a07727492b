// Runs the Kotlin part of examples/android on a desktop: commands from standard input, an answer a line, as android.c.

import edgekit.EdgekitException
import edgekit.Kv
import edgekit.Model
import edgekit.Options
import edgekit.Settings
import edgekit.stream
import java.io.File
import java.io.FileInputStream
import java.nio.ByteBuffer
import kotlin.concurrent.thread
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking

private lateinit var model: Model

private fun unhex(text: String) =
    if (text == "-") "" else String(text.chunked(2).map { it.toInt(16).toByte() }.toByteArray(), Charsets.UTF_8)

private fun hex(text: String) = text.toByteArray().joinToString("") { "%02x".format(it) }.ifEmpty { "-" }

private fun ids(text: String) =
    if (text == "-") IntArray(0) else text.split(",").map { it.toUInt().toInt() }.toIntArray()

private fun ids(ids: IntArray) = ids.joinToString(",") { it.toUInt().toString() }.ifEmpty { "-" }

private fun fnv(logits: FloatArray): String {
    var hash = 0xcbf29ce484222325u
    for (value in logits) for (shift in 0..24 step 8)
        hash = (hash xor (value.toRawBits() shr shift and 255).toULong()) * 0x100000001b3u
    return hash.toString(16).padStart(16, '0')
}

/** name=value ..., the names being Python's. */
private fun settings(words: List<String>): Settings {
    val values = words.associate { it.substringBefore("=") to it.substringAfter("=") }
    return Settings(
        temperature = values["temperature"]?.toDouble(), topK = values["top_k"]?.toInt(), topP = values["top_p"]?.toDouble(),
        minP = values["min_p"]?.toDouble(), repetitionPenalty = values["repetition_penalty"]?.toDouble(),
        presencePenalty = values["presence_penalty"]?.toDouble(), frequencyPenalty = values["frequency_penalty"]?.toDouble(),
        noRepeatNgramSize = values["no_repeat_ngram_size"]?.toInt(), seed = values["seed"]?.toULong(),
        maxNewTokens = values["max_new_tokens"]?.toInt(),
        stop = values["stop"]?.split(",")?.map(::unhex) ?: emptyList(),
        ignoreEos = values["ignore_eos"] == "true", banReplacement = values["ban_replacement"] == "true",
    )
}

private fun open(words: List<String>): String {
    val path = words[0]
    val options = Options(words[1].toInt(), words[3].toInt(), Kv.entries[words[2].toInt() - 1])
    model = when (words.getOrNull(4)) {
        null -> Model.open(File(path), options)
        "buffer" -> Model.open(ByteBuffer.wrap(File(path).readBytes()), options)
        else -> FileInputStream(path).use { Model.open(it.fd, words[4].toLong(), words[5].toLong(), options) }
    }
    return "ok"
}

/** Reused tokens, the ids, the pieces and why it ended; after the given number of tokens it is cancelled. */
private fun text(words: List<String>): String {
    val stream = model.start(ids(words[0]), settings(words.drop(2)))
    val pieces = ArrayList<String>()
    if (words[1] == "0") stream.cancel()
    for (piece in stream) {
        pieces += hex(piece)
        if (stream.tokens.size >= words[1].toInt() && words[1] != "-1") stream.cancel()
    }
    check(pieces.joinToString("") { unhex(it) } == stream.text)
    return "${stream.reusedTokens} ${ids(stream.tokens.toIntArray())} ${pieces.joinToString(",").ifEmpty { "-" }} ${stream.finishReason}"
}

/** The first pieces of a flow, whose collector is then gone, and whether the next text is right all the same. */
private fun flow(words: List<String>): String = runBlocking {
    val how = settings(words.drop(2))
    val all = model.stream(unhex(words[0]), how).toList()
    val some = model.stream(unhex(words[0]), how).take(words[1].toInt()).toList()
    check(some == all.take(words[1].toInt()) && model.stream(unhex(words[0]), how).toList() == all)
    all.joinToString(",") { hex(it) }
}

/** Closes the model while another thread generates; its error. */
private fun race(words: List<String>): String {
    var failure: Throwable? = null
    val stream = model.start("a", settings(words))
    stream.next()
    val other = thread { try { while (true) stream.next() } catch (error: Throwable) { failure = error } }
    Thread.sleep(20)
    model.close()
    other.join()
    throw failure!!
}

/** Two texts at once: the older one's error. */
private fun second(): String {
    val first = model.start("a")
    model.start("b").next()
    return first.next()
}

fun main() {
    for (line in generateSequence(::readLine)) {
        val words = line.split(" ")
        val rest = words.drop(1)
        val answer = try {
            when (words[0]) {
                "open" -> open(rest)
                "encode" -> ids(model.encode(unhex(rest[0])))
                "prompt" -> ids(model.encodePrompt(unhex(rest[0])))
                "surrogate" -> ids(model.encode("a\ud800"))
                "decode" -> model.pieces(ids(rest[0])).joinToString(",") { hex(it) }
                "join" -> hex(model.decode(ids(rest[0])))
                "logits" -> fnv(model.logits(ids(rest[0])))
                "text" -> text(rest)
                "flow" -> flow(rest)
                "race" -> race(rest)
                "second" -> second()
                "info" -> model.info.toString()
                "close" -> { model.close(); "ok" }
                else -> error("no command ${words[0]}")
            }
        } catch (error: EdgekitException) {
            "error ${error.message}"
        }
        println(answer)
    }
}
