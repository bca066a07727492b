// The generation loop: prompt ids in, text out, with the same pieces, tokens and finish reasons as in
// edgekit/inference/generate.py.
//
//     prefill -> choose -> yield -> (stop?) -> decode step -> choose -> ...
//
// No forward call is made after the last token. The tokenizer's stream decoder produces the text, and a piece that may
// be the beginning of a stop string is withheld until that is certain.
//
// A runtime is any object with
//     vocabSize, contextLength        numbers
//     forward(ids)                    appends an array of ids; returns a Promise of the logits after the last one,
//                                     Float32Array (vocabSize)
//     rewind(length)                  keeps the first `length` tokens (0: none); may return a Promise

import { ContextError, PromptError } from "./errors.js";
import { logSoftmax, Sampler } from "./sampler.js";
import { makeSettings } from "./settings.js";
import { requireUtf8 } from "./tokenmonster.js";

/** The ids of a prompt, with BOS first if the model uses it. Throws `PromptError`: empty, or not UTF-8. */
export function encodePrompt(tokenizer, prompt) {
  requireUtf8(prompt, "the prompt");
  const ids = tokenizer.encode(prompt);
  if (!ids.length) {
    const why = prompt ? "has no character that the vocabulary can write" : "is empty";
    throw new PromptError(`the prompt ${why}: give the model at least one character to continue from`);
  }
  return tokenizer.bos === null ? ids : [tokenizer.bos, ...ids];
}

/**
 * Generates a text piece by piece: `for await (const piece of stream)`. `result` has everything so far, and is complete
 * at the end:
 *
 *     prompt          ids of the prompt, with BOS
 *     tokens          generated ids; the last may be the one that ends a text
 *     text            the text of `tokens`, up to a stop string
 *     finish_reason   "stop" (end of text or a stop string), "length" (max_new_tokens or the context), "cancelled";
 *                     null at first
 *     logprobs        null, or {token, logprob, top: [[id, logprob], ...]} for each token, before the sampler
 *     seed            the seed that was used
 *     timings         seconds: prefill; first_token, from the call to the first token chosen; decode, the tokens after
 *                     it. prompt_tokens, new_tokens
 *
 * Leaving the loop, `cancel()`, or an AbortSignal ends the text after the current token.
 */
export class Stream {
  #runtime;
  #tokenizer;
  #settings;
  #ends;
  #stopped;
  #inspect;
  #pieces;

