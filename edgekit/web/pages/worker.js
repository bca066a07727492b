// Holds ONNX Runtime and the models away from the page, so that it stays responsive while a token is computed.
//
// A message is {type: "prepare" | "generate", model, runtime, site, request} and a port: progress and events go out
// there, then {done: true} or {error}; "cancel" comes in.

import { bytesOf } from "./assets.js";
import { Storyteller } from "./storyteller.js";

const KEPT = 2; // models at once: enough to compare two
const tellers = new Map();
let runtime = null;
let turn = Promise.resolve(); // one request at a time: there is one sequence in a model's cache

/** onnxruntime-web, set up for one thread: threads want headers that a static server does not send, and are no faster. */
async function ortOf({ runtimes }, name, progress) {
  const { script, wasm, bytes } = runtimes[name];
  const ort = await import(new URL(script, import.meta.url).href);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await bytesOf(wasm, bytes, (loaded, total) => progress("ONNX Runtime", loaded, total))).buffer;
  return ort;
}

async function tellerOf(id, name, site, progress) {
  if (tellers.has(id)) return tellers.get(id);
  runtime ??= ortOf(site, name, progress);
  const ort = await runtime.catch((error) => {
    runtime = null; // the next request may have a network
    throw error;
  });
  const { file, bytes } = site.models.find((model) => model.id === id);
  const data = await bytesOf(file, bytes, (loaded, total) => progress("the model", loaded, total));
  progress("the model, setting up", bytes, bytes);
  while (tellers.size >= KEPT) tellers.delete(tellers.keys().next().value);
  tellers.set(id, await Storyteller.open(ort, data, name));
  return tellers.get(id);
}

// A promise alone would let no message in: computing in WebAssembly never leaves the thread.
const { port1, port2 } = new MessageChannel();
const breathe = () => new Promise((resolve) => {
  port1.onmessage = resolve;
  port2.postMessage(null);
});

async function serve({ type, model, runtime: name, site, request }, port, signal) {
  const progress = (what, loaded, total) => port.postMessage({ what, loaded, total });
  const teller = await tellerOf(model, name, site, progress);
  if (type !== "generate") return;
  for await (const event of teller.answer(request, signal)) {
    port.postMessage(event);
    await breathe();
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
