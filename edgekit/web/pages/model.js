// A model and its tokenizer, which answers requests with events. Runs in the worker, and in Node in tests.

import { encodeConversation } from "./core/chat.js";
import { encodePrompt, Stream } from "./core/generate.js";
import { softmax } from "./core/sampler.js";
import { TokenMonsterTokenizer } from "./core/tokenizer.js";
import { readMetadata } from "./onnx_file.js";
import { OnnxRuntime } from "./onnx_runtime.js";

export class Model {
  /** `ort`: onnxruntime-web's module, configured; `data`: a fused `.onnx` from edgekit, a Uint8Array. */
  static async open(ort, data, provider) {
    const model = new Model();
    const { files } = readMetadata(data);
    if (!files["config.json"]) throw new Error("this .onnx contains no config.json: create it with edgekit convert");
    const config = JSON.parse(new TextDecoder().decode(files["config.json"]));
    model.tokenizer = TokenMonsterTokenizer.fromFiles(files, config.vocab_size);
    model.runtime = await OnnxRuntime.open(ort, data, config, provider);
    return model;
  }

  #pieces = new Map();

  /** The text of a token in the middle of a text, or the spelling of a special token; see `Tokenizer.piece` in edgekit. */
  piece(id) {
    if (!this.#pieces.size) for (const [spelling, special] of this.tokenizer.specials) this.#pieces.set(special, spelling);
    if (!this.#pieces.has(id)) {
      const decoder = this.tokenizer.decoder(this.tokenizer.encode("a"));
      this.#pieces.set(id, decoder.feed(id) + decoder.flush());
    }
    return this.#pieces.get(id);
  }

  /**
   * The events of a request, as listed in engine_server.js; `signal` ends the text after the current token. `before` is a
   * token's probability from the model, `after` the one after the sampler; both are null if `top` is 0.
   */
  async *answer({ prompt, tokens, settings, top = 0, ends = [] }, signal) {
    const { seed, ...others } = settings;
    const ids = tokens ?? encodePrompt(this.tokenizer, prompt);
    let pending = [];
    const inspect = (id, logits, drawn) => pending.push(this.#describe(id, logits, drawn, top));
    const stream = new Stream(this.runtime, this.tokenizer, ids, { ...others, seed: seed ?? null }, { signal, inspect, ends });
    const { result } = stream;
    let started = false;
    const start = () => {
      started = true;
      const decoder = this.tokenizer.decoder(); // the text that each token adds here, unlike `piece`
      const pieces = result.prompt.map((id) => decoder.feed(id));
      pieces[pieces.length - 1] += decoder.flush();
      return { type: "start", tokens: result.prompt, pieces, seed: result.seed };
    };
    for await (const text of stream) {
      if (!started) yield start();
      // Tokens without text (half a character) come before the one that completes it.
      const last = pending.pop();
      for (const silent of pending) yield { ...silent, text: "" };
      pending = [];
      if (last) yield { ...last, text };
    }
    if (!started) yield start();
    for (const silent of pending) yield { ...silent, text: "" };
    const { timings } = result;
    yield {
      type: "end",
      finish_reason: result.finish_reason,
      tokens: result.tokens,
      text: result.text,
      tokens_per_second: timings.decode > 0 ? (timings.new_tokens - 1) / timings.decode : 0,
      first_token_seconds: timings.first_token,
    };
  }

  /**
   * The events of an answer to a conversation; `start` has `dropped`, the number of messages that were left out. `chat`:
   * the strings of the model's template, and `ends`, the ids that end a turn.
   */
  async *converse({ messages, settings }, chat, signal) {
    const { contextLength } = this.runtime;
    const { ids, dropped } = encodeConversation(this.tokenizer, chat, messages, contextLength, settings.max_new_tokens);
    const request = { tokens: ids, settings: { truncate: "left", ...settings }, ends: chat.ends };
    for await (const event of this.answer(request, signal)) yield event.type === "start" ? { ...event, dropped } : event;
  }

  #describe(id, logits, drawn, top) {
    if (!top) return { type: "token", id, piece: this.piece(id), before: null, after: null, top: [] };
    const before = softmax(logits);
    const after = new Map(Array.from(drawn.ids, (one, i) => [one, drawn.probabilities[i]]));
    const of = (one) => ({ id: one, piece: this.piece(one), before: before[one], after: after.get(one) ?? 0 });
    return { type: "token", ...of(id), top: likeliest(before, top).map(of) };
  }
}

/** Ids of the largest values in descending order; lower ids come first among equals. */
export function likeliest(values, count) {
  const best = [];
  for (let id = 0; id < values.length; id++) {
    if (best.length === count && values[id] <= values[best[count - 1]]) continue;
    let at = best.length;
    while (at > 0 && values[id] > values[best[at - 1]]) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}
