// Explore: each token is a chip, coloured by its probability; shows its alternatives and continues with another one.

import { fill, h, percent, visible } from "./dom.js";

const TOP = 10;

export class ExploreMode {
  verb = "Explore";
  about = "Every token with its probability. Choose a token to see its alternatives and continue with another one.";
  extra = null;
  #prompt = []; // {id, piece}
  #steps = []; // token events, including the chosen alternatives
  #seed = null;
  #chosen = -1;

  constructor(app) {
    this.app = app;
    this.chips = h("div", { class: "chips", role: "group", "aria-label": "Tokens" });
    this.detail = h("section", { class: "detail", "aria-label": "Alternatives" });
    this.legend = h("p", { class: "legend", "aria-hidden": "true" },
      ...[0.02, 0.1, 0.3, 0.6, 0.95].map((p) => h("span", { class: "chip", style: tint(p) }, percent(p))),
    );
    this.element = h("article", { class: "card explore" }, this.chips, this.legend, this.detail);
    this.chips.addEventListener("keydown", (event) => this.#move(event));
    fill(this.chips, h("em", { class: "hint" }, "The tokens will appear here."));
  }

  async run(signal) {
    this.#prompt = [];
    this.#steps = [];
    this.#chosen = -1;
    fill(this.detail);
    await this.#stream(this.app.request({ top: TOP }), signal);
  }

  /** Keep the text before a token, replace the token with an alternative, and let the model continue. */
  async #branch(at, alternative, signal) {
    const before = this.#steps.slice(0, at);
    const step = { ...this.#steps[at], id: alternative.id, piece: alternative.piece, before: alternative.before, after: alternative.after, branch: true };
    const tokens = [...this.#prompt, ...before, step].map(({ id }) => id);
    const left = Math.max(1, this.app.controls.values().max_new_tokens - before.length - 1);
    const request = this.app.request({ tokens, top: TOP, settings: { seed: this.#seed, max_new_tokens: left } });
    this.#steps = [...before, step];
    this.#draw();
    this.#choose(at);
    await this.#stream(request, signal, false);
    this.app.status(`Branched at token ${at + 1}: “${visible(step.piece, step.id)}”.`);
  }

  async #stream(request, signal, fresh = true) {
    for await (const event of this.app.generate(request, signal)) {
      if (event.type === "start" && fresh) {
        this.#prompt = event.tokens.map((id, i) => ({ id, piece: event.pieces[i] }));
        this.#seed = event.seed;
        this.#draw();
      }
      if (event.type === "token") {
        this.#steps.push(event);
        this.chips.append(...this.#chip(event, this.#steps.length - 1));
      }
      if (event.type === "end") this.app.status(`${this.#steps.length} tokens, seed ${this.#seed}. Choose a token.`);
    }
  }

  #draw() {
    const given = this.#prompt.flatMap(({ id, piece }) => wrapped(h("span", { class: "chip given" }, visible(piece, id)), piece));
    fill(this.chips, given, this.#steps.flatMap((step, i) => this.#chip(step, i)));
  }

  #chip(step, i) {
    const chip = h("button", {
      type: "button", class: step.branch ? "chip branch" : "chip", style: tint(step.before), tabindex: i ? "-1" : "0",
      title: `${percent(step.before)} by the model, ${percent(step.after)} after the sampler`, "aria-pressed": "false",
      "aria-label": `${visible(step.piece, step.id)}, ${percent(step.before)}`,
      onclick: () => {
        this.#choose(i);
        this.detail.scrollIntoView({ block: "nearest" });
        this.app.status(`${visible(step.piece, step.id)}: ${percent(step.before)}. Its alternatives are below.`);
      },
    }, visible(step.piece, step.id));
    return wrapped(chip, step.piece);
  }

  #buttons() {
    return [...this.chips.querySelectorAll("button")];
  }

  #move(event) {
    const buttons = this.#buttons();
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined || !buttons[to]) return;
    event.preventDefault();
    for (const button of buttons) button.tabIndex = button === buttons[to] ? 0 : -1;
    buttons[to].focus();
  }

  #choose(i) {
    this.#chosen = i;
    for (const [k, button] of this.#buttons().entries()) button.setAttribute("aria-pressed", k === i);
    const step = this.#steps[i];
    const listed = step.top.some(({ id }) => id === step.id) ? step.top : [...step.top, step];
    const row = (one) => h("tr", { class: one.id === step.id ? "taken" : null },
      h("th", { scope: "row" }, h("button", {
        type: "button", class: "take", disabled: one.id === step.id,
        onclick: () => this.app.busy((signal) => this.#branch(i, one, signal)),
        title: one.id === step.id ? "the chosen token" : "continue with this token instead",
      }, visible(one.piece, one.id))),
      h("td", {}, bar(one.before, "before"), percent(one.before)),
      h("td", {}, bar(one.after, "after"), one.after ? percent(one.after) : "removed"),
    );
    fill(this.detail,
      h("h2", {}, `Token ${i + 1} `, h("span", {}, `“${visible(step.piece, step.id)}”`)),
      h("p", {}, "Before: the model's probability. After: the probability after the sampler. Choose another token to branch."),
      h("table", {}, h("thead", {}, h("tr", {}, ...["Token", "Before", "After"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, listed.map(row))),
    );
  }
}

// Square roots, since most probabilities of interest are between 0 and 30 %.
const tint = (p) => ({ "--p": p ?? 0, "--s": Math.sqrt(p ?? 0).toFixed(3) });

const bar = (p, kind) => h("span", { class: `meter ${kind}`, style: { "--p": p }, "aria-hidden": "true" });

/** A chip, followed by a line break if its text has one. */
const wrapped = (chip, piece) => (piece.includes("\n") ? [chip, h("span", { class: "break" })] : [chip]);
