package edgekit

import java.nio.ByteBuffer

/** The functions of `../../jni`, which check all arguments. One thread at a time may use a handle; 0 is a closed model. */
internal object Native {
    init { System.loadLibrary("edgekit") }

    @JvmStatic external fun open(buffer: ByteBuffer, position: Long, length: Long, context: Int, kv: Int, threads: Int): Long
    @JvmStatic external fun close(handle: Long)
    @JvmStatic external fun info(handle: Long): LongArray
    @JvmStatic external fun instructions(handle: Long): ByteArray

    @JvmStatic external fun encode(handle: Long, text: ByteArray, flags: Int): IntArray
    @JvmStatic external fun decode(handle: Long, tokens: IntArray, ends: IntArray): ByteArray
    @JvmStatic external fun logits(handle: Long, tokens: IntArray): FloatArray

    @JvmStatic external fun start(handle: Long, prompt: IntArray, numbers: DoubleArray, seed: Long, stops: ByteArray): Int
    @JvmStatic external fun next(handle: Long, state: IntArray): ByteArray?
    @JvmStatic external fun cancel(handle: Long, state: IntArray): ByteArray

    const val PARSE_SPECIALS = 1
    const val ADD_BOS = 2
}
