// Runs edgekit/web/pages/core for test_mobile_web.py: a JSON request per line on stdin, a JSON answer per line on stdout.
// Bytes are sent as base64, float32 arrays as files.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { encodeConversation, render } from "../edgekit/web/pages/core/chat.js";
import { incompleteTail, normalize } from "../edgekit/web/pages/core/capcode.js";
import { EdgekitError } from "../edgekit/web/pages/core/errors.js";
import { fit, Stream, StopText, tokenLogprob } from "../edgekit/web/pages/core/generate.js";
import { uniform } from "../edgekit/web/pages/core/random.js";
import { Sampler, sum } from "../edgekit/web/pages/core/sampler.js";
import { makeSettings } from "../edgekit/web/pages/core/settings.js";
import { TokenMonsterTokenizer } from "../edgekit/web/pages/core/tokenizer.js";
import { Vocabulary } from "../edgekit/web/pages/core/tokenmonster.js";
import { classOf, nfd, nonstarters, simpleLower, simpleUpper } from "../edgekit/web/pages/core/unicode13.js";

const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));
const base64 = (data) => Buffer.from(data).toString("base64");
const source = (given) => (typeof given === "string" ? given : bytes(given.bytes));
const floats = (path) => {
  const data = readFileSync(path);
  return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
};
// JSON has no BigInt and no Map: a seed is sent as a string, a bias as pairs.
const settingsOf = ({ seed, logit_bias, ...others }) => {
  if (seed !== undefined) others.seed = typeof seed === "string" ? BigInt(seed) : seed;
  if (logit_bias !== undefined) others.logit_bias = new Map(logit_bias);
  return others;
};

const vocabularies = new Map();
function vocabularyOf(path) {
  if (!vocabularies.has(path)) vocabularies.set(path, Vocabulary.fromBytes(readFileSync(path), path));
  return vocabularies.get(path);
}

function streamed(decoder, ids) {
  return [...ids.map((id) => decoder.feed(id)), decoder.flush()];
}

function tokenizerOf({ path, vocab_size, options, files }) {
  if (!files) return new TokenMonsterTokenizer(vocabularyOf(path), vocab_size, options);
  const opened = Object.fromEntries(Object.entries(files).map(([name, data]) => [name, bytes(data)]));
  return TokenMonsterTokenizer.fromFiles(opened, vocab_size);
}

/** Logits from a table, chosen by the tokens so far: the same as `Table` in test_mobile_web.py. */
class Table {
  constructor(path, vocabSize, contextLength) {
    this.rows = floats(path);
    this.vocabSize = vocabSize;
    this.contextLength = contextLength;
    this.length = 0;
    this.calls = [];
  }

  async forward(ids) {
    this.calls.push(ids);
    this.length += ids.length;
    const row = (31 * ids.at(-1) + this.length) % (this.rows.length / this.vocabSize);
    return this.rows.slice(row * this.vocabSize, (row + 1) * this.vocabSize);
  }

  async rewind(length) {
    this.length = length;
  }
}

async function generate({ tokenizer, table, context, prompt, settings, cancel_after = null, how, ends }) {
  const opened = tokenizerOf(tokenizer);
  const runtime = new Table(table, opened.vocabSize, context);
  const pieces = [];
  const controller = new AbortController();
  const enough = () => cancel_after !== null && pieces.length >= cancel_after;
  const options = how === "signal" ? { signal: controller.signal } : how === "callback" ? { cancelled: enough } : {};
  if (ends) options.ends = ends;
  const stream = new Stream(runtime, opened, prompt, settingsOf(settings), options);
  for await (const piece of stream) {
    pieces.push(piece);
    if (how === "signal" && enough()) controller.abort();
    if (how === "method" && enough()) stream.cancel();
    if (how === "break" && enough()) break;
  }
  const { seed, ...result } = stream.result;
  return { pieces, calls: runtime.calls, ...result, seed: String(seed) };
}

