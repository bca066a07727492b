// A model of the engine, which answers requests with events. Runs in the worker, and in Node in tests.

import { encodeConversation } from "./chat.js";

// A request's names, which are the server's, and those of the npm package.
const NAMES = {
  temperature: "temperature", top_p: "topP", top_k: "topK", min_p: "minP", repetition_penalty: "repetitionPenalty",
  max_new_tokens: "maxNewTokens", seed: "seed",
};

export class Model {
  /** `engine`: a model that edgekit-lm's `load` opened. */
  constructor(engine) {
    this.engine = engine;
  }

  /** What the page shows of a file that `export-web` did not describe. */
  get info() {
    const { parameters, bytes, contextLength, vocabulary, defaults } = this.engine.info;
    const named = Object.entries(NAMES).map(([name, own]) => [name, defaults[own]]);
    return { parameters, bytes, context_length: contextLength, vocab_size: vocabulary, defaults: Object.fromEntries(named) };
  }

  /**
   * The events of a request, as listed in engine_server.js; `signal` ends the text after the current token. `before` is a
   * token's probability from the model, `after` the one after the sampler; both are null if `top` is 0.
   */
  async *answer({ prompt, tokens, settings, top = 0, ends = [] }, signal) {
    const named = Object.entries(settings).map(([name, value]) => [NAMES[name], value ?? undefined]);
    const begin = performance.now();
    const stream = this.engine.stream(tokens ?? prompt, { ...Object.fromEntries(named), top, ends, signal });
    const { result } = stream;
    yield { type: "start", tokens: result.promptIds, pieces: top ? this.#pieces(result.promptIds) : [], seed: result.seed };
    let first = null;
    for await (const { id, text, ...chances } of stream.tokens()) {
      first ??= performance.now();
      yield { type: "token", id, text, piece: this.#piece(id), ...this.#chances(chances) };
    }
    const seconds = first === null ? 0 : (performance.now() - first) / 1000;
    yield {
      type: "end",
      finish_reason: result.finishReason,
      tokens: result.ids,
      text: result.text,
      tokens_per_second: seconds > 0 ? (result.ids.length - 1) / seconds : 0,
      first_token_seconds: first === null ? 0 : (first - begin) / 1000,
    };
  }

  /**
   * The events of an answer to a conversation; `start` has `dropped`, the number of messages that were left out. `chat`:
   * the strings of the model's template, and `ends`, the ids that end a turn.
   */
  async *converse({ messages, settings }, chat, signal) {
    const encode = (text) => this.engine.encode(text, { bos: false, special: true });
    const { contextLength } = this.engine.info;
    const { ids, dropped } = encodeConversation(encode, chat, messages, contextLength, settings.max_new_tokens);
    const request = { tokens: ids, settings, ends: chat.ends };
    for await (const event of this.answer(request, signal)) yield event.type === "start" ? { ...event, dropped } : event;
  }

  #chances({ before = null, after = null, top = [] }) {
    return { before, after, top: top.map((one) => ({ ...one, piece: this.#piece(one.id) })) };
  }

  #piece(id) {
    return this.engine.piece(id);
  }

  /** What each id of a prompt adds to its text; the bytes of a character belong to the last of its ids. */
  #pieces(ids) {
    let before = "";
    return ids.map((_, i) => {
      const read = this.engine.decode(ids.slice(0, i + 1));
      const whole = i + 1 < ids.length ? read.replace(/\ufffd+$/, "") : read;
      const piece = whole.slice(before.length);
      before = whole.length > before.length ? whole : before;
      return piece;
    });
  }
}
