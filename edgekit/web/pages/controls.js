// The sampler's settings, each as a slider and a number.

import { h } from "./dom.js";

// name, label, minimum, maximum, step, help. The range applies to the slider; the number takes any value.
const SLIDERS = [
  ["temperature", "Temperature", 0, 2, 0.05, "0 always takes the likeliest token; higher values vary more"],
  ["top_p", "Top-p", 0.05, 1, 0.01, "Keep the fewest tokens whose probabilities add up to this"],
  ["top_k", "Top-k", 0, 200, 1, "Keep this many of the likeliest tokens; 0 keeps all"],
  ["min_p", "Min-p", 0, 0.5, 0.01, "Drop tokens less likely than this fraction of the likeliest"],
  ["repetition_penalty", "Repetition penalty", 1, 2, 0.05, "Make tokens that already occurred less likely; 1 is off"],
  ["max_new_tokens", "Length", 8, 400, 1, "Maximum number of tokens to write"],
];
const LENGTH = 120; // default length if the model has none: enough for a paragraph

export class Controls {
  #inputs = new Map();
  #seed;
  #changed;

  /** Adds the controls to `element`; calls `changed()` after every change. */
  constructor(element, changed) {
    this.#changed = changed;
    for (const [name, label, min, max, step, help] of SLIDERS) {
      const id = `set-${name}`;
      const number = h("input", { id, type: "number", inputmode: "decimal", step: "any", "aria-describedby": `${id}-help` });
      const slider = h("input", { type: "range", min, max, step, "aria-label": label, tabindex: "-1" });
      number.addEventListener("input", () => this.#show(name, number.value, number));
      slider.addEventListener("input", () => this.#show(name, slider.value, slider));
      this.#inputs.set(name, { number, slider });
      element.append(
        h("div", { class: "setting" }, h("label", { for: id }, label), number, slider, h("small", { id: `${id}-help` }, help)),
      );
    }
    this.#seed = h("input", { id: "set-seed", type: "text", inputmode: "numeric", placeholder: "random", "aria-describedby": "set-seed-help" });
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

  /** Show a model's default settings. */
  reset(defaults, context) {
    for (const [name, , min] of SLIDERS) this.#show(name, defaults[name] ?? min, null);
    const length = defaults.max_new_tokens ?? 256;
    this.#show("max_new_tokens", length === 256 ? Math.min(LENGTH, context) : length, null);
    this.seed = null;
  }

  set seed(value) {
    this.#seed.value = value ?? "";
    this.#changed();
  }

  /** The settings by name, for a request. Throws an Error with a one-line message. */
  values() {
    const values = {};
    for (const [name, label] of SLIDERS) {
      const { number } = this.#inputs.get(name);
      if (number.value === "" || Number.isNaN(number.valueAsNumber)) throw new Error(`${label} must be a number`);
      values[name] = number.valueAsNumber;
    }
    const seed = this.#seed.value.trim();
    if (seed && !(/^\d+$/.test(seed) && Number.isSafeInteger(+seed))) throw new Error("Seed must be a whole number of at least 0");
    values.seed = seed ? +seed : null;
    return values;
  }

  /** A short summary of the settings. */
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
