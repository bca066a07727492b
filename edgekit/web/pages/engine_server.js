// The engine behind `edgekit demo`: the model runs on the machine that serves this page.
//
// An engine has
//     where                          "server" or "browser"
//     models()                       [{id, name, runtime, runtimes, format, bytes, parameters, context_length, vocab_size}]
//     defaults(id)                   a model's default settings by name
//     generate(request, signal)      an async iterator of events; aborting the signal ends the text
//     prepare(id, runtime, progress) downloads and loads the model; `progress({what, loaded, total})`, in bytes
//
// request: {model, runtime, prompt or tokens, settings, top}. Events: start {tokens, pieces, seed}, token {id, text, piece,
// before, after, top: [{id, piece, before, after}]}, end {finish_reason, tokens, text, tokens_per_second,
// first_token_seconds}. Errors are thrown, with a one-line message.

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is edgekit demo still running?");
  }
  if (response.ok) return response;
  const { message } = await response.json().catch(() => ({}));
  throw new Error(message ?? `The server answered with status ${response.status}`);
}

export const engine = {
  where: "server",
  tagline: "A small language model, running on the machine that serves this page.",

  async models() {
    return (await (await request("api/models")).json()).models;
  },

  async defaults(id) {
    return (await (await request(`api/defaults?model=${encodeURIComponent(id)}`)).json()).defaults;
  },

  async prepare() {},

  async *generate(body, signal) {
    const response = await request("api/generate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    for await (const event of events(response.body)) {
      if (event.type === "error") throw new Error(event.message);
      yield event;
    }
  },
};

/** Yields the JSON of each `data:` line of a text/event-stream. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let partial = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (partial + value).split("\n");
      partial = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield JSON.parse(line.slice(5));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
