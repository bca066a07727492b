// Runs an exported folder without a browser: its modules, its build of the engine and its model.
// node export_web.mjs FOLDER MODEL [BUILD] < requests. A JSON request per line in, a JSON answer per line out: the events of a
// request (a conversation if it has `messages`), {info}, {render: texts} of conversations, or {error}.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, id, wasm] = process.argv.slice(2);
const bring = (name) => import(pathToFileURL(`${folder}/${name}`).href);
const site = JSON.parse(readFileSync(`${folder}/site.json`));
const { load } = await bring(site.engine.module);
const { Model } = await bring("model.js");
const { render } = await bring("chat.js");
const { file, chat } = site.models.find((entry) => entry.id === id);
const model = new Model(await load(readFileSync(`${folder}/${file}`), { wasm }));

async function answer(request) {
  if (request.info) return { ...model.info, ...model.engine.info };
  if (request.render) return request.render.map((messages) => render(request.strings, messages));
  const events = [];
  for await (const event of request.messages ? model.converse(request, chat) : model.answer(request)) events.push(event);
  return events;
}

for await (const line of createInterface({ input: process.stdin })) {
  const found = await answer(JSON.parse(line)).catch((error) => ({ error: `${error.name}: ${error.message}` }));
  process.stdout.write(JSON.stringify(found) + "\n");
}
