package edgekit

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer
import java.util.Base64
import org.json.JSONObject

/**
 * An `.onnx` file from `edgekit convert --to onnx` on ONNX Runtime (edgekit/runtimes/onnx.py). The file contains weights,
 * configuration and vocabulary. converters/_onnx_fused.py describes the graph's inputs.
 */
class OnnxModel(path: String, threads: Int = 2) : Runtime, AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession
    private val cacheNames: List<String>
    private val cacheShape: LongArray
    private var cache: OrtSession.Result? = null // keys and values after the last call
    private var length = 0
    override val vocabSize: Int
    override val contextLength: Int
    val tokenizer: Tokenizer

    init {
        val options = OrtSession.SessionOptions()
        options.setIntraOpNumThreads(threads)
        options.setMemoryPatternOptimization(false) // no two steps have the same shapes
        session = environment.createSession(path, options)
        val texts = session.metadata.customMetadata
        fun file(name: String): ByteArray =
            Base64.getDecoder().decode(texts["edgekit.file.$name"] ?: throw VocabularyException("$path does not contain $name"))
        val config = JSONObject(String(file("config.json"), Charsets.UTF_8))
        val settings = JSONObject(String(file("tokenizer_config.json"), Charsets.UTF_8))
        vocabSize = config.getInt("vocab_size")
        contextLength = config.getInt("max_position_embeddings")
        val heads = config.getInt("num_attention_heads")
        val headSize = config.optInt("head_dim", config.getInt("hidden_size") / heads)
        // ONNX Runtime's attention needs a head size divisible by 16; the graph pads other sizes.
        cacheShape = longArrayOf(1, config.optInt("num_key_value_heads", heads).toLong(), 0, (headSize + 15) / 16 * 16L)
        cacheNames = (0 until config.getInt("num_hidden_layers")).flatMap { listOf("$it.key", "$it.value") }
        tokenizer = Tokenizer(Vocabulary(file("tokenmonster.vocab")), vocabSize, settings.optBoolean("add_bos_token"))
    }

    override fun forward(ids: List<Int>): FloatArray {
        val total = length + ids.size
        val inputs = mapOf(
            "input_ids" to tensor(LongBuffer.wrap(LongArray(ids.size) { ids[it].toLong() }), 1, ids.size.toLong()),
            "logit_positions" to tensor(LongBuffer.wrap(longArrayOf(ids.size - 1L)), 1),
            "seqlens_k" to OnnxTensor.createTensor(environment, IntBuffer.wrap(intArrayOf(total - 1)), longArrayOf(1)),
            "total_sequence_length" to OnnxTensor.createTensor(environment, IntBuffer.wrap(intArrayOf(total)), longArrayOf()),
        )
        val before = cache
        val past = cacheNames.associate { name ->
            val value = before?.get("present.$name")?.get() as OnnxTensor?
            "past_key_values.$name" to (value ?: OnnxTensor.createTensor(environment, FloatBuffer.allocate(0), cacheShape))
        }
        val result = session.run(inputs + past)
        inputs.values.forEach(OnnxTensor::close)
        if (before == null) past.values.forEach(OnnxTensor::close) else before.close()
        cache = result
        length = total
        return FloatArray(vocabSize).also { (result.get("logits").get() as OnnxTensor).floatBuffer.get(it) }
    }

    override fun reset() {
        cache?.close()
        cache = null
        length = 0
    }

    override fun close() {
        reset()
        session.close()
    }

    private fun tensor(values: LongBuffer, vararg shape: Long) = OnnxTensor.createTensor(environment, values, shape)
}
