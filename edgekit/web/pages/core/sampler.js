// One chain from logits to a token: edgekit/inference/sampling.py in JavaScript. The same seed gives the same tokens.
//
// Repetition penalty over prompt and text so far, bias and bans, temperature (these in float32), top-k, softmax
// (float64), top-p, min-p, one draw. The draw is a race: each token left has a uniform number u(seed, step, id), and
// the least -ln(u) / probability wins. Arithmetic and order are numpy's; Math.exp and Math.log may differ from numpy's
// in the last bit, which decides a race otherwise only if two tokens run that close.

import { SettingError } from "./errors.js";
import { uniform } from "./random.js";
import { makeSettings } from "./settings.js";

/** The chain for one text: it remembers what was said, and how many tokens it drew. */
export class Sampler {
  last = null;
  #step = 0;
  #seen;
  #bias;

  /**
   * `settings`: see settings.js. `vocabSize`: length of the logits. `seen`: ids of the prompt, which the repetition
   * penalty counts too. Throws `SettingError`: an id of `logit_bias` or `banned` lies outside the vocabulary.
   */
  constructor(settings, vocabSize, seen = []) {
    this.settings = makeSettings(settings);
    this.seed = this.settings.seed ?? randomSeed();
    this.#seen = new Uint8Array(vocabSize);
    for (const id of seen) this.#seen[id] = 1;
    const bias = this.settings.logit_bias;
    this.#bias = [...(bias instanceof Map ? bias : Object.entries(bias))].map(([id, value]) => [Number(id), value]);
    for (const [name, ids] of [["logit_bias", this.#bias.map(([id]) => id)], ["banned", this.settings.banned]]) {
      for (const id of ids) {
        if (!(Number.isInteger(id) && id >= 0 && id < vocabSize)) {
          throw new SettingError(`${name}: token id ${id} is outside the vocabulary of ${vocabSize}`);
        }
      }
    }
  }

  /**
   * What the next token is drawn from: ascending `ids` (Int32Array) and their `probabilities` (Float64Array), which
   * sum to 1. At temperature 0 it is the likeliest token alone, the lowest id among equals.
   *
   * `logits`: Float32Array (vocabSize), left as it is. `allowed`: 0 or 1 for each id, masks ids for this step. Throws
   * `SettingError` if nothing may follow.
   */
  distribution(logits, allowed = null) {
    const { temperature, top_k, top_p, min_p } = this.settings;
    const scores = this.#processed(logits, allowed);
    if (temperature === 0) return { ids: Int32Array.of(likeliest(scores)), probabilities: Float64Array.of(1) };
    const divisor = Math.fround(temperature);
    for (let id = 0; id < scores.length; id++) scores[id] /= divisor;
    if (!Number.isFinite(maximum(scores))) {
      throw new SettingError(`temperature ${temperature} is too small to divide by: 0 takes the likeliest token`);
    }
    let ids = keepTopK(scores, top_k);
    let probabilities = softmax(pick(scores, ids));
    const least = Math.max(min_p * maximum(probabilities), Number.MIN_VALUE); // what is impossible is out
    const kept = top_p < 1 ? keepTopP(probabilities, top_p, least) : atLeast(probabilities, least);
    ids = pick(ids, kept);
    probabilities = pick(probabilities, kept);
    const total = sum(probabilities);
    return { ids, probabilities: probabilities.map((probability) => probability / total) };
  }

  /** The next token, remembered for the repetition penalty; `last` is what it was drawn from. Throws as `distribution`. */
  choose(logits, allowed = null) {
    this.last = this.distribution(logits, allowed);
    const { ids, probabilities } = this.last;
    let winner = 0;
    if (this.settings.temperature > 0) {
      const numbers = uniform(this.seed, this.#step, ids);
      let best = Infinity;
      for (let i = 0; i < ids.length; i++) {
        const time = -Math.log(numbers[i]) / probabilities[i];
        if (time < best) {
          best = time;
          winner = i;
        }
      }
      this.#step++;
    }
    this.#seen[ids[winner]] = 1;
    return ids[winner];
  }

  /** A copy of the logits after penalty, bias and bans. A Float32Array rounds what is written to it to float32. */
  #processed(logits, allowed) {
    const scores = new Float32Array(logits);
    const penalty = Math.fround(this.settings.repetition_penalty);
    if (this.settings.repetition_penalty !== 1) {
      for (let id = 0; id < scores.length; id++) {
        if (this.#seen[id]) scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
      }
    }
    for (const [id, value] of this.#bias) scores[id] += Math.fround(value);
    for (const id of this.settings.banned) scores[id] = -Infinity;
    let finite = false;
    for (let id = 0; id < scores.length; id++) {
      if (allowed && !allowed[id]) scores[id] = -Infinity;
      if (Number.isNaN(scores[id]) || scores[id] === Infinity) {
        throw new SettingError("the logits are not finite: a logit_bias is too large, or the model is damaged");
      }
      finite ||= scores[id] !== -Infinity;
    }
    if (!finite) throw new SettingError("every token is banned: nothing can follow");
    return scores;
  }
}

function likeliest(scores) {
  let best = 0;
  for (let id = 1; id < scores.length; id++) if (scores[id] > scores[best]) best = id;
  return best;
}

function maximum(values) {
  let most = -Infinity;
  for (let i = 0; i < values.length; i++) if (values[i] > most) most = values[i];
  return most;
}

/** Ascending places of the values that reach a bound. */
function atLeast(values, bound) {
  const places = new Int32Array(values.length);
  let count = 0;
  for (let i = 0; i < values.length; i++) if (values[i] >= bound) places[count++] = i;
  return places.subarray(0, count);
}

/** `values` at these places, in an array of the same type. */
function pick(values, places) {
  const picked = new values.constructor(places.length);
  for (let i = 0; i < places.length; i++) picked[i] = values[places[i]];
  return picked;
}

/** Ascending ids of the k largest scores, and of all that tie with the smallest of them; all if k is 0. */
function keepTopK(scores, k) {
  return atLeast(scores, k > 0 && k < scores.length ? scores.slice().sort()[scores.length - k] : -Infinity);
}

/**
 * Ascending places of the fewest probabilities that reach p, likeliest first and lower places first among equals; of
 * those, the ones that are at least `least`.
 */
function keepTopP(probabilities, p, least) {
  const largest = maximum(probabilities);
  let sorted;
  // Sorting only what reaches a bound is cheaper, and enough if it sums to more than p.
  for (const bound of [largest * 2 ** -6, largest * 2 ** -14, Number.MIN_VALUE]) {
    sorted = pick(probabilities, atLeast(probabilities, bound));
    if (sum(sorted) > p + 1e-9) break;
  }
  sorted.sort();
  let edge = 0;
  let equal = 0; // how many of those that equal the edge belong to the fewest
  for (let i = sorted.length - 1, reached = 0; i >= 0 && reached < p; i--) {
    equal = sorted[i] === edge ? equal + 1 : 1;
    edge = sorted[i];
    reached += edge;
  }
  const above = (probability) => probability > edge || (probability === edge && equal-- > 0);
  return atLeast(probabilities, Math.max(edge, least)).filter((place) => above(probabilities[place]));
}

/** In float64; minus infinity becomes 0. */
export function softmax(logits) {
  const largest = maximum(logits);
  const weights = new Float64Array(logits.length);
  for (let i = 0; i < logits.length; i++) weights[i] = Math.exp(logits[i] - largest);
  const total = sum(weights);
  for (let i = 0; i < weights.length; i++) weights[i] /= total;
  return weights;
}

/** In float64. */
export function logSoftmax(logits) {
  const largest = maximum(logits);
  const shifted = Float64Array.from(logits, (logit) => logit - largest);
  const total = Math.log(sum(shifted.map((value) => Math.exp(value))));
  return shifted.map((value) => value - total);
}

/** As numpy adds: eight sums side by side in blocks of at most 128, and blocks in pairs. The rounding is the same. */
export function sum(values, start = 0, count = values.length) {
  if (count > 128) {
    const half = Math.floor(count / 2);
    const left = half - (half % 8);
    return sum(values, start, left) + sum(values, start + left, count - left);
  }
  const end = start + count;
  const whole = count < 8 ? start : end - (count % 8);
  let total = 0;
  if (whole > start) {
    const r = values.slice(start, start + 8);
    for (let i = start + 8; i < whole; i += 8) for (let k = 0; k < 8; k++) r[k] += values[i + k];
    total = r[0] + r[1] + (r[2] + r[3]) + (r[4] + r[5] + (r[6] + r[7]));
  }
  for (let i = whole; i < end; i++) total += values[i];
  return total;
}

/** A seed for a text that was given none. It need not be a secret: it is told in the result. */
function randomSeed() {
  return globalThis.crypto?.getRandomValues(new Uint32Array(1))[0] ?? Math.floor(Math.random() * 2 ** 32);
}
