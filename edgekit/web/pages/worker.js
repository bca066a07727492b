// Runs the engine and the models in a worker, so that the page stays responsive.
//
// A message is {type: "prepare" | "generate" | "chat", model, engine, request} with a port; `model` is an entry of
// site.json, or one whose `file` the user chose: a File, or an address. Progress, for "prepare" {info}, and events are sent
// to the port, then {done: true} or {error}; "cancel" is received from it.

import { forget, keep, respond } from "./assets.js";
import { Model } from "./model.js";

const MAX_MODELS = 2; // models in memory: enough to compare two
const models = new Map();
let turn = Promise.resolve(); // one request at a time: a model's cache has one sequence

async function modelOf(entry, engine, report, signal) {
  const { id, file } = entry;
  if (models.has(id)) return models.get(id);
  const progress = ({ loaded, total = entry.bytes ?? 0 }) => report({ what: "the model", loaded, total: Math.max(loaded, total) });
  const { load } = await import(new URL(engine.module, import.meta.url).href);
  const [oldest] = models;
  if (models.size >= MAX_MODELS) {
    oldest[1].engine.close();
    models.delete(oldest[0]);
  }
  if (file instanceof Blob || entry.opened) {
    const source = file instanceof Blob ? file : (await respond(file, { stored: false, signal })).response;
    models.set(id, new Model(await load(source, { progress, signal })));
    return models.get(id);
  }
  const { response, storing } = await respond(file, { stored: true, signal });
  try {
    const opened = await load(response, { progress, signal });
    models.set(id, new Model(opened));
    await storing;
    await keep(engine.variants[opened.info.instructions].wasm); // the build that this browser runs
    return models.get(id);
  } catch (error) {
    await storing;
    await forget(file);
    throw error;
  }
}

async function serve({ type, model: entry, engine, request }, port, signal) {
  const model = await modelOf(entry, engine, (progress) => port.postMessage(progress), signal);
  if (type === "prepare") {
    port.postMessage({ info: model.info });
  } else {
    const events = type === "chat" ? model.converse(request, entry.chat, signal) : model.answer(request, signal);
    for await (const event of events) port.postMessage(event);
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
