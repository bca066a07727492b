// The settings: names, defaults and ranges of `Sampling` and `Generating` in edgekit/settings.py.

import { SettingError } from "./errors.js";

const number = (low, high, above = false) => (value) =>
  typeof value === "number" && Number.isFinite(value) && value <= high && (above ? value > low : value >= low);
const whole = (low) => (value) => Number.isSafeInteger(value) && value >= low;
const isSeed = (value) => whole(0)(value) || (typeof value === "bigint" && value >= 0n && value <= 1n << 63n);
const anything = () => true;

// name: [default, test, range in words]. A default of null means "not set", which a caller may say too.
const FIELDS = {
  temperature: [0, number(0, Infinity), "a number of at least 0"],
  top_k: [0, whole(0), "a whole number of at least 0"],
  top_p: [1, number(0, 1), "a number from 0 to 1"],
  min_p: [0, number(0, 1), "a number from 0 to 1"],
  repetition_penalty: [1, number(0, Infinity, true), "a number above 0"],
  seed: [null, isSeed, "a whole number from 0 to 2^63 (a BigInt above 2^53)"],
  logit_bias: [new Map(), anything, ""], // Map or object, token id -> number
  banned: [[], anything, ""], // token ids
  ban_replacement: [false, anything, ""], // never produce U+FFFD
  max_new_tokens: [256, whole(1), "a whole number of at least 1"],
  stop: [[], (v) => Array.isArray(v) && v.every((s) => typeof s === "string" && s), "non-empty texts"],
  ignore_eos: [false, anything, ""],
  truncate: [null, (v) => v === "left", "left"],
  logprobs: [null, whole(0), "a whole number of at least 0"],
};

/**
 * All settings, checked: `values` over `defaults` (a result of this function) over the built-in ones.
 *
 * `stop` may be one string. undefined counts as not given. Throws `SettingError`, which names the setting and
 * its range.
 */
export function makeSettings(values = {}, defaults = {}) {
  const known = Object.keys(FIELDS);
  for (const name of Object.keys({ ...defaults, ...values })) {
    if (!known.includes(name)) {
      throw new SettingError(`unknown setting '${name}': choose from ${known.sort().join(", ")}`);
    }
  }
  const settings = {};
  for (const [name, [standard, test, range]] of Object.entries(FIELDS)) {
    let value = values[name] ?? (values[name] === null ? null : (defaults[name] ?? standard));
    if (name === "stop" && typeof value === "string") value = [value];
    if (!(value === null && standard === null) && !test(value)) {
      throw new SettingError(`${name} must be ${range}, not ${spelled(value)}`);
    }
    settings[name] = value;
  }
  return Object.freeze(settings);
}

function spelled(value) {
  return typeof value === "number" || typeof value === "bigint" ? String(value) : JSON.stringify(value);
}
