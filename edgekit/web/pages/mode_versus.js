// Compare two models, formats or runtimes on the same prompt and seed.

import { fill, h, megabytes, rate, seconds } from "./dom.js";

export class VersusMode {
  verb = "Compare";
  about = "Compares two models, formats or runtimes on the same prompt and seed. They run one after the other, so neither slows the other.";

  constructor(app) {
    this.app = app;
    this.sides = ["A", "B"].map((letter) => ({ letter, choose: h("select", { id: `side-${letter}` }) }));
    this.extra = h("div", { class: "field pair" },
      this.sides.map(({ letter, choose }) => h("label", { for: choose.id }, `${letter} `, choose)));
    this.verdict = h("p", { class: "verdict", role: "status" });
    this.columns = h("div", { class: "columns two" }, h("em", { class: "hint card" }, "The two texts will appear here."));
    this.element = h("div", {}, this.verdict, this.columns);
  }

  /** Offer every model with each of its runtimes. */
  offer(models) {
    this.offers = models.flatMap((model) => model.runtimes.map((runtime) => ({ model, runtime })));
    for (const [k, { choose }] of this.sides.entries()) {
      fill(choose, this.offers.map(({ model, runtime }, i) => h("option", { value: i, selected: i === Math.min(k, this.offers.length - 1) },
        `${model.name} · ${this.app.runtimeName(runtime)}`)));
    }
  }

  async run(signal) {
    const seed = this.app.commonSeed();
    const sides = this.sides.map(({ letter, choose }) => {
      const { model, runtime } = this.offers[choose.value];
      const text = h("span");
      const figures = h("p", { class: "small" }, "waiting");
      const request = this.app.request({ model: model.id, runtime, settings: { seed } });
      const what = [model.format, model.bytes ? megabytes(model.bytes) : null].filter(Boolean).join(", ");
      const card = h("article", { class: "card", "aria-label": `Side ${letter}` },
        h("h2", {}, `${letter} `, h("span", {}, `${model.name} · ${this.app.runtimeName(runtime)}${what ? ` · ${what}` : ""}`)),
        h("p", { class: "prose" }, h("span", { class: "given" }, request.prompt), text), figures);
      return { letter, request, text, figures, card, steps: [], end: null };
    });
    fill(this.verdict);
    fill(this.columns, sides.map(({ card }) => card));
    for (const side of sides) {
      side.card.classList.add("live");
      side.figures.textContent = "writing";
      try {
        for await (const event of this.app.generate(side.request, signal)) {
          if (event.type === "end") side.end = event;
          if (event.type !== "token") continue;
          side.steps.push(event);
          side.text.append(event.text);
        }
      } finally {
        side.card.classList.remove("live");
        side.figures.textContent = side.end
          ? `${side.end.tokens.length} tokens · ${rate(side.end.tokens_per_second)} · first after ${seconds(side.end.first_token_seconds)}`
          : "stopped";
      }
    }
    this.#judge(sides);
    this.app.status("Both are done.");
  }

  /** Where the texts differ first, and which was faster. Compares tokens by their text, since ids depend on the vocabulary. */
  #judge([a, b]) {
    const longest = Math.max(a.steps.length, b.steps.length);
    let at = 0;
    while (at < longest && a.steps[at]?.piece === b.steps[at]?.piece) at++;
    const differs = at < longest;
    if (differs) for (const side of [a, b]) mark(side, at);
    const quoted = (side) => (side.steps[at] ? `“${side.steps[at].piece}” in ${side.letter}` : `the end in ${side.letter}`);
    const speeds = [a, b].map((side) => side.end.tokens_per_second);
    const [slow, fast] = speeds[0] < speeds[1] ? [speeds[0], speeds[1]] : [speeds[1], speeds[0]];
    const winner = speeds[0] < speeds[1] ? "B" : "A";
    const pace = slow > 0 && fast / slow >= 1.05 ? ` ${winner} was ${(fast / slow).toFixed(1)} times as fast.` : " Both were equally fast.";
    this.verdict.textContent = (differs
      ? `They first differ at token ${at + 1}: ${quoted(a)}, ${quoted(b)}.`
      : `The same ${longest} tokens.`) + pace;
  }
}

/** Show the text with the first differing token marked and the rest set apart. */
function mark({ steps, end, text }, at) {
  const joined = (part) => part.map((step) => step.text).join("");
  const before = joined(steps.slice(0, at));
  const marked = steps[at] ? steps[at].text || steps[at].piece : "";
  const after = end.text.slice(before.length + (steps[at]?.text.length ?? 0));
  fill(text, before, h("mark", { title: "first difference" }, marked || "∎"), h("span", { class: "apart" }, after));
}
