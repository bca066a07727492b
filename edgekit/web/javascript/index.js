// Runs a small Llama from a GGUF file, in browsers, workers and Node.
//
//     const model = await load("story-7m-q4_0.gguf");
//     for await (const piece of model.stream("Once upon a time", { seed: 7 })) show(piece);
//
// The model, the tokenizer, the sampler and the loop are edgekit's C engine (engine/wasm/module.c): the same tokens as
// in Python for the same seed.

import { Engine } from "./engine.js";
import { isWellFormed, NAMES, settingsOf, shown } from "./settings.js";
import { EdgekitError, open } from "./source.js";
import { RUNNING, shared, Stream } from "./stream.js";
import { decoded, readValues } from "./values.js";

export { EdgekitError, Stream };

const CACHES = { f32: 1, f16: 2, int8: 3 };
const FACTS = ["vocabulary", "contextLength", "trainedContext", "layers", "hidden", "parameters", "bos", "eos", "addBos", "bytes"];
const PARSE_SPECIALS = 1;
const INSTRUCTIONS = { relaxed: "relaxed", simd128: "simd", c: "scalar" }; // by the engine's names
const MOST_BYTES = 2 ** 32 - 1;

/**
 * Opens a model. `source`: a URL (text or object; in Node also a path), an ArrayBuffer, a Uint8Array, a Blob or a
 * Response, of a GGUF file. See index.d.ts for the options. Throws `EdgekitError`, or the signal's reason.
 */
export async function load(source, { context = 0, kvType = "f16", wasm, signal, progress } = {}) {
  if (!Number.isSafeInteger(context) || context < 0 || context > MOST_BYTES) {
    throw new EdgekitError(`context must be a whole number of at least 1, not ${shown(context)}`);
  }
  if (!Object.hasOwn(CACHES, kvType)) throw new EdgekitError(`kvType must be f32, f16 or int8, not ${shown(kvType)}`);
  signal?.throwIfAborted();
  const opening = open(source, signal);
  opening.catch(() => {}); // if the engine fails first
  const engine = await Engine.create(wasm);
  const bytes = await receive(engine, await opening, signal, progress);
  engine.check("open", bytes, context, CACHES[kvType]);
  return new Model(engine);
}

/** Copies a file into the engine's memory as it comes; returns its length. */
async function receive(engine, { total, chunks }, signal, progress) {
  let loaded = 0;
  let space = 0;
  let at = 0;
  for await (const chunk of chunks) {
    signal?.throwIfAborted();
    if (!loaded && chunk.length > 3 && decoded(chunk.subarray(0, 4)) !== "GGUF") {
      throw new EdgekitError("not a GGUF file (it does not begin with `GGUF`)"); // before all of it is loaded
    }
    if (loaded + chunk.length > space) {
      space = Math.max(loaded + chunk.length, loaded ? space + (1 << 20) : total ?? 0);
      if (space > MOST_BYTES) throw new EdgekitError(`the file has ${space} bytes; WebAssembly holds at most 4 GB`);
      at = engine.fileSpace(space);
    }
    engine.bytes(at + loaded, chunk.length).set(chunk);
    loaded += chunk.length;
    progress?.({ loaded, total });
  }
  if (total !== undefined && loaded < total) {
    throw new EdgekitError(`the file is cut off: ${loaded} of ${total} bytes have come`);
  }
  engine.fileSpace(loaded);
  return loaded;
}

/** A model; `load` opens it. It generates one text at a time. */
export class Model {
  #state; // shared with this model's streams: the engine, the ids in its cache, whether a stream is running
  #facts;
  #defaults;

  constructor(engine) {
    this.#facts = engine.record(FACTS, engine.call("facts"));
    const defaults = engine.record(NAMES, engine.check("defaults"));
    for (const flag of ["ignoreEos", "banReplacement"]) defaults[flag] = Boolean(defaults[flag]);
    this.#defaults = Object.freeze(defaults);
    this.#state = { engine, held: [], running: false, vocabulary: this.#facts.vocabulary };
  }

