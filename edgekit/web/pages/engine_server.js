// The engine behind `edgekit demo`: the model runs on the machine that serves this page.
//
// An engine has
//     where                          "server" or "browser"
//     models()                       [{id, name, runtime, runtimes, format, bytes, parameters, context_length, vocab_size,
//                                    chat: has a chat template, system: which takes a system prompt}]
//     defaults(id)                   a model's default settings by name
//     generate(request, signal)      an async iterator of events; aborting the signal ends the text
//     chat(request, signal)          the same for an answer to a conversation
//     prepare(id, runtime, progress) downloads and loads the model; `progress({what, loaded, total})`, in bytes
//
// request: {model, runtime, prompt or tokens, settings, top}. Events: start {tokens, pieces, seed}, token {id, text, piece,
// before, after, top: [{id, piece, before, after}]}, end {finish_reason, tokens, text, tokens_per_second,
// first_token_seconds}. Errors are thrown, with a one-line message. A request of `chat` has `messages` in the place of a
// prompt; its events are text {text} and end {finish_reason, tokens: their number, dropped: messages that were left out}.

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is edgekit demo still running?");
  }
  if (response.ok) return response;
  const { message, error } = await response.json().catch(() => ({}));
  throw new Error(message ?? error?.message ?? `The server answered with status ${response.status}`);
}

export const engine = {
  where: "server",
  tagline: "A small language model, running on the machine that serves this page.",

  async models() {
    const { models } = await (await request("api/models")).json();
    return models.map((model) => ({ ...model, system: model.chat }));
  },

  async defaults(id) {
    return (await (await request(`api/defaults?model=${encodeURIComponent(id)}`)).json()).defaults;
  },

  async prepare() {},

  async *generate(body, signal) {
    for await (const event of post("api/generate", body, signal)) {
      if (event.type === "error") throw new Error(event.message);
      yield event;
    }
  },

  async *chat({ settings, ...body }, signal) {
    const { max_new_tokens: max_tokens, ...sampling } = settings;
    const stream = { stream: true, stream_options: { include_usage: true }, truncate: "left" };
    let finish_reason = null;
    for await (const event of post("v1/chat/completions", { ...body, ...sampling, max_tokens, ...stream }, signal)) {
      if (event.error) throw new Error(event.error.message);
      for (const { delta, finish_reason: reason } of event.choices) {
        finish_reason = reason ?? finish_reason;
        if (delta.content) yield { type: "text", text: delta.content };
      }
      const { usage } = event;
      if (usage) yield { type: "end", finish_reason, tokens: usage.completion_tokens, dropped: usage.dropped_messages };
    }
  },
};

/** The events of a POST request. */
async function* post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  yield* events(response.body);
}

/** Yields the JSON of each `data:` line of a text/event-stream, up to its end or OpenAI's `[DONE]`. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let partial = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (partial + value).split("\n");
      partial = lines.pop();
      for (const line of lines) {
        if (line === "data: [DONE]") return;
        if (line.startsWith("data:")) yield JSON.parse(line.slice(5));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
