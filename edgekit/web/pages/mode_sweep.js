// Sweep: one prompt and one seed at several temperatures, side by side.

import { fill, h, rate, seconds } from "./dom.js";

const DEFAULT = "0, 0.5, 0.8, 1.2";
const MAX_TEXTS = 6;

export class SweepMode {
  verb = "Sweep";
  about = "One prompt and one seed at several temperatures, side by side.";

  constructor(app) {
    this.app = app;
    this.input = h("input", { id: "temperatures", type: "text", value: DEFAULT, inputmode: "text", spellcheck: "false" });
    this.extra = h("div", { class: "field" }, h("label", { for: "temperatures" }, `Temperatures, up to ${MAX_TEXTS}`), this.input);
    this.element = h("div", { class: "columns" }, h("em", { class: "hint card" }, "The texts will appear here."));
  }

  temperatures() {
    const values = this.input.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    const valid = values.length && values.length <= MAX_TEXTS && values.every((value) => Number.isFinite(value) && value >= 0);
    if (!valid) throw new Error(`Temperatures must be 1 to ${MAX_TEXTS} numbers of at least 0, separated by commas`);
    return values;
  }

  async run(signal) {
    const temperatures = this.temperatures();
    const seed = this.app.commonSeed();
    const requests = temperatures.map((temperature) => this.app.request({ settings: { temperature, seed } }));
    const cards = temperatures.map((temperature) => {
      const text = h("span");
      const figures = h("p", { class: "small" }, "waiting");
      const prose = h("p", { class: "prose" }, h("span", { class: "given" }, requests[0].prompt), text);
      const name = temperature ? `Temperature ${temperature}` : "Temperature 0: greedy";
      return { text, figures, card: h("article", { class: "card", "aria-label": name }, h("h2", {}, name), prose, figures) };
    });
    fill(this.element, cards.map(({ card }) => card));
    for (const [i, request] of requests.entries()) {
      const { text, figures, card } = cards[i];
      card.classList.add("live");
      figures.textContent = "writing";
      try {
        for await (const event of this.app.generate(request, signal)) {
          if (event.type === "token") text.append(event.text);
          if (event.type !== "end") continue;
          text.textContent = event.text;
          figures.textContent = `${event.tokens.length} tokens · ${rate(event.tokens_per_second)} · first after ${seconds(event.first_token_seconds)}`;
        }
      } finally {
        card.classList.remove("live");
        if (signal.aborted) figures.textContent = "stopped";
      }
    }
    this.app.status(`${temperatures.length} texts, seed ${seed}.`);
  }
}
