// The sampler: from logits to a token, as in edgekit/inference/sampling.py. The same seed gives the same tokens.
//
// Repetition penalty over prompt and text so far, bias and bans, temperature (these in float32), top-k, softmax
// (float64), top-p, min-p, one draw. The draw is a race: each remaining token has a uniform number u(seed, step, id),
// and the smallest -ln(u) / probability wins. Arithmetic and its order are numpy's; Math.exp and Math.log may differ from
// numpy's in the last bit, which changes the winner only if two tokens are that close.

import { SettingError } from "./errors.js";
import { uniform } from "./random.js";
import { makeSettings } from "./settings.js";

/** The sampler of one text: it remembers the tokens so far and the number of draws. */
export class Sampler {
  last = null;
  #step = 0;
  #seen;
  #bias;

  /**
   * `settings`: see settings.js. `vocabSize`: length of the logits. `seen`: ids of the prompt, which the repetition
   * penalty covers too. Throws `SettingError`: an id of `logit_bias` or `banned` is outside the vocabulary.
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
   * The distribution of the next token: ascending `ids` (Int32Array) and their `probabilities` (Float64Array), which
   * sum to 1. At temperature 0 only the likeliest token, the lowest id among equals.
   *
   * `logits`: Float32Array (vocabSize), not changed. `allowed`: 0 or 1 for each id, masks ids for this step. Throws
   * `SettingError` if no token is possible.
   */
  distribution(logits, allowed = null) {
    const { temperature, top_k, top_p, min_p } = this.settings;
    const scores = this.#processed(logits, allowed);
    if (temperature === 0) return { ids: Int32Array.of(likeliest(scores)), probabilities: Float64Array.of(1) };
    const divisor = Math.fround(temperature);
    for (let id = 0; id < scores.length; id++) scores[id] /= divisor;
    if (!Number.isFinite(maximum(scores))) {
      throw new SettingError(`temperature ${temperature} is too small to divide by: 0 takes the most likely token`);
    }
    let ids = keepTopK(scores, top_k);
    let probabilities = softmax(pick(scores, ids));
    const least = Math.max(min_p * maximum(probabilities), Number.MIN_VALUE); // removes impossible tokens
    const kept = top_p < 1 ? keepTopP(probabilities, top_p, least) : atLeast(probabilities, least);
    ids = pick(ids, kept);
    probabilities = pick(probabilities, kept);
    const total = sum(probabilities);
    return { ids, probabilities: probabilities.map((probability) => probability / total) };
  }

  /** Draw the next token and remember it for the penalty. `last` is its distribution. Throws like `distribution`. */
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

  /** A copy of the logits after penalty, bias and bans. Writing to a Float32Array rounds to float32. */
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

/** Ascending indices of the values that are at least `bound`. */
function atLeast(values, bound) {
  const indices = new Int32Array(values.length);
  let count = 0;
  for (let i = 0; i < values.length; i++) if (values[i] >= bound) indices[count++] = i;
  return indices.subarray(0, count);
}

/** `values` at these indices, in an array of the same type. */
function pick(values, indices) {
  const picked = new values.constructor(indices.length);
  for (let i = 0; i < indices.length; i++) picked[i] = values[indices[i]];
  return picked;
}

/** Ascending ids of the k largest scores, with all ties of the smallest of them; all ids if k is 0. */
function keepTopK(scores, k) {
  return atLeast(scores, k > 0 && k < scores.length ? scores.slice().sort()[scores.length - k] : -Infinity);
}

/**
 * Ascending indices of the fewest probabilities that reach p, likeliest first and lower indices first among equals; of
 * those, the ones that are at least `least`.
 */
function keepTopP(probabilities, p, least) {
  const largest = maximum(probabilities);
  let sorted;
  // Sorting only the values above a bound is cheaper, and enough if they sum to more than p.
  for (const bound of [largest * 2 ** -6, largest * 2 ** -14, Number.MIN_VALUE]) {
    sorted = pick(probabilities, atLeast(probabilities, bound));
    if (sum(sorted) > p + 1e-9) break;
  }
  sorted.sort();
  let edge = 0;
  let equal = 0; // how many values equal to the edge are included
  for (let i = sorted.length - 1, reached = 0; i >= 0 && (!equal || reached < p); i--) {
    equal = sorted[i] === edge ? equal + 1 : 1;
    edge = sorted[i];
    reached += edge;
  }
  const above = (probability) => probability > edge || (probability === edge && equal-- > 0);
  return atLeast(probabilities, Math.max(edge, least)).filter((index) => above(probabilities[index]));
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

/** Adds in numpy's order, for the same rounding: eight parallel sums in blocks of at most 128, and blocks in pairs. */
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

/** A random seed for a text without one. It is not a secret: the result contains it. */
function randomSeed() {
  return globalThis.crypto?.getRandomValues(new Uint32Array(1))[0] ?? Math.floor(Math.random() * 2 ** 32);
}
