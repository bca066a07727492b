// Checks the JavaScript core against ports.json. make.py describes the cases.
//
//     node check.mjs FOLDER_OF_THE_CORE VOCABULARY [ports.json]
//
// Prints the differences, then the number of correct cases. Exit status 1 if there are differences.

import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const [core, vocab, golden = path.join(path.dirname(fileURLToPath(import.meta.url)), "ports.json")] =
  process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.resolve(core, name)));
const { uniform } = await load("random.js");
const { Sampler } = await load("sampler.js");
const { Stream } = await load("generate.js");
const { TokenMonsterTokenizer } = await load("tokenizer.js");
const { Vocabulary } = await load("tokenmonster.js");

const cases = JSON.parse(readFileSync(golden, "utf8"));
const size = cases.vocabulary.vocab_size;
const everyId = Int32Array.from({ length: size }, (_, id) => id);
const tokenizer = new TokenMonsterTokenizer(Vocabulary.fromBytes(readFileSync(vocab)), size, { addBos: true });

const logits = (last, length) => Float32Array.from(uniform(last, length, everyId), (u) => 10 * u);
const settingsOf = ({ seed, ...others }) => (seed === undefined ? others : { ...others, seed: BigInt(seed) });

/** A runtime with logits from the rule in make.py. */
function ruleRuntime(contextLength, eosAt) {
  let length = 0;
  return {
    vocabSize: size,
    contextLength,
    async forward(ids) {
      length += ids.length;
      const row = logits(ids.at(-1), length);
      if (eosAt !== null && length >= eosAt) row[tokenizer.eos] = 30;
      return row;
    },
    rewind(target) {
      length = target;
    },
  };
}

const parts = {
  encode: ({ text }) => ({ ids: tokenizer.encode(text) }),
  decode({ ids }) {
    const decoder = tokenizer.decoder();
    return { pieces: [...ids.map((id) => decoder.feed(id)), decoder.flush()] };
  },
  uniform: ({ seed, step, ids }) => ({ values: Array.from(uniform(BigInt(seed), step, ids)) }),
  sample({ settings, seen, rows }) {
    const sampler = new Sampler(settingsOf(settings), size, seen);
    return { tokens: rows.map((row) => sampler.choose(logits(row, 0))) };
  },
  async loop({ settings, prompt, context_length, eos_at }) {
    const stream = new Stream(ruleRuntime(context_length, eos_at), tokenizer, prompt, settingsOf(settings));
    const pieces = [];
    for await (const piece of stream) pieces.push(piece);
    const { prompt: prompt_ids, tokens, finish_reason } = stream.result;
    return { prompt_ids, pieces, tokens, finish_reason };
  },
};

let right = 0;
let wrong = 0;
for (const [name, answer] of Object.entries(parts)) {
  for (const [i, given] of cases[name].entries()) {
    for (const [key, value] of Object.entries(await answer(given))) {
      if (JSON.stringify(value) === JSON.stringify(given[key])) continue;
      console.log(`${name} ${i}: ${key} ${JSON.stringify(value)}, expected ${JSON.stringify(given[key])}`);
      wrong++;
    }
    right++;
  }
}
console.log(wrong ? `${wrong} differences` : `${right} cases, all right`);
process.exit(wrong ? 1 : 0);
