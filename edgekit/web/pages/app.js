// The page: choice of model and mode, the prompt and the settings, starting and stopping. The modes draw the results.

import { Controls } from "./controls.js";
import { byId, fill, h, megabytes } from "./dom.js";
import { engine } from "./engine.js";
import { ChatMode } from "./mode_chat.js";
import { ExploreMode } from "./mode_explore.js";
import { GenerateMode } from "./mode_generate.js";
import { SweepMode } from "./mode_sweep.js";
import { VersusMode } from "./mode_versus.js";

const OPENINGS = ["Once upon a time", "The old fisherman", "Science is", "In the middle of the forest"];
const RUNTIMES = { wasm: "WebAssembly", native: "edgekit's engine", onnx: "ONNX Runtime", llamacpp: "llama.cpp", torch: "PyTorch" };

/** The page, as the modes see it. */
class App {
  engine = engine;
  models = [];
  #abort = null;
  #ready = new Map();
  #drafts = { text: OPENINGS[0], message: "" }; // what is in the prompt's box, of the kind that is not shown

  constructor() {
    this.controls = new Controls(byId("controls"), () => {
      byId("digest").textContent = this.controls?.digest() ?? "";
    });
    this.modes = { generate: new GenerateMode(this), explore: new ExploreMode(this), sweep: new SweepMode(this), versus: new VersusMode(this), chat: new ChatMode(this) };
  }

  get model() {
    return this.models.find((model) => model.id === byId("model").value);
  }

  get runtime() {
    return byId("runtime").value;
  }

  runtimeName = (name) => RUNTIMES[name] ?? name;

  /** A request with the current settings; `changes` override it, and `settings` in it override single settings. */
  request({ settings, ...changes } = {}) {
    const values = { ...this.controls.values(), ...settings };
    const prompt = byId("prompt").value;
    if (!prompt && !changes.tokens) throw new Error("The prompt is empty. Type something for the model to continue");
    const request = { model: this.model.id, runtime: this.runtime, prompt, settings: values, top: 0, ...changes };
    if (request.tokens) delete request.prompt;
    return request;
  }

  /** Events of a request; downloads the model first if necessary. */
  async *generate(request, signal) {
    await this.prepare(request.model, request.runtime);
    signal.throwIfAborted();
    yield* engine.generate(request, signal);
  }

  /** Events of an answer to a conversation. */
  async *chat(request, signal) {
    await this.prepare(request.model, request.runtime);
    signal.throwIfAborted();
    yield* engine.chat(request, signal);
  }

  /** A seed for texts to compare: the one that is set, else a random one for all of them. */
  commonSeed() {
    return this.controls.values().seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  }

  async prepare(id, runtime) {
    const key = `${id} ${runtime}`;
    if (!this.#ready.has(key)) {
      const loading = engine.prepare(id, runtime, this.#progress);
      this.#ready.set(key, loading);
      loading.catch(() => this.#ready.delete(key));
    }
    try {
      await this.#ready.get(key);
    } finally {
      byId("load").hidden = true;
    }
  }

  #progress = ({ what, loaded, total }) => {
    byId("load").hidden = false;
    byId("what").textContent = loaded < total ? `Downloading ${what}: ${megabytes(loaded)} of ${megabytes(total)}` : `Loading ${what}`;
    byId("bar").value = total ? loaded / total : 0;
  };

  /** Open a GGUF file, or one at an address, and choose it. */
  async open(source, signal) {
    try {
      const model = await engine.open(source, this.#progress, signal);
      this.models.push(model);
      this.#ready.set(`${model.id} ${model.runtime}`, Promise.resolve());
      byId("model").append(h("option", { value: model.id }, model.name));
      byId("model").value = model.id;
      this.modes.versus.offer(this.models);
      await this.choose();
      this.status(`${model.name} is open: ${(model.parameters / 1e6).toFixed(1)} million parameters, ${megabytes(model.bytes)}.`);
    } finally {
      byId("load").hidden = true;
    }
  }

  status(text) {
    byId("status").textContent = text;
  }

  fail(error) {
    const message = error?.name === "AbortError" ? "" : (error?.message ?? "");
    byId("error").textContent = message;
    byId("error").hidden = !message;
  }

  /** Run `work(signal)` with the stop button shown. Starting another one aborts it. */
  async busy(work) {
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    this.fail(null);
    this.status("");
    byId("run").hidden = true;
    byId("stop").hidden = false;
    document.body.dataset.busy = "yes";
    byId("panel").setAttribute("aria-busy", "true");
    if (!this.mode.chats && matchMedia("(max-width: 640px)").matches) byId("panel").scrollIntoView({ block: "nearest" });
    try {
      await work(abort.signal);
    } catch (error) {
      if (this.#abort === abort) this.fail(error);
    } finally {
      if (this.#abort === abort) {
        const focused = document.activeElement === byId("stop");
        this.#abort = null;
        byId("run").hidden = false;
        byId("stop").hidden = true;
        delete document.body.dataset.busy;
        byId("panel").removeAttribute("aria-busy");
        if (focused) byId("run").focus();
      }
    }
  }

  stop() {
    this.#abort?.abort();
  }

  // ---- choosing ------------------------------------------------------------------------------------------------

  show(name) {
    this.stop();
    this.#keepDraft();
    this.mode = this.modes[name];
    this.#arrange();
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const chosen = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", chosen);
      tab.tabIndex = chosen ? 0 : -1;
    }
    byId("panel").setAttribute("aria-labelledby", `tab-${name}`);
    byId("about").textContent = this.mode.about;
    byId("run").textContent = this.mode.verb;
    document.body.dataset.mode = name;
    fill(byId("extra"), this.mode.extra);
    fill(byId("panel"), this.mode.element);
    this.fail(null);
    this.status("");
    if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  }

  #keepDraft() {
    if (this.mode) this.#drafts[this.mode.chats ? "message" : "text"] = byId("prompt").value;
  }

  /** The form asks for a message below the conversation, or for the beginning of a text above the panel. */
  #arrange() {
    const chats = Boolean(this.mode.chats);
    byId("asked").textContent = chats ? "Your message" : "Beginning of the text";
    byId("prompt").value = this.#drafts[chats ? "message" : "text"];
    byId("prompt").enterKeyHint = chats ? "send" : "enter";
    byId("openings").hidden = chats;
    if (chats) byId("ask").before(byId("panel"));
    else byId("ask").after(byId("panel"));
  }

