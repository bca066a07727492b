// The settings of the sampler as sliders with a number beside each.

import { h } from "./dom.js";

// name, label, least, most, step, what it does. The ranges are those of a slider; the number beside it takes any value.
const SLIDERS = [
  ["temperature", "Temperature", 0, 2, 0.05, "0 takes the likeliest token; higher is bolder"],
  ["top_p", "Top-p", 0.05, 1, 0.01, "Keep the fewest tokens whose probabilities reach this"],
  ["top_k", "Top-k", 0, 200, 1, "Keep this many tokens; 0 keeps all"],
  ["min_p", "Min-p", 0, 0.5, 0.01, "Drop tokens less likely than this times the likeliest"],
  ["repetition_penalty", "Repetition penalty", 1, 2, 0.05, "Weaken tokens that were said; 1 is off"],
  ["max_new_tokens", "Length", 8, 400, 1, "Tokens to write at most"],
];
const LENGTH = 120; // of a text, where the model does not say: enough for a paragraph

export class Controls {
  #inputs = new Map();
  #seed;
  #changed;

  /** Builds itself into `element`; `changed()` is called after every change. */
  constructor(element, changed) {
    this.#changed = changed;
    for (const [name, label, least, most, step, help] of SLIDERS) {
      const id = `set-${name}`;
      const number = h("input", { id, type: "number", inputmode: "decimal", step: "any", "aria-describedby": `${id}-help` });
      const slider = h("input", { type: "range", min: least, max: most, step, "aria-label": label, tabindex: "-1" });
      number.addEventListener("input", () => this.#show(name, number.value, number));
      slider.addEventListener("input", () => this.#show(name, slider.value, slider));
      this.#inputs.set(name, { number, slider });
      element.append(
        h("div", { class: "setting" }, h("label", { for: id }, label), number, slider, h("small", { id: `${id}-help` }, help)),
      );
    }
    this.#seed = h("input", { id: "set-seed", type: "text", inputmode: "numeric", placeholder: "a new one", "aria-describedby": "set-seed-help" });
    this.#seed.addEventListener("input", changed);
    element.append(
      h("div", { class: "setting seed" }, h("label", { for: "set-seed" }, "Seed"), this.#seed,
        h("small", { id: "set-seed-help" }, "The same seed gives the same text, on every runtime")),
    );
  }

  #show(name, value, from) {
    const { number, slider } = this.#inputs.get(name);
    if (from !== number) number.value = String(+(+value).toFixed(4));
    if (from !== slider) slider.value = value;
    this.#changed();
  }

  /** Take over a model's own settings. */
  reset(defaults, context) {
    for (const [name, , least] of SLIDERS) this.#show(name, defaults[name] ?? least, null);
    const length = defaults.max_new_tokens ?? 256;
    this.#show("max_new_tokens", length === 256 ? Math.min(LENGTH, context) : length, null);
    this.seed = null;
  }

  set seed(value) {
    this.#seed.value = value ?? "";
    this.#changed();
  }

  /** By name, as a request wants them. Throws an Error of one line. */
  values() {
    const found = {};
    for (const [name, label] of SLIDERS) {
      const { number } = this.#inputs.get(name);
      if (number.value === "" || Number.isNaN(number.valueAsNumber)) throw new Error(`${label} wants a number`);
      found[name] = number.valueAsNumber;
    }
    const seed = this.#seed.value.trim();
    if (seed && !(/^\d+$/.test(seed) && Number.isSafeInteger(+seed))) throw new Error("Seed wants a whole number of at least 0");
    found.seed = seed ? +seed : null;
    return found;
  }

  /** What is set, in a few words. */
  digest() {
    try {
      const { temperature, top_p, max_new_tokens, seed } = this.values();
      const parts = [temperature ? `temperature ${temperature}` : "greedy", `${max_new_tokens} tokens`];
      if (temperature && top_p < 1) parts.splice(1, 0, `top-p ${top_p}`);
      if (seed !== null) parts.push(`seed ${seed}`);
      return parts.join(" · ");
    } catch (error) {
      return error.message;
    }
  }
}
