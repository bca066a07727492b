// Runs ONNX Runtime and the models in a worker, so that the page stays responsive.
//
// A message is {type: "prepare" | "generate" | "chat", model, runtime, site, request} with a port. Progress and events are sent
// to the port, then {done: true} or {error}; "cancel" is received from it.

import { bytesOf } from "./assets.js";
import { Model } from "./model.js";

const MAX_MODELS = 2; // models in memory: enough to compare two
const models = new Map();
let runtime = null;
let turn = Promise.resolve(); // one request at a time: a model's cache has one sequence

/** onnxruntime-web with one thread: threads need headers that a static server does not send, and are not faster. */
async function ortOf({ runtimes }, name, progress) {
  const { script, wasm, bytes } = runtimes[name];
  const ort = await import(new URL(script, import.meta.url).href);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await bytesOf(wasm, bytes, (loaded, total) => progress("ONNX Runtime", loaded, total))).buffer;
  return ort;
}

async function modelOf(id, name, site, progress) {
  if (models.has(id)) return models.get(id);
  runtime ??= ortOf(site, name, progress);
  const ort = await runtime.catch((error) => {
    runtime = null; // allow the next request to try again
    throw error;
  });
  const { file, bytes } = site.models.find((entry) => entry.id === id);
  const data = await bytesOf(file, bytes, (loaded, total) => progress("the model", loaded, total));
  progress("the model", bytes, bytes);
  while (models.size >= MAX_MODELS) models.delete(models.keys().next().value);
  models.set(id, await Model.open(ort, data, name));
  return models.get(id);
}

// Messages arrive only between tasks, and a promise alone does not end the task: WebAssembly runs on this thread.
const { port1, port2 } = new MessageChannel();
const nextTask = () => new Promise((resolve) => {
  port1.onmessage = resolve;
  port2.postMessage(null);
});

async function serve({ type, model: id, runtime: name, site, request }, port, signal) {
  const progress = (what, loaded, total) => port.postMessage({ what, loaded, total });
  const model = await modelOf(id, name, site, progress);
  if (type === "prepare") return;
  const { chat } = site.models.find((entry) => entry.id === id);
  for await (const event of type === "chat" ? model.converse(request, chat, signal) : model.answer(request, signal)) {
    port.postMessage(event);
    await nextTask();
  }
}

self.onmessage = ({ data, ports: [port] }) => {
  const controller = new AbortController();
  port.onmessage = () => controller.abort();
  turn = turn.then(async () => {
    try {
      await serve(data, port, controller.signal);
      port.postMessage({ done: true });
    } catch (error) {
      port.postMessage({ error: error.message });
    }
  });
};
