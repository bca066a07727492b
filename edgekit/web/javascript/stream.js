// A text being generated: the prompt read in slices, then a token at a time.

import { chancesOf } from "./chances.js";
import { EdgekitError } from "./source.js";
import { decoded } from "./values.js";

const FINISH = [null, "stop", "length", "cancelled"];
const SLICE = 64; // tokens of a prompt that are read at once
const PATIENCE = 12; // milliseconds after which the event loop gets its turn

export const RUNNING = "the model is generating another text: end that first, or load the model twice";

/** How many ids at the beginning of a prompt the cache holds; the last one is always read, for its logits. */
export function shared(held, prompt) {
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
    const piece = length ? decoded(engine.bytes(at, length)) : "";
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
