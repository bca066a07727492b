// One text in a browser, by edgekit's engine or by ONNX Runtime: web.py calls `prepare` and `run` in a page.

const now = () => performance.now() / 1000;
const contestants = {};

/** Loads both; returns the seconds from the file's bytes to the first token, and what runs. */
export async function prepare(config) {
  const { load } = await import("/engine/index.js");
  const data = await (await fetch("/model.gguf")).arrayBuffer();
  const begin = now();
  const model = await load(data);
  contestants.engine = (prompt, count) => engine(model, prompt, count);
  const opened = now() - begin;
  const { first } = await contestants.engine(config.prompt, 1);
  contestants.ort = await onnxRuntime(config);
  return { opened, first, memory: model.info.memory, instructions: model.info.instructions };
}

export const run = (name, prompt, count) => contestants[name](prompt, count);

async function engine(model, prompt, count) {
  const settings = { temperature: 0, repetitionPenalty: 1, topK: 0, topP: 1, minP: 0, ignoreEos: true, maxNewTokens: count };
  const begin = now();
  let first = 0;
  for await (const _ of model.stream(prompt, settings).tokens()) first ||= now() - begin;
  return { first, seconds: now() - begin };
}

/** The fused graph, whose cache is passed in and out with every step; the likeliest token each time. */
async function onnxRuntime({ layers, heads, headDim }) {
  const ort = await import("/ort/ort.wasm.bundle.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/ort/";
  const data = new Uint8Array(await (await fetch("/model.onnx")).arrayBuffer());
  const session = await ort.InferenceSession.create(data, { executionProviders: ["wasm"], enableMemPattern: false });
  const names = Array.from({ length: layers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  const integers = (type, values, shape) =>
    new ort.Tensor(type, type === "int64" ? BigInt64Array.from(values, BigInt) : Int32Array.from(values), shape);

  return async (prompt, count) => {
    const begin = now();
    const cache = Object.fromEntries(
      names.map((name) => [`past_key_values.${name}`, new ort.Tensor("float32", new Float32Array(0), [1, heads, 0, headDim])]),
    );
    let ids = prompt;
    let first = 0;
    for (let total = 0, made = 0; made < count; made++) {
      total += ids.length;
      const out = await session.run({
        ...cache,
        input_ids: integers("int64", ids, [1, ids.length]),
        logit_positions: integers("int64", [ids.length - 1], [1]),
        seqlens_k: integers("int32", [total - 1], [1]),
        total_sequence_length: integers("int32", [total], []),
      });
      for (const name of names) cache[`past_key_values.${name}`] = out[`present.${name}`];
      const { data: logits } = out.logits;
      let best = 0;
      for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
      ids = [best];
      first ||= now() - begin;
    }
    return { first, seconds: now() - begin };
  };
}
