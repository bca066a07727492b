// Compiled with tsc --strict by tests/test_javascript.py.
import { load, EdgekitError, type Settings, type Result, type Info, Stream, Model } from "edgekit-lm";
const settings: Settings = { temperature: 0.8, seed: 2n ** 40n, stop: ["a"], signal: new AbortController().signal };
const progress = ({ loaded, total }: { loaded: number; total: number | undefined }) => console.log(loaded, total);
const model: Model = await load(new Uint8Array(4), { context: 64, kvType: "int8", wasm: "scalar", progress });
const stream: Stream = model.stream("x", settings);
for await (const piece of stream) piece.toUpperCase();
for await (const { id, text, top } of stream.tokens()) id.toFixed() + text.trim() + (top?.[0]?.after ?? 0);
const result: Result = await model.generate([1, 2], { maxNewTokens: 3 });
const reason: "stop" | "length" | "cancelled" | null = result.finishReason;
const info: Info = model.info;
const temperature: number = info.defaults.temperature;
const value = model.metadata("k");
if (Array.isArray(value)) value.length.toFixed();
const logits: Float32Array = model.logits(new Uint32Array([1]));
// @ts-expect-error: a setting of Python's spelling
model.stream("x", { max_new_tokens: 3 });
// @ts-expect-error: models come from load
new Model();
console.log(reason, temperature, value, logits, new EdgekitError("x").message, model.decode([1]), model.piece(2), model.encode("a", { bos: false }));
