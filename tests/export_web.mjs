// Runs an exported folder without a browser: onnxruntime-web's WebAssembly, the folder's modules and its model.
// node export_web.mjs FOLDER MODEL < requests. A JSON request per line in (a conversation if it has `messages`), a JSON list of its events per line out.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { gunzipSync } from "node:zlib";

const [folder, id] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${folder}/${name}`).href);
const site = JSON.parse(readFileSync(`${folder}/site.json`));
const { script, wasm } = site.runtimes.wasm;
const ort = await load(script);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = new Uint8Array(gunzipSync(readFileSync(`${folder}/${wasm}`))).buffer;
const { Model } = await load("model.js");
const { file, chat } = site.models.find((entry) => entry.id === id);
const model = await Model.open(ort, new Uint8Array(readFileSync(`${folder}/${file}`)), "wasm");

for await (const line of createInterface({ input: process.stdin })) {
  const events = [];
  const request = JSON.parse(line);
  for await (const event of request.messages ? model.converse(request, chat) : model.answer(request)) events.push(event);
  process.stdout.write(JSON.stringify(events) + "\n");
}
