// A model file and its tokenizer as one thing that answers requests with events: what the worker runs, and Node in tests.

import { encodePrompt, Stream } from "./core/generate.js";
import { softmax } from "./core/sampler.js";
import { TokenMonsterTokenizer } from "./core/tokenizer.js";
import { carried } from "./onnx_file.js";
import { OnnxRuntime } from "./onnx_runtime.js";

export class Storyteller {
  /** `ort`: onnxruntime-web's module, set up; `data`: a fused `.onnx` of edgekit's, a Uint8Array. */
  static async open(ort, data, provider) {
    const teller = new Storyteller();
    const { files } = carried(data);
    if (!files["config.json"]) throw new Error("this .onnx carries no config.json: make it with edgekit convert");
    const config = JSON.parse(new TextDecoder().decode(files["config.json"]));
    teller.tokenizer = TokenMonsterTokenizer.fromFiles(files, config.vocab_size);
    teller.runtime = await OnnxRuntime.open(ort, data, config, provider);
    return teller;
  }

  #pieces = new Map();

  /** What a token reads as in the middle of a text; the spelling of a special one. As edgekit/web/tokens.py `Pieces`. */
  piece(id) {
    if (!this.#pieces.size) for (const [spelling, special] of this.tokenizer.specials) this.#pieces.set(special, spelling);
    if (!this.#pieces.has(id)) {
      const decoder = this.tokenizer.decoder(this.tokenizer.encode("a"));
      this.#pieces.set(id, decoder.feed(id) + decoder.flush());
    }
    return this.#pieces.get(id);
  }

  /**
   * The events of one request, as engine_server.js lists them; `signal` ends the text after the current token.
   * `before` is a token's probability by the model, `after` by what the sampler left; both null unless `top` is asked.
   */
  async *answer({ prompt, tokens, settings, top = 0 }, signal) {
    const { seed, ...others } = settings;
    const given = tokens ?? encodePrompt(this.tokenizer, prompt);
    let waiting = [];
    const inspect = (id, logits, drawn) => waiting.push(this.#described(id, logits, drawn, top));
    const stream = new Stream(this.runtime, this.tokenizer, given, { ...others, seed: seed ?? null }, { signal, inspect });
    const { result } = stream;
    let started = false;
    const start = () => {
      started = true;
      const decoder = this.tokenizer.decoder(); // what each adds to the text, as against `piece`
      const pieces = result.prompt.map((id) => decoder.feed(id));
      pieces[pieces.length - 1] += decoder.flush();
      return { type: "start", tokens: result.prompt, pieces, seed: result.seed };
    };
    for await (const text of stream) {
      if (!started) yield start();
      // Tokens that gave no text of their own (half a character) come with the one that completes it.
      const last = waiting.pop();
      for (const silent of waiting) yield { ...silent, text: "" };
      waiting = [];
      if (last) yield { ...last, text };
    }
    if (!started) yield start();
    for (const silent of waiting) yield { ...silent, text: "" };
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

  #described(id, logits, drawn, top) {
    if (!top) return { type: "token", id, piece: this.piece(id), before: null, after: null, top: [] };
    const before = softmax(logits);
    const after = new Map(Array.from(drawn.ids, (one, i) => [one, drawn.probabilities[i]]));
    const of = (one) => ({ id: one, piece: this.piece(one), before: before[one], after: after.get(one) ?? 0 });
    return { type: "token", ...of(id), top: likeliest(before, top).map(of) };
  }
}

/** Ids of the largest values in descending order, lower ids first. */
export function likeliest(values, count) {
  const found = [];
  for (let id = 0; id < values.length; id++) {
    if (found.length === count && values[id] <= values[found[count - 1]]) continue;
    let at = found.length;
    while (at > 0 && values[id] > values[found[at - 1]]) at--;
    found.splice(at, 0, id);
    if (found.length > count) found.pop();
  }
  return found;
}