  /** What the model is, and what it uses: see index.d.ts. */
  get info() {
    const { engine } = this.#state;
    const { addBos, bos, eos, ...facts } = this.#facts;
    return {
      ...facts,
      instructions: INSTRUCTIONS[engine.string(engine.call("instructions"))],
      memory: engine.memory.buffer.byteLength,
      defaults: { ...this.#defaults },
    };
  }

  /** The value of a GGUF key, or undefined. Whole numbers that JavaScript's numbers do not hold are bigints. */
  metadata(key) {
    const { engine } = this.#state;
    const at = engine.within(() => {
      const place = engine.put(new TextEncoder().encode(`${key}\0`));
      return engine.record(["type", "array", "count", "data", "length"], engine.check("find", place));
    });
    if (at.type === 255) return undefined;
    const values = readValues(new DataView(engine.memory.buffer, at.data, at.length), at);
    return at.array ? values : values[0];
  }

  /**
   * The ids of a text: BOS first if the model wants it and `bos` is not false; with `special` the spelling of a special
   * token is that token. An empty text is BOS, or EOS if the model has none.
   */
  encode(prompt, { bos = true, special = false } = {}) {
    if (typeof prompt !== "string") throw new EdgekitError(`the prompt must be a text, not ${shown(prompt)}`);
    if (!isWellFormed(prompt)) throw new EdgekitError("the prompt has half a surrogate pair: it is not Unicode");
    const { engine } = this.#state;
    const ids = engine.within(() => {
      const bytes = new TextEncoder().encode(prompt);
      const count = engine.check("encode", engine.put(bytes), bytes.length, special ? PARSE_SPECIALS : 0);
      return [...new Uint32Array(engine.memory.buffer, engine.numbers(1)[0], count)];
    });
    if (!bos) return ids;
    const { bos: first, eos, addBos } = this.#facts;
    if (!prompt && Math.max(first, eos) >= 0) return [first >= 0 ? first : eos];
    if (ids.length) return addBos ? [first, ...ids] : ids;
    const why = prompt ? "has no character that the vocabulary can write" : "is empty";
    throw new EdgekitError(`the prompt ${why}: give the model at least one character to continue from`);
  }

  /** The text of ids; special tokens print nothing, ill-formed bytes are U+FFFD. */
  decode(ids) {
    const { engine } = this.#state;
    ids = this.#checked(ids);
    return engine.within(() => {
      const length = engine.check("decode", engine.putIds(ids), ids.length);
      return decoded(engine.bytes(engine.numbers(1)[0], length));
    });
  }

  /** One id for display: its text in the middle of a sentence, or a special token's spelling. */
  piece(id) {
    const { engine } = this.#state;
    this.#checked([id]);
    return engine.within(() => {
      const length = engine.check("piece", id);
      return decoded(engine.bytes(engine.numbers(1)[0], length));
    });
  }

  /** Float32Array (vocabulary): the logits after the last of the ids. */
  logits(ids) {
    const { engine, held, vocabulary } = this.#state;
    ids = this.#checkedPrompt(ids);
    if (this.#state.running) throw new EdgekitError(RUNNING);
    return engine.within(() => {
      const out = engine.space(4 * vocabulary);
      const reuse = shared(held, ids);
      this.#state.held = [];
      engine.check("rewind", reuse);
      engine.check("forward", engine.putIds(ids.slice(reuse)), ids.length - reuse, out);
      this.#state.held = ids;
      return new Float32Array(engine.memory.buffer, out, vocabulary).slice();
    });
  }

  /**
   * Starts a text: iterate for its pieces, or over `.tokens()` for its tokens; `.result` has all of it so far.
   * `prompt`: text, or ids as they are. Settings that are left out are the model's.
   */
  stream(prompt, settings = {}) {
    const checked = settingsOf(settings, this.#defaults);
    const ends = this.#checked(checked.ends);
    const ids = typeof prompt === "string" ? this.encode(prompt, { special: settings.special }) : prompt;
    return new Stream(this.#state, this.#checkedPrompt(ids), { ...checked, ends, signal: settings.signal });
  }

  /** The whole text at once: a stream's result. */
  async generate(prompt, settings = {}) {
    const stream = this.stream(prompt, settings);
    for await (const _ of stream.tokens());
    return stream.result;
  }

  /** Frees the memory. */
  close() {
    this.#state.engine.close();
  }

  /** Ids as an array of their own. */
  #checked(ids) {
    const { vocabulary } = this.#state;
    if (!ids?.[Symbol.iterator]) throw new EdgekitError(`expected token ids in an array, not ${shown(ids)}`);
    const copy = [...ids];
    const wrong = copy.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
    if (wrong === undefined) return copy;
    throw new EdgekitError(`token id ${shown(wrong)} is outside the vocabulary of ${vocabulary}`);
  }

  #checkedPrompt(prompt) {
    const { contextLength } = this.#facts;
    const ids = this.#checked(prompt);
    if (!ids.length) throw new EdgekitError("the prompt is empty: give the model at least one character to continue from");
    if (ids.length <= contextLength) return ids;
    throw new EdgekitError(`the prompt has ${ids.length} tokens, but the context holds ${contextLength}: shorten it`);
  }
}