const OPERATIONS = {
  unicode: ({ below }) => {
    const all = Array.from({ length: 0x110000 }, (_, point) => String.fromCodePoint(point));
    const points = all.slice(0, below);
    const changed = (change) => points.filter((c) => change(c) !== c).map((c) => [c, change(c)]);
    return {
      classes: all.map(classOf).join(""),
      upper: changed(simpleUpper),
      lower: changed(simpleLower),
      nonstarters: points.map((c) => [c, ...nonstarters(c)]).filter(([, lead, trail]) => lead || trail),
    };
  },
  nfd: ({ texts }) => texts.map(nfd),
  tails: ({ all }) => all.map((data) => incompleteTail(bytes(data))),
  normalize: ({ cases }) => cases.map(([given, flags, level]) => base64(normalize(source(given), flags, level))),
  load: ({ data, name }) => {
    const v = Vocabulary.fromBytes(bytes(data), name);
    return {
      capcode: v.capcode, charset: v.charset, normalization: v.normalization, unk: v.unk, size: v.size,
      table_size: v.tableSize, delete_token: v.deleteToken, special_ids: [...v.specialIds],
      pieces: Array.from({ length: v.tableSize }, (_, id) => base64(v.piece(id))),
    };
  },
  encode: ({ path, texts }) => texts.map((text) => vocabularyOf(path).encode(source(text))),
  decode: ({ path, all }) => {
    const v = vocabularyOf(path);
    return all.map((ids) => [base64(v.decodeBytes(ids)), v.decode(ids), streamed(v.decoder(), ids)]);
  },
  damaged: ({ all, text }) =>
    all.map((data) => {
      try {
        const v = Vocabulary.fromBytes(bytes(data), "lie");
        const ids = v.charset === 2 ? [] : v.encode(text);
        return { ids, pieces: streamed(v.decoder(), ids) };
      } catch (error) {
        if (!(error instanceof EdgekitError)) throw error;
        return { error: `${error.name}: ${error.message}` };
      }
    }),
  tokenizer: ({ tokenizer, texts, all, contexts }) => {
    const t = tokenizerOf(tokenizer);
    return {
      facts: [t.eos, t.bosId, t.bos, t.pad, [...t.stop], [...t.specials]],
      ids: texts.map((text) => [t.encode(text), t.encode(text, { specials: true })]),
      texts: all.map((ids) => [t.decode(ids), streamed(t.decoder(), ids)]),
      continued: contexts.map(([before, ids]) => streamed(t.decoder(before), ids)),
    };
  },
  masks: ({ tokenizer, walks }) => {
    const t = tokenizerOf(tokenizer);
    return walks.map(([ids, remaining]) => {
      const decoder = t.decoder();
      return [...ids, null].map((id) => {
        const allowed = t.utf8Mask(decoder, remaining ?? undefined);
        if (id !== null) decoder.feed(id);
        return base64(allowed);
      });
    });
  },
  settings: ({ values }) => {
    const { seed, logit_bias, ...others } = makeSettings(settingsOf(values));
    return { ...others, seed: seed === null ? null : String(seed) };
  },
  uniform: ({ cases }) => cases.map(([seed, step, ids]) => [...uniform(BigInt(seed), step, ids)]),
  sum: ({ all }) => all.map((values) => sum(values)),
  sample: ({ table, vocab_size, runs }) => {
    const rows = floats(table);
    return runs.map(({ settings, seen, rows: chosen }) => {
      const sampler = new Sampler(settingsOf(settings), vocab_size, seen);
      return chosen.map((row) => sampler.choose(rows.subarray(row * vocab_size, (row + 1) * vocab_size)));
    });
  },
  distribution: ({ logits, settings, seen, allowed }) => {
    const given = Float32Array.from(logits, Number);
    const { ids, probabilities } = new Sampler(settingsOf(settings), given.length, seen).distribution(given, allowed);
    return [[...ids], [...probabilities]];
  },
  logprob: ({ logits, token, top }) => tokenLogprob(Float32Array.from(logits), token, top),
  stops: ({ stops, pieces }) => {
    const text = new StopText(stops);
    return [pieces.map((piece) => text.add(piece)), text.found, text.flush()];
  },
  fit: ({ prompt, context, settings, bos }) => fit(prompt, context, makeSettings(settings), bos),
  render: ({ strings, all }) => all.map((messages) => render(strings, messages)),
  conversations: ({ tokenizer, strings, all }) => {
    const t = tokenizerOf(tokenizer);
    return all.map(([messages, context, limit]) => encodeConversation(t, strings, messages, context, limit));
  },
  generate,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { operation, ...values } = JSON.parse(line);
  let answer;
  try {
    answer = { result: await OPERATIONS[operation](values) };
  } catch (error) {
    if (!(error instanceof EdgekitError)) throw error;
    answer = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
