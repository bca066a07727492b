// Generate: a text, streamed.

import { byId, fill, h, rate, seconds } from "./dom.js";

export class GenerateMode {
  verb = "Generate";
  about = "The model continues your text, token by token.";
  extra = null;
  #last = null;

  constructor(app) {
    this.app = app;
    this.given = h("span", { class: "given" });
    this.text = h("span", { class: "text" });
    this.figures = h("dl", { class: "figures" });
    this.actions = h("div", { class: "actions", hidden: true },
      h("button", { type: "button", onclick: () => app.busy((signal) => this.#more(signal)) }, "Continue"),
      h("button", { type: "button", class: "quiet", onclick: () => this.#copy() }, "Copy"),
      h("button", { type: "button", class: "quiet", onclick: () => this.#reuseSeed() }, "Use this seed again"),
    );
    this.element = h("article", { class: "card story" },
      h("p", { class: "prose", role: "log", "aria-live": "polite", "aria-label": "The text" }, this.given, this.text, h("span", { class: "caret", "aria-hidden": "true" })),
      this.figures, this.actions,
    );
    this.given.append(h("em", { class: "hint" }, "The text will appear here."));
  }

  async run(signal) {
    const request = this.app.request();
    await this.#stream(request, request.prompt, signal);
  }

  /** Continue the text from the ids of prompt and text, so nothing is encoded again. */
  async #more(signal) {
    const { tokens } = this.#last;
    const shown = this.given.textContent + this.text.textContent;
    await this.#stream(this.app.request({ tokens }), shown, signal);
  }

  async #stream(request, given, signal) {
    fill(this.given, given);
    fill(this.text);
    this.actions.hidden = true;
    this.#figures({});
    const begin = performance.now();
    const ids = [];
    let first = null;
    let prompt = [];
    let seed = null;
    let end = null;
    try {
      for await (const event of this.app.generate(request, signal)) {
        if (event.type === "start") ({ tokens: prompt, seed } = event);
        if (event.type === "end") end = event;
        if (event.type !== "token") continue;
        first ??= performance.now();
        ids.push(event.id);
        this.text.append(event.text);
        const ran = (performance.now() - first) / 1000;
        this.#figures({ count: ids.length, speed: ran && (ids.length - 1) / ran, wait: (first - begin) / 1000, seed });
      }
    } finally {
      if (prompt.length) this.#last = { tokens: [...prompt, ...(end?.tokens ?? ids)], seed };
      this.actions.hidden = !ids.length;
      if (signal.aborted && end?.finish_reason !== "stop") this.app.status(`Stopped after ${ids.length} tokens.`);
    }
    if (!end) return;
    this.text.textContent = end.text;
    this.#figures({ count: end.tokens.length, speed: end.tokens_per_second, wait: end.first_token_seconds, seed });
    const why = { stop: "the model ended the text", length: "the length limit was reached" }[end.finish_reason];
    if (why) this.app.status(`${end.tokens.length} tokens; ${why}.`);
  }

  #figures({ count, speed, wait, seed }) {
    const row = (term, value) => h("div", {}, h("dt", {}, term), h("dd", {}, value));
    fill(this.figures,
      row("Speed", rate(speed)),
      row("First token", wait === undefined ? "–" : seconds(wait)),
      row("Tokens", String(count ?? "–")),
      row("Seed", String(seed ?? "–")),
    );
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.given.textContent + this.text.textContent);
      this.app.status("Copied.");
    } catch {
      this.app.status("The browser did not allow copying. Select the text instead.");
    }
  }

  #reuseSeed() {
    this.app.controls.seed = this.#last.seed;
    byId("settings").open = true;
    this.app.status(`Seed ${this.#last.seed} is set.`);
  }
}
