// Chat: a conversation with a model that has a chat template.

import { byId, fill, h, rate } from "./dom.js";

const NAMES = { user: "You", assistant: "Model" };

export class ChatMode {
  verb = "Send";
  about = "A conversation. The model reads all of it before each answer.";
  chats = true; // the prompt is a message, and the panel comes before the form
  #messages = []; // {role, content}, without the system prompt
  #dropped = 0;

  constructor(app) {
    this.app = app;
    this.system = h("textarea", { id: "system", rows: "2", placeholder: "None: the template's own, if it has one" });
    this.prompt = h("details", { class: "system" }, h("summary", {}, "System prompt"),
      h("label", { for: "system" }, "What the model should be or do. It applies from the next message on."), this.system);
    this.list = h("ol", { class: "talk" });
    this.hint = h("p", { class: "hint" }, "Write a message below. A model that was not trained on conversations only imitates one.");
    this.log = h("div", { role: "log", "aria-live": "polite", "aria-label": "The conversation", tabindex: "0" }, this.hint, this.list);
    this.reset = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.#reset() }, "New conversation");
    this.extra = h("div", { class: "options" }, this.prompt, this.reset);
    this.element = h("article", { class: "card chat" }, this.log);
  }

  /** Show the field for a system prompt only if the model's template has a place for it. */
  choose(model) {
    this.prompt.hidden = !model.system;
  }

  async run(signal) {
    const box = byId("prompt");
    const content = box.value.trim();
    if (!content) throw new Error("The message is empty. Type something for the model to answer");
    const system = this.prompt.hidden ? "" : this.system.value.trim();
    const messages = [...this.#messages, { role: "user", content }];
    const { model, runtime } = this.app;
    const settings = this.app.controls.values();
    const request = { model: model.id, runtime, settings, messages: system ? [{ role: "system", content: system }, ...messages] : messages };
    const asked = this.#add("user", content);
    const answer = this.#add("assistant", "");
    answer.item.classList.add("live");
    box.value = "";
    this.log.scrollTop = this.log.scrollHeight;
    let text = "";
    let end = null;
    const begin = performance.now();
    let first = null;
    try {
      for await (const event of this.app.chat(request, signal)) {
        if (event.type === "end") end = event;
        if (event.type !== "text") continue;
        first ??= performance.now();
        text += event.text;
        const follows = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40; // not where someone scrolled up
        answer.words.append(event.text);
        if (follows) this.log.scrollTop = this.log.scrollHeight;
      }
    } finally {
      answer.item.classList.remove("live");
      if (end || text) {
        this.#messages = [...messages, { role: "assistant", content: text }];
        if (!text) answer.words.append(h("em", { class: "hint" }, "(an empty answer)"));
      } else { // nothing came: the message goes back into its box
        asked.item.remove();
        answer.item.remove();
        if (!box.value) box.value = content;
      }
      this.#shown();
      if (signal.aborted) this.app.status(text ? "Stopped. What was written stays in the conversation." : "Stopped.");
    }
    if (!end) return;
    if (end.dropped > this.#dropped) {
      asked.item.before(h("li", { class: "note" }, `The context is full: from here on the model does not see the oldest ${end.dropped} messages.`));
    }
    this.#dropped = end.dropped ?? 0;
    const seconds = (performance.now() - (first ?? begin)) / 1000;
    const why = end.finish_reason === "length" ? "the length limit was reached" : "the model ended its answer";
    this.app.status(`${end.tokens} tokens, ${rate(end.tokens > 1 && seconds ? (end.tokens - 1) / seconds : 0)}; ${why}.`);
  }

  #add(role, content) {
    const words = h("p", { class: "prose" }, content);
    const caret = role === "assistant" ? h("span", { class: "caret", "aria-hidden": "true" }) : null;
    const item = h("li", { class: `said ${role}` }, h("span", { class: "who" }, NAMES[role]), h("div", {}, words, caret));
    this.list.append(item);
    this.#shown();
    return { item, words };
  }

  #shown() {
    const empty = !this.list.children.length;
    this.hint.hidden = !empty;
    this.reset.hidden = empty;
  }

  #reset() {
    this.app.stop();
    this.#messages = [];
    this.#dropped = 0;
    fill(this.list);
    this.#shown();
    this.app.fail(null);
    this.app.status("A new conversation.");
    byId("prompt").focus();
  }
}
