// The engine of an exported page: the model runs in this browser, in a worker, and nothing leaves the device.
// It has the interface of engine_server.js. `site.json`, written by `edgekit export-web`, lists the models.

const workers = new Map(); // by runtime: each has its own ONNX Runtime
let site = null;

async function loadSite() {
  site ??= await (await fetch("site.json")).json();
  return site;
}

/** WebGPU is offered if there is an adapter and the folder has the files for it. */
async function runtimes() {
  const { runtimes: exported } = await loadSite();
  const adapter = exported.webgpu ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
  return adapter ? ["wasm", "webgpu"] : ["wasm"];
}

/** Yields a worker's answers to a message, up to the one with `done`. */
async function* ask(runtime, message, signal) {
  if (!workers.has(runtime)) {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module", name: runtime });
    workers.set(runtime, worker);
  }
  const worker = workers.get(runtime);
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
  worker.postMessage({ ...message, runtime, site }, [port2]);
  try {
    for (;;) {
      while (!queue.length) await new Promise((resolve) => (wake = resolve));
      const answer = queue.shift();
      if (answer.error) throw new Error(answer.error);
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

const FASTEST = "edgekit-fastest"; // measured rates, so that the faster runtime comes first next time

function rates() {
  try {
    return JSON.parse(localStorage.getItem(FASTEST)) ?? {};
  } catch {
    return {};
  }
}

export const engine = {
  where: "browser",
  tagline: "A small language model, running in this browser. Nothing you type leaves it.",

  async models() {
    const { models } = await loadSite();
    const available = await runtimes();
    const measured = rates();
    const sorted = [...available].sort((a, b) => (measured[b] ?? 0) - (measured[a] ?? 0));
    const first = available.every((name) => measured[name]) ? sorted[0] : "wasm";
    return models.map(({ chat, ...model }) => ({
      ...model, runtime: first, runtimes: available, chat: Boolean(chat), system: Boolean(chat?.system),
    }));
  },

  async defaults(id) {
    return (await loadSite()).models.find((model) => model.id === id).defaults;
  },

  async prepare(model, runtime, progress) {
    await loadSite();
    for await (const answer of ask(runtime, { type: "prepare", model })) progress(answer);
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
  await loadSite();
  const { runtime, ...others } = request;
  for await (const answer of ask(runtime, { type, request: others, model: others.model }, signal)) {
    if (!answer.type) continue; // progress of loading the model
    if (answer.type === "end" && answer.tokens.length > 16 && answer.tokens_per_second) {
      localStorage.setItem(FASTEST, JSON.stringify({ ...rates(), [runtime]: answer.tokens_per_second }));
    }
    yield answer;
  }
}
