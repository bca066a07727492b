// The engine of an exported page: the model runs in this browser, in a worker, and nothing leaves the device.
// It has the interface of engine_server.js, and `open`. `site.json`, written by `edgekit export-web`, lists the models.

let site = null;
let worker = null;
const opened = []; // models of this visit: files and addresses that the user chose

async function loadSite() {
  site ??= (async () => (await fetch("site.json")).json())();
  return site;
}

async function find(id) {
  return [...(await loadSite()).models, ...opened].find((model) => model.id === id);
}

/** Yields the worker's answers to a message, up to the one with `done`. */
async function* ask(message, signal) {
  worker ??= new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const { port1, port2 } = new MessageChannel();
  const queue = [];
  let wake = () => {};
  const receive = (answer) => {
    queue.push(answer);
    wake();
  };
  port1.onmessage = ({ data }) => receive(data);
  const failed = (event) => receive({ error: `the worker failed: ${event.message || "it could not be loaded"}` });
  const cancel = () => port1.postMessage("cancel");
  worker.addEventListener("error", failed);
  signal?.addEventListener("abort", cancel);
  worker.postMessage({ ...message, engine: (await loadSite()).engine }, [port2]);
  try {
    for (;;) {
      while (!queue.length) await new Promise((resolve) => (wake = resolve));
      const answer = queue.shift();
      if (answer.error) {
        signal?.throwIfAborted();
        throw new Error(answer.error);
      }
      if (answer.done) return;
      yield answer;
    }
  } finally {
    cancel();
    port1.close();
    worker.removeEventListener("error", failed);
    signal?.removeEventListener("abort", cancel);
  }
}

const shown = ({ chat, defaults, file, opened: _, ...model }) => ({
  ...model, runtime: "wasm", runtimes: ["wasm"], chat: Boolean(chat), system: Boolean(chat?.system),
});

export const engine = {
  where: "browser",
  tagline: "A small language model, running in this browser. Nothing you type leaves it.",

  async models() {
    return (await loadSite()).models.map(shown);
  },

  async defaults(id) {
    return (await find(id)).defaults;
  },

  /** Opens a GGUF file: a File, or its address as text. The description of the model, as in `models`. */
  async open(file, progress, signal) {
    const name = typeof file === "string" ? decodeURIComponent(file.split(/[?#]/)[0].split("/").at(-1)) : file.name;
    const model = { id: `opened-${opened.length + 1}`, name: name.replace(/\.gguf$/i, ""), file, format: "gguf", chat: null, opened: true };
    try {
      for await (const { info, ...answer } of ask({ type: "prepare", model }, signal)) {
        if (info) Object.assign(model, info);
        else progress(answer);
      }
    } catch (error) {
      signal?.throwIfAborted();
      throw new Error(`${name} cannot be opened: ${error.message}`);
    }
    opened.push(model);
    return shown(model);
  },

  async prepare(id, runtime, progress) {
    for await (const answer of ask({ type: "prepare", model: await find(id) })) if (answer.what) progress(answer);
  },

  generate: (request, signal) => answers("generate", request, signal),

  async *chat(request, signal) {
    let dropped = 0;
    for await (const event of answers("chat", request, signal)) {
      if (event.type === "start") ({ dropped } = event);
      if (event.type === "token" && event.text) yield { type: "text", text: event.text };
      if (event.type === "end") yield { type: "end", finish_reason: event.finish_reason, tokens: event.tokens.length, dropped };
    }
  },
};

/** The events of a request. */
async function* answers(type, request, signal) {
  for await (const answer of ask({ type, request, model: await find(request.model) }, signal)) {
    if (answer.type) yield answer; // not the progress of loading the model
  }
}
