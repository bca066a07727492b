// The runtime for the loop (core/generate.js) on onnxruntime-web: the fused graph of `edgekit convert --to onnx`.
//
// In WebAssembly a graph cannot update its cache in place, so every step passes keys and values in and out. Their size
// follows the length of the text, not the context. With WebGPU they stay in the GPU's memory.

import { toFloat32 } from "./onnx_widen.js";

/** A loaded model with the one sequence in its cache. */
export class OnnxRuntime {
  #ort;
  #session;
  #cache = {};
  #shape;
  #gpu;

  /**
   * `ort`: the module; `data`: the `.onnx` file, a Uint8Array; `config`: its config.json, an object; `provider`: "wasm"
   * or "webgpu".
   */
  static async open(ort, data, config, provider = "wasm") {
    const runtime = new OnnxRuntime();
    const gpu = provider === "webgpu";
    const names = Array.from({ length: config.num_hidden_layers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
    runtime.#ort = ort;
    runtime.#gpu = gpu;
    runtime.#session = await ort.InferenceSession.create(toFloat32(data), {
      executionProviders: [provider],
      enableMemPattern: false, // no two steps have the same shapes
      logSeverityLevel: 4, // errors are thrown anyway
      preferredOutputLocation: gpu
        ? { logits: "cpu", ...Object.fromEntries(names.map((name) => [`present.${name}`, "gpu-buffer"])) }
        : undefined,
    });
    if (!runtime.#session.inputNames.includes("seqlens_k")) {
      throw new Error("this .onnx does not have the fused graph of edgekit convert --to onnx");
    }
    const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads;
    const heads = config.num_key_value_heads ?? config.num_attention_heads;
    runtime.#shape = [1, heads, 0, Math.ceil(headDim / 16) * 16]; // the graph pads heads to a multiple of 16
    runtime.names = names;
    runtime.vocabSize = config.vocab_size;
    runtime.contextLength = config.max_position_embeddings;
    runtime.length = 0;
    runtime.#empty();
    return runtime;
  }

  /** Append ids and return the logits after the last one, Float32Array (vocabSize). */
  async forward(ids) {
    const total = this.length + ids.length;
    const tensor = (type, Values, values, shape) => new this.#ort.Tensor(type, Values.from(values), shape);
    const out = await this.#session.run({
      ...this.#cache,
      input_ids: tensor("int64", BigInt64Array, ids.map(BigInt), [1, ids.length]),
      logit_positions: tensor("int64", BigInt64Array, [BigInt(ids.length - 1)], [1]),
      seqlens_k: tensor("int32", Int32Array, [total - 1], [1]),
      total_sequence_length: tensor("int32", Int32Array, [total], []),
    });
    for (const name of this.names) {
      if (this.#gpu) this.#cache[`past_key_values.${name}`].dispose();
      this.#cache[`past_key_values.${name}`] = out[`present.${name}`];
    }
    this.length = total;
    return out.logits.data;
  }

  /** Keep the first `length` tokens; the rest of the cache is never read again. */
  rewind(length) {
    this.length = length;
    if (length === 0) this.#empty();
  }

  #empty() {
    for (const name of this.names) {
      const key = `past_key_values.${name}`;
      if (this.#gpu) this.#cache[key]?.dispose();
      this.#cache[key] = new this.#ort.Tensor("float32", new Float32Array(0), this.#shape);
    }
  }
}
