// What a caller may set, with edgekit/settings.py's bounds and sentences.

import { EdgekitError } from "./source.js";

const FLAG = { accepts: (value) => typeof value === "boolean", range: "true or false" };

function number(range, within) {
  return { accepts: (value) => typeof value === "number" && Number.isFinite(value) && within(value), range };
}

function whole(least) {
  return { accepts: (value) => Number.isSafeInteger(value) && value >= least, range: `a whole number from ${least}` };
}

/** Those that the engine takes as numbers, in its order. */
const SETTINGS = {
  temperature: number("a number of at least 0", (value) => value >= 0),
  topK: whole(0),
  topP: number("a number from 0 to 1", (value) => value >= 0 && value <= 1),
  minP: number("a number from 0 to 1", (value) => value >= 0 && value <= 1),
  repetitionPenalty: number("a number above 0", (value) => value > 0),
  presencePenalty: number("a number from -2 to 2", (value) => Math.abs(value) <= 2),
  frequencyPenalty: number("a number from -2 to 2", (value) => Math.abs(value) <= 2),
  maxNewTokens: whole(1),
  ignoreEos: FLAG,
  banReplacement: FLAG,
};

export const NAMES = Object.keys(SETTINGS);
const OTHERS = ["seed", "stop", "ends", "top", "signal", "special"];
const LARGEST_SEED = 2n ** 63n;
const MOST = 2 ** 32 - 1; // what the engine reads as a whole number

/** The settings of a call: the engine's numbers, and what is not a number. Throws `EdgekitError`. */
export function settingsOf(given, defaults) {
  if (typeof given !== "object" || !given) throw new EdgekitError(`settings must be an object, not ${shown(given)}`);
  for (const name of Object.keys(given)) {
    if (!NAMES.includes(name) && !OTHERS.includes(name)) {
      throw new EdgekitError(`unknown setting ${name}: choose from ${[...NAMES, ...OTHERS].join(", ")}`);
    }
  }
  const numbers = NAMES.map((name) => {
    const value = given[name] ?? defaults[name];
    const { accepts, range } = SETTINGS[name];
    if (!accepts(value)) throw new EdgekitError(`${name} must be ${range}, not ${shown(value)}`);
    return name === "topK" || name === "maxNewTokens" ? Math.min(value, MOST) : Number(value);
  });
  const top = given.top ?? 0;
  if (!whole(0).accepts(top)) throw new EdgekitError(`top must be ${whole(0).range}, not ${shown(top)}`);
  return { numbers, seed: seedOf(given.seed), stops: stopsOf(given.stop ?? []), ends: given.ends ?? [], top };
}

function seedOf(value) {
  if (value === undefined || value === null) return BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
  const isWhole = typeof value === "bigint" || Number.isSafeInteger(value) || /^[0-9]{1,19}$/.test(value);
  const seed = isWhole ? BigInt(value) : -1n;
  if (seed >= 0n && seed <= LARGEST_SEED) return seed;
  throw new EdgekitError(`seed must be a whole number from 0 to 2^63, not ${shown(value)}`);
}

function stopsOf(value) {
  const stops = typeof value === "string" ? [value] : value;
  const isText = (stop) => typeof stop === "string" && stop !== "" && !stop.includes("\0") && isWellFormed(stop);
  if (Array.isArray(stops) && stops.every(isText)) return stops;
  throw new EdgekitError(`stop must be a non-empty text, or an array of such, not ${shown(value)}`);
}

/** No half of a surrogate pair. */
export function isWellFormed(text) {
  return !/\p{Surrogate}/u.test(text);
}

export function shown(value) {
  if (typeof value === "string") return JSON.stringify(value);
  return Array.isArray(value) ? `[${value.map(shown)}]` : typeof value === "bigint" ? `${value}n` : String(value);
}
