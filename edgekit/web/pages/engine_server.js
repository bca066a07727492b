// The engine behind `edgekit demo`: the model runs on the machine that serves this page.
//
// An engine is
//     where                          "server" or "browser"
//     models()                       [{id, name, runtime, runtimes, format, bytes, parameters, context_length, vocab_size}]
//     defaults(id)                   a model's own settings by name
//     generate(request, signal)      an async iterator of events; aborting the signal ends the text
//     prepare(id, runtime, progress) whatever must be there first; `progress({what, loaded, total})`, bytes
//
// request: {model, runtime, prompt or tokens, settings, top}. Events: start {tokens, pieces, seed}, token {id, text, piece,
// before, after, top: [{id, piece, before, after}]}, end {finish_reason, tokens, text, tokens_per_second,
// first_token_seconds}. An error is thrown, its message one line.

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is edgekit demo still running?");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.message ?? `the server answered ${answer.status}`);
}

export const engine = {
  where: "server",
  tagline: "A small language model, running on the machine that serves this page.",

  async models() {
    return (await (await asked("api/models")).json()).models;
  },

  async defaults(id) {
    const said = await (await asked(`api/defaults?model=${encodeURIComponent(id)}`)).json();
    return said.defaults;
  },

  async prepare() {},

  async *generate(request, signal) {
    const answer = await asked("api/generate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
      signal,
    });
    for await (const event of events(answer.body)) {
      if (event.type === "error") throw new Error(event.message);
      yield event;
    }
  },
};

/** The JSON of each `data:` line of a text/event-stream. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (held + value).split("\n");
      held = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield JSON.parse(line.slice(5));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