  async choose() {
    const { model } = this;
    byId("tab-chat").hidden = !model.chat;
    this.modes.chat.choose(model);
    if (this.mode === this.modes.chat && !model.chat) this.show("generate");
    const options = model.runtimes.map((name) => h("option", { value: name, selected: name === model.runtime }, this.runtimeName(name)));
    fill(byId("runtime"), options);
    byId("runtime").closest("label").hidden = engine.where === "browser"; // there is one
    this.controls.reset(await engine.defaults(model.id), model.context_length ?? Infinity);
  }

  /** `mode`: to show once the models are known. */
  async start(mode) {
    byId("tagline").textContent = engine.tagline;
    document.body.dataset.engine = engine.where;
    const wide = matchMedia("(min-width: 900px)");
    const unfold = () => (byId("settings").open = wide.matches);
    wide.addEventListener("change", unfold);
    unfold();
    this.models = await engine.models();
    fill(byId("model"), this.models.map(({ id, name }) => h("option", { value: id }, name)));
    this.modes.versus.offer(this.models);
    await this.choose();
    if (mode === "chat" && this.model.chat) this.show(mode);
    document.body.dataset.ready = "yes";
    if (engine.where === "browser") {
      byId("other").hidden = false;
      const address = new URLSearchParams(location.search).get("model");
      if (address) {
        await this.busy((signal) => this.open(address, signal));
        return;
      }
      await this.prepare(this.model.id, this.runtime);
      if (!document.body.dataset.busy) this.status("The model is ready.");
      // Over plain http from another machine there is no service worker, so the page does not work offline.
      await navigator.serviceWorker?.ready;
      if (navigator.serviceWorker && !document.body.dataset.busy) {
        this.status("The model is ready. This page now works offline.");
      }
    }
  }
}

const app = new App();

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  app.busy((signal) => app.mode.run(signal));
});
byId("stop").addEventListener("click", () => app.stop());
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  if (event.ctrlKey || event.metaKey || (app.mode.chats && !event.shiftKey)) {
    event.preventDefault();
    if (!document.body.dataset.busy) byId("ask").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") app.stop();
});
byId("model").addEventListener("change", () => app.choose().catch((error) => app.fail(error)));
byId("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // choosing the same file again is a change, too
  if (file) app.busy((signal) => app.open(file, signal));
});
byId("fetch").addEventListener("submit", (event) => {
  event.preventDefault();
  app.busy((signal) => app.open(byId("address").value, signal));
});
byId("reset").addEventListener("click", () => app.choose().catch((error) => app.fail(error)));

// The ARIA tabs pattern: arrow keys, Home and End move, and the focused tab is shown.
const tabs = [...document.querySelectorAll("[role=tab]")];
for (const [i, tab] of tabs.entries()) { // only the last may be hidden
  tab.addEventListener("click", () => app.show(tab.id.slice(4)));
  tab.addEventListener("keydown", (event) => {
    const offered = tabs.filter((one) => !one.hidden);
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = offered.at(to % offered.length);
    app.show(next.id.slice(4));
    next.focus();
  });
}

for (const opening of OPENINGS) {
  const use = () => {
    byId("prompt").value = opening;
    byId("prompt").focus();
  };
  byId("openings").append(h("button", { type: "button", class: "opening", onclick: use }, opening));
}

const THEME = "edgekit-theme";
const root = document.documentElement;
const storedTheme = (() => {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null;
  }
})();
if (storedTheme) root.dataset.theme = storedTheme;
byId("theme").addEventListener("click", () => {
  const dark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem(THEME, root.dataset.theme);
  } catch {
    // private windows may refuse: the choice then lasts until the page is closed
  }
});

const mode = location.hash.slice(1);
app.show(Object.hasOwn(app.modes, mode) && mode !== "chat" ? mode : "generate");
app.start(mode).catch((error) => app.fail(error));
if (engine.where === "browser") navigator.serviceWorker?.register("sw.js").catch(() => {});
