// The engine of an exported page: the model runs in this browser, in a worker, and nothing leaves the machine.
// The same as engine_server.js to the page; `site.json`, which `edgekit export-web` writes, lists the models.

const workers = new Map(); // by runtime: two of them do not share ONNX Runtime's memory
let site = null;

async function sited() {
  site ??= await (await fetch("site.json")).json();
  return site;
}

/** WebGPU is offered where there is an adapter and the folder has the files for it. */
async function runtimes() {
  const { runtimes: exported } = await sited();
  const adapter = exported.webgpu ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
  return adapter ? ["wasm", "webgpu"] : ["wasm"];
}

/** A worker's answers to one message, until the one that says `done`. */
async function* ask(runtime, message, signal) {
  if (!workers.has(runtime)) {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module", name: runtime });
    workers.set(runtime, worker);
  }
  const worker = workers.get(runtime);
  const { port1, port2 } = new MessageChannel();
  const waiting = [];
  let wake = () => {};
  const tell = (answer) => {
    waiting.push(answer);
    wake();
  };
  port1.onmessage = ({ data }) => tell(data);
  const died = (event) => tell({ error: `the worker failed: ${event.message || "it could not be loaded"}` });
  const cancel = () => port1.postMessage("cancel");
  worker.addEventListener("error", died);
  signal?.addEventListener("abort", cancel);
  worker.postMessage({ ...message, runtime, site }, [port2]);
  try {
    for (;;) {
      while (!waiting.length) await new Promise((resolve) => (wake = resolve));
      const answer = waiting.shift();
      if (answer.error) throw new Error(answer.error);
      if (answer.done) return;
      yield answer;
    }
  } finally {
    cancel();
    port1.close();
    worker.removeEventListener("error", died);
    signal?.removeEventListener("abort", cancel);
  }
}

const FASTEST = "edgekit-fastest"; // the rates this browser reached, so that the quicker runtime comes first next time

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
    const { models } = await sited();
    const there = await runtimes();
    const known = rates();
    const sorted = [...there].sort((a, b) => (known[b] ?? 0) - (known[a] ?? 0));
    const first = there.every((name) => known[name]) ? sorted[0] : "wasm";
    return models.map((model) => ({ ...model, runtime: first, runtimes: there }));
  },

  async defaults(id) {
    return (await sited()).models.find((model) => model.id === id).defaults;
  },

  async prepare(model, runtime, progress) {
    await sited();
    for await (const answer of ask(runtime, { type: "prepare", model })) progress(answer);
  },

  async *generate(request, signal) {
    await sited();
    const { runtime, ...asked } = request;
    for await (const answer of ask(runtime, { type: "generate", request: asked, model: asked.model }, signal)) {
      if (!answer.type) continue; // progress of a model that was not prepared
      if (answer.type === "end" && answer.tokens.length > 16 && answer.tokens_per_second) {
        localStorage.setItem(FASTEST, JSON.stringify({ ...rates(), [runtime]: answer.tokens_per_second }));
      }
      yield answer;
    }
  },
};