  /**
   * `prompt`: text, or an array of ids. `settings`: see settings.js. `signal`: an AbortSignal; `cancelled`: a function
   * called after each token, true cancels. `inspect(token, logits, {ids, probabilities})`: called for each chosen token
   * with the model's logits and the distribution that the sampler drew from. `ends`: ids that end the text besides those
   * of the tokenizer. Throws `SettingError`, `PromptError`, `ContextError`.
   */
  constructor(runtime, tokenizer, prompt, settings = {}, { signal, cancelled, inspect, ends = [] } = {}) {
    this.#runtime = runtime;
    this.#tokenizer = tokenizer;
    this.#settings = makeSettings(settings);
    this.#ends = new Set([...tokenizer.stop, ...ends]);
    let cancelRequested = false;
    this.cancel = () => {
      cancelRequested = true;
    };
    this.#stopped = () => cancelRequested || signal?.aborted || cancelled?.();
    this.#inspect = inspect;
    const ids = typeof prompt === "string" ? encodePrompt(tokenizer, prompt) : Array.from(prompt);
    this.result = {
      prompt: fit(ids, runtime.contextLength, this.#settings, tokenizer.bos),
      tokens: [],
      text: "",
      finish_reason: null,
      logprobs: null,
      seed: 0,
      timings: { prefill: 0, first_token: 0, decode: 0, prompt_tokens: 0, new_tokens: 0 },
    };
    this.#pieces = this.#run();
  }

  [Symbol.asyncIterator]() {
    return this.#pieces;
  }

  /** Run to the end and return the result. */
  async drain() {
    for await (const _ of this.#pieces);
    return this.result;
  }

  async *#run() {
    const { result } = this;
    const { timings } = result;
    const settings = this.#settings;
    const decoder = this.#tokenizer.decoder(result.prompt);
    const sampler = new Sampler(settings, this.#runtime.vocabSize, result.prompt);
    const text = new StopText(settings.stop);
    result.seed = sampler.seed;
    result.logprobs = settings.logprobs === null ? null : [];
    result.finish_reason = "cancelled"; // the reason if the iteration is not finished
    const begin = performance.now();
    const since = (start) => (performance.now() - start) / 1000;
    await this.#runtime.rewind(0);
    let logits = await this.#runtime.forward(result.prompt);
    timings.prompt_tokens = result.prompt.length;
    timings.prefill = since(begin);
    let first = null;
    for (;;) {
      const token = sampler.choose(logits, this.#allowed(decoder));
      first ??= performance.now();
      result.tokens.push(token);
      timings.first_token = (first - begin) / 1000;
      timings.decode = since(first);
      timings.new_tokens = result.tokens.length;
      if (result.logprobs) result.logprobs.push(tokenLogprob(logits, token, settings.logprobs));
      this.#inspect?.(token, logits, sampler.last);
      let reason = this.#finished(token);
      let piece = text.add(this.#ends.has(token) ? "" : decoder.feed(token));
      if (reason && !text.found) piece += text.add(this.#rest(decoder)) + text.flush();
      if (text.found) reason = "stop";
      result.text += piece;
      if (reason) result.finish_reason = reason;
      if (piece) yield piece;
      if (reason) return;
      if (this.#stopped()) {
        const rest = text.add(this.#rest(decoder)) + text.flush();
        result.text += rest;
        if (rest) yield rest;
        return;
      }
      logits = await this.#runtime.forward([token]);
    }
  }

  #finished(token) {
    const { prompt, tokens } = this.result;
    if (this.#ends.has(token) && !this.#settings.ignore_eos) return "stop";
    const full = prompt.length + tokens.length > this.#runtime.contextLength;
    return full || tokens.length >= this.#settings.max_new_tokens ? "length" : null;
  }

  /** The mask of `ban_replacement`; it does not allow beginning a character that cannot be finished in time. */
  #allowed(decoder) {
    if (!this.#settings.ban_replacement) return null;
    const free = this.#runtime.contextLength - this.result.prompt.length;
    const remaining = Math.min(this.#settings.max_new_tokens - 1, free) - this.result.tokens.length;
    return this.#tokenizer.utf8Mask(decoder, remaining);
  }

  /** The text that the decoder withheld, without U+FFFD under `ban_replacement`. */
  #rest(decoder) {
    const rest = decoder.flush();
    return this.#settings.ban_replacement ? rest.replaceAll("\ufffd", "") : rest;
  }
}

/** Withholds text while its end may be the beginning of a stop string. */
export class StopText {
  #stops;
  #pending = "";

  constructor(stops) {
    this.#stops = stops;
    this.found = false;
  }

  /** The text that is certain now; empty once a stop string was found. */
  add(piece) {
    if (this.found || !this.#stops.length) return this.found ? "" : piece;
    this.#pending += piece;
    const pending = this.#pending;
    const places = this.#stops.map((stop) => pending.indexOf(stop)).filter((at) => at >= 0);
    this.found = places.length > 0;
    const certain = this.found
      ? Math.min(...places)
      : pending.length - Math.max(...this.#stops.map((stop) => overlap(pending, stop)));
    this.#pending = this.found ? "" : pending.slice(certain);
    return pending.slice(0, certain);
  }

  flush() {
    const pending = this.#pending;
    this.#pending = "";
    return pending;
  }
}

/** Length of the longest suffix of `text` that is a proper prefix of `stop`. */
function overlap(text, stop) {
  let length = Math.min(text.length, stop.length - 1);
  while (length > 0 && !text.endsWith(stop.slice(0, length))) length--;
  return length;
}

/** Log-probabilities (natural logarithm) from logits; the `top` likeliest in descending order, lower ids first. */
export function tokenLogprob(logits, token, top) {
  const logprobs = logSoftmax(logits);
  const ids = top ? Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b) : [];
  return { token, logprob: logprobs[token], top: ids.slice(0, top).map((id) => [id, logprobs[id]]) };
}

/**
 * The prompt, checked against the context. With `truncate: "left"` a prompt that is too long loses its beginning (but
 * not BOS), so that `max_new_tokens` fit after it; at least half of the context is kept.
 *
 * Throws `PromptError`: no ids at all; `ContextError`: more ids than fit in the context, and `truncate` is not set.
 */
export function fit(prompt, contextLength, settings, bos) {
  if (!prompt.length) {
    throw new PromptError("the prompt is empty: give the model at least one character to continue from");
  }
  if (prompt.length <= contextLength) return prompt;
  if (settings.truncate !== "left") {
    throw new ContextError(
      `the prompt has ${prompt.length} tokens, but the model's context holds ${contextLength}: ` +
        "shorten it, or set truncate to left to drop its beginning",
    );
  }
  const keep = Math.max(contextLength - settings.max_new_tokens, Math.floor(contextLength / 2), 1);
  const head = prompt[0] === bos && keep > 1 ? prompt.slice(0, 1) : [];
  return [...head, ...prompt.slice(prompt.length - (keep - head.length))];
}
