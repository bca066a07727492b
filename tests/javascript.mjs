// Runs jobs with edgekit-lm: reads {source, options, jobs: [[name, ...arguments], ...]} as JSON from standard input, one
// list of results is printed. An EdgekitError is {error: its sentence}; anything else ends the program.
// node javascript.mjs [PACKAGE], by default the one in this repository.
import { readFile } from "node:fs/promises";

const { load, EdgekitError } = await import(process.argv[2] ?? "../edgekit/web/javascript/index.js");

const JOBS = {
  generate: (model, prompt, settings) => model.generate(prompt, settings),
  async steps(model, prompt, settings) {
    const stream = model.stream(prompt, settings);
    const steps = [];
    for await (const { id, text } of stream.tokens()) steps.push([id, text]);
    return { steps, ...stream.result };
  },
  /** Each token with its probabilities. */
  async chances(model, prompt, settings) {
    const tokens = [];
    for await (const token of model.stream(prompt, settings).tokens()) tokens.push(token);
    return tokens;
  },
  async pieces(model, prompt, settings) {
    const pieces = [];
    for await (const piece of model.stream(prompt, settings)) pieces.push(piece);
    return pieces;
  },
  logits: (model, ids) => Buffer.from(model.logits(ids).buffer).toString("base64"),
  info: (model) => model.info,
  metadata: (model, keys) => keys.map((key) => model.metadata(key)),
  encode: (model, texts, options) => texts.map((text) => model.encode(text, options)),
  decode: (model, lists) => lists.map((ids) => model.decode(ids)),
  vocabulary: (model) => Array.from({ length: model.info.vocabulary }, (_, id) => model.piece(id)),
  close: (model) => model.close(),
  /** A text that is left after some pieces, then another, of which the cache has the beginning. */
  async leave(model, prompt, count, settings) {
    const stream = model.stream(prompt, settings);
    for await (const _ of stream) if (!--count) break;
    return [stream.result, await model.generate(prompt, settings)];
  },
  /** Aborted by a timer, which needs the event loop. */
  async abort(model, prompt, milliseconds, settings) {
    const stream = model.stream(prompt, { ...settings, signal: AbortSignal.timeout(milliseconds) });
    let pieces = "";
    for await (const piece of stream) pieces += piece;
    return [pieces, stream.result];
  },
  /** Two texts at once. */
  async twice(model, prompt) {
    const first = model.stream(prompt).tokens();
    await first.next();
    try {
      await model.generate(prompt);
    } finally {
      await first.return();
    }
  },
};

async function answer(work) {
  try {
    return (await work()) ?? null;
  } catch (error) {
    if (!(error instanceof EdgekitError)) throw error;
    return { error: error.message };
  }
}

/** Each kind of source. */
async function sourceOf({ kind = "path", path, bytes }) {
  if (kind === "path" || kind === "url") return path;
  const data = bytes ? Buffer.from(bytes, "base64") : await readFile(path);
  if (kind === "bytes") return data;
  if (kind === "buffer") return data.buffer.slice(data.byteOffset, data.byteOffset + data.length);
  return kind === "blob" ? new Blob([data]) : new Response(data);
}

/** Files that were damaged: the error of each, or the ids of a short text. */
async function damaged(path, damages, options) {
  const file = await readFile(path);
  const results = [];
  for (const { length, changes } of damages) {
    const bytes = Uint8Array.from(file.subarray(0, length));
    for (const [at, value] of changes) bytes[at] = value;
    results.push(
      await answer(async () => {
        const model = await load(bytes, options);
        return (await model.generate([1, 2, 3], { maxNewTokens: 3 })).ids;
      }),
    );
  }
  return results;
}

async function run({ source, options, jobs, damages }) {
  if (damages) return damaged(source.path, damages, options);
  const progress = [];
  let model;
  const loaded = await answer(async () => {
    model = await load(await sourceOf(source), { ...options, progress: (state) => progress.push(state) });
  });
  if (!model) return loaded;
  const results = [];
  for (const [name, ...values] of jobs) results.push(await answer(() => JOBS[name](model, ...values)));
  return { results, progress };
}

let text = "";
for await (const chunk of process.stdin) text += chunk;
const bigint = (_, value) => (typeof value === "bigint" ? String(value) : value);
console.log(JSON.stringify(await run(JSON.parse(text)), bigint));
