// Runs a small Llama from a GGUF file, in browsers, workers and Node.
//
//     const model = await load("story-7m-q4_0.gguf");
//     for await (const piece of model.stream("Once upon a time", { seed: 7 })) show(piece);
//
// The model, the tokenizer, the sampler and the loop are edgekit's C engine (engine/wasm/module.c): the same tokens as
// in Python for the same seed.

import { chancesOf } from "./chances.js";
import { Engine } from "./engine.js";
import { isWellFormed, NAMES, settingsOf, shown } from "./settings.js";
import { EdgekitError, open } from "./source.js";

export { EdgekitError };

const CACHES = { f32: 1, f16: 2, int8: 3 };
const FACTS = ["vocabulary", "contextLength", "trainedContext", "layers", "hidden", "parameters", "bos", "eos", "addBos", "bytes"];
const PARSE_SPECIALS = 1;
const INSTRUCTIONS = { relaxed: "relaxed", simd128: "simd", c: "scalar" }; // by the engine's names
const FINISH = [null, "stop", "length", "cancelled"];
const SLICE = 64; // tokens of a prompt that are read at once
const PATIENCE = 12; // milliseconds after which the event loop gets its turn
const MOST_BYTES = 2 ** 32 - 1;
const text = new TextDecoder("utf-8", { ignoreBOM: true });

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
    if (!loaded && chunk.length > 3 && text.decode(chunk.subarray(0, 4)) !== "GGUF") {
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
      return text.decode(engine.bytes(engine.numbers(1)[0], length));
    });
  }

  /** One id for display: its text in the middle of a sentence, or a special token's spelling. */
  piece(id) {
    const { engine } = this.#state;
    this.#checked([id]);
    return engine.within(() => {
      const length = engine.check("piece", id);
      return text.decode(engine.bytes(engine.numbers(1)[0], length));
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

const RUNNING = "the model is generating another text: end that first, or load the model twice";

/** How many ids at the beginning of a prompt the cache holds; the last one is always read, for its logits. */
function shared(held, prompt) {
  const most = Math.min(held.length, prompt.length - 1);
  let length = 0;
  while (length < most && held[length] === prompt[length]) length++;
  return length;
}

/** A text being generated; `Model.stream` starts it. */
export class Stream {
  /** {text, ids, promptIds, seed, finishReason}: all of the text so far. */
  result;
  #state;
  #settings;
  #steps;
  #rest = ""; // text that belongs to no token, after an abort

  constructor(state, promptIds, settings) {
    const seed = settings.seed <= Number.MAX_SAFE_INTEGER ? Number(settings.seed) : settings.seed;
    this.result = { text: "", ids: [], promptIds, seed, finishReason: null };
    this.#state = state;
    this.#settings = settings;
    this.#steps = this.#run();
  }

  /**
   * The tokens, one by one: {id, text}, where `text` is what became certain with it. With the setting `top` also
   * `before`, `after` and `top`: see chances.js.
   */
  tokens() {
    return this.#steps;
  }

  /** The pieces of the text. Leaving the loop ends it. */
  async *[Symbol.asyncIterator]() {
    for await (const step of this.#steps) if (step.text) yield step.text;
    if (this.#rest) yield this.#rest;
  }

  async *#run() {
    const { engine, running } = this.#state;
    if (running) throw new EdgekitError(RUNNING);
    const mark = engine.call("mark");
    const turns = new Turns();
    let begun = false;
    let failed = false;
    this.#state.running = true;
    try {
      begun = await this.#start(turns);
      while (begun && this.result.finishReason === null && !this.#settings.signal?.aborted) {
        yield this.#step();
        if (turns.isDue) await turns.pass();
      }
    } catch (error) {
      failed = true;
      throw error;
    } finally {
      this.#state.running = false;
      if (failed) this.#state.held = [];
      else this.#end(begun);
      if (engine.isOpen) engine.call("release", mark);
    }
  }

  /** Reads the prompt up to its last tokens, which come with the first step; false if it is aborted. */
  async #start(turns) {
    const { engine, held } = this.#state;
    const { numbers, seed, stops, ends, signal } = this.#settings;
    const { promptIds } = this.result;
    const prompt = engine.putIds(promptIds);
    let reuse = shared(held, promptIds);
    this.#state.held = [];
    engine.check("rewind", reuse);
    while (promptIds.length - reuse > SLICE) {
      engine.check("forward", prompt + 4 * reuse, SLICE, 0);
      reuse += SLICE;
      if (turns.isDue) await turns.pass();
      if (signal?.aborted) break;
    }
    this.#state.held = promptIds.slice(0, reuse);
    if (signal?.aborted) return false;
    const texts = engine.put(new TextEncoder().encode(stops.map((stop) => `${stop}\0`).join("")));
    engine.numbers(numbers.length).set(numbers);
    engine.check("start", seed, texts, stops.length, engine.putIds(ends), ends.length, prompt, promptIds.length, reuse);
    return true;
  }

  #step() {
    const { engine } = this.#state;
    engine.check("next");
    const step = this.#take();
    this.result.ids.push(step.id);
    const { top } = this.#settings;
    return top ? { ...step, ...chancesOf(engine, this.#state.vocabulary, step.id, top) } : step;
  }

  #take() {
    const { engine } = this.#state;
    const [id, finish, at, length] = engine.numbers(4);
    const piece = length ? text.decode(engine.bytes(at, length)) : "";
    this.result.text += piece;
    this.result.finishReason = FINISH[finish];
    return { id, text: piece };
  }

  /** The end of a text that did not fail. */
  #end(begun) {
    const { result } = this;
    const { engine } = this.#state;
    if (result.ids.length) this.#state.held = [...result.promptIds, ...result.ids.slice(0, -1)];
    if (result.finishReason !== null) return;
    if (begun && engine.isOpen) {
      engine.call("cancel");
      this.#rest = this.#take().text;
    }
    result.finishReason = "cancelled";
  }
}

/** Gives the event loop its turns: a page stays alive, and an abort arrives. */
class Turns {
  #last = performance.now();

  get isDue() {
    return performance.now() - this.#last > PATIENCE;
  }

  async pass() {
    await new Promise((done) => {
      if (typeof setImmediate === "function") return setImmediate(done);
      const { port1, port2 } = new MessageChannel(); // setTimeout waits 4 ms
      port1.onmessage = () => done(port1.close());
      port2.postMessage(0);
    });
    this.#last = performance.now();
  }
}

/** DataView's readers by GGUF's types, and the bytes of a value. */
const READERS = {
  0: ["getUint8", 1], 1: ["getInt8", 1], 2: ["getUint16", 2], 3: ["getInt16", 2], 4: ["getUint32", 4],
  5: ["getInt32", 4], 6: ["getFloat32", 4], 7: ["getUint8", 1], 10: ["getBigUint64", 8], 11: ["getBigInt64", 8],
  12: ["getFloat64", 8],
};

function readValues(view, { type, array, count }) {
  const values = [];
  const string = (at, length) => new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + at, length));
  if (type === 8 && !array) return [string(0, view.byteLength)];
  for (let at = 0; values.length < count; ) {
    if (type === 8) {
      const length = Number(view.getBigUint64(at, true));
      values.push(string(at + 8, length));
      at += 8 + length;
      continue;
    }
    const [reader, bytes] = READERS[type];
    const value = view[reader](at, true);
    values.push(type === 7 ? Boolean(value) : typeof value === "bigint" ? smaller(value) : value);
    at += bytes;
  }
  return values;
}

function smaller(value) {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
