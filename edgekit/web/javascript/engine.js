// The engine's WebAssembly: which of the three modules this browser runs, and an instance's functions.

import { bytesOf, EdgekitError } from "./source.js";
import { decoded } from "./values.js";

// Bundlers know this form, so each file is written out.
const FILES = {
  relaxed: () => new URL("engine-relaxed.wasm", import.meta.url),
  simd: () => new URL("engine-simd.wasm", import.meta.url),
  scalar: () => new URL("engine-scalar.wasm", import.meta.url),
};

// Modules of one function that uses the instructions: i16x8.relaxed_dot_i8x16_i7x16_s, i8x16.popcnt.
const PROBES = {
  relaxed: [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15,
    253, 146, 2, 11,
  ],
  simd: [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11],
};

const compiled = new Map();

/** The name of the fastest module that runs here: all three give the same bits. */
function fastest() {
  for (const [name, probe] of Object.entries(PROBES)) if (WebAssembly.validate(new Uint8Array(probe))) return name;
  return "scalar";
}

/** A compiled module: by its name, its address or its bytes; undefined: the fastest that runs here. */
async function moduleOf(wasm = fastest()) {
  if (typeof wasm === "string" && !FILES[wasm]) {
    throw new EdgekitError(`wasm must be "relaxed", "simd" or "scalar", or a URL or the bytes of one, not "${wasm}"`);
  }
  const source = typeof wasm === "string" ? FILES[wasm]() : wasm;
  const key = source instanceof URL ? source.href : source;
  if (!compiled.has(key)) compiled.set(key, bytesOf(source).then((bytes) => WebAssembly.compile(bytes)));
  try {
    return await compiled.get(key);
  } catch (error) {
    compiled.delete(key); // the network may be back next time
    throw error instanceof EdgekitError ? error : new EdgekitError(`the engine cannot be used here: ${error.message}`);
  }
}

/** An instance of the engine, with the memory of one model. */
export class Engine {
  #exports;

  static async create(wasm) {
    const engine = new Engine();
    engine.#exports = (await WebAssembly.instantiate(await moduleOf(wasm))).exports;
    return engine;
  }

  /** Calls a function; a trap, which should not happen, makes the instance unusable. */
  call(name, ...values) {
    if (!this.#exports) throw new EdgekitError("the model is closed");
    try {
      return this.#exports[name](...values);
    } catch (error) {
      this.close();
      throw new EdgekitError(`the engine stopped in ${name} (${error.message}): load the model again`);
    }
  }

  /** The same; a negative status is an error. */
  check(name, ...values) {
    const status = this.call(name, ...values);
    if (status >= 0) return status;
    throw new EdgekitError(this.sentence() || `the engine failed in ${name}: status ${status}`);
  }

  /** The sentence about the last error; it is read once. */
  sentence() {
    const at = this.call("error_text");
    const text = this.string(at);
    this.bytes(at, 1)[0] = 0;
    return text;
  }

  /** The first `names.length` numbers that a function left, by name. `count`: what it returned. */
  record(names, count) {
    if (count !== names.length) throw new EdgekitError("index.js and the .wasm file are of different versions");
    const values = this.numbers(count);
    return Object.fromEntries(names.map((name, i) => [name, values[i]]));
  }

  numbers(count) {
    return new Float64Array(this.memory.buffer, this.call("numbers"), count);
  }

  get memory() {
    if (!this.#exports) throw new EdgekitError("the model is closed");
    return this.#exports.memory;
  }

  get isOpen() {
    return this.#exports !== undefined;
  }

  /** A view of memory: it ends with the next call that may need more. */
  bytes(at, length) {
    return new Uint8Array(this.memory.buffer, at, length);
  }

  /** A text that ends with a NUL. */
  string(at) {
    const bytes = this.bytes(at);
    return decoded(bytes.subarray(0, bytes.indexOf(0)));
  }

  /** Space for so many bytes, on top of what is in use. */
  space(size) {
    return this.#place(this.call("space", size));
  }

  fileSpace(size) {
    return this.#place(this.call("file_space", size));
  }

  #place(at) {
    if (at) return at >>> 0;
    throw new EdgekitError(this.sentence());
  }

  put(bytes) {
    const at = this.space(bytes.length);
    this.bytes(at, bytes.length).set(bytes);
    return at;
  }

  putIds(ids) {
    return this.put(new Uint8Array(Uint32Array.from(ids).buffer));
  }

  /** What `work` takes from `space` is given back. */
  within(work) {
    const mark = this.call("mark");
    try {
      return work();
    } finally {
      if (this.#exports) this.call("release", mark);
    }
  }

  close() {
    this.#exports = undefined;
  }
}
