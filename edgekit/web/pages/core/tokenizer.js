// The tokenizer of a TokenMonster checkpoint: a `.vocab`, EOS and BOS above its ids, padding up to the embedding's rows.
//
// As in edgekit/tokenizers/tokenmonster/tokenizer.py: for Stentor2, 8,000 base tokens, EOS 8000, BOS 8001, pad = EOS,
// padded to a multiple of 128: 8,064. Text never produces EOS, BOS or another special token, except with `specials`.

import { VocabularyError } from "./errors.js";
import { requireUtf8, Vocabulary } from "./tokenmonster.js";
import { Masks } from "./utf8_mask.js";

const VOCAB_FILE = "tokenmonster.vocab";
const EOS = "</s>";
const BOS = "<s>";
const UNSET = { bos_token: 1, eos_token: 2 }; // transformers' Llama defaults, which it writes where no id was set

export class TokenMonsterTokenizer {
  #reserved;
  #silent;
  #masks;

  /**
   * `vocabSize`: rows of the model's embedding. `eos`: ids that end a text, `bos`: ids that begin one, of which the
   * first is used; by default the first and the second above the vocabulary, if there are rows for them. Ids that are
   * ordinary text, or outside `vocabSize`, are ignored. `addBos`: whether a prompt begins with `bos`. `eosToken`,
   * `bosToken` and `padToken`: their spellings, for `encode(text, { specials: true })`. `reserved`: a Map from spellings to ids of
   * ordinary tokens that this model uses as specials; they print nothing, and text does not produce them.
   *
   * Properties: `stop` is the set of ids that end a text, `bos` the id to put before a prompt or null, `eos`, `bosId` and
   * `pad` ids or null (`pad` is EOS unless it is one of `reserved`), `specials` a map from spellings to ids.
   *
   * Throws `VocabularyError`: more ids than `vocabSize`.
   */
  constructor(vocabulary, vocabSize, options = {}) {
    const { eos = [], bos = [], addBos = false, eosToken = EOS, bosToken = BOS, padToken = "" } = options;
    const { reserved = new Map() } = options;
    const base = vocabulary.tableSize;
    if (base > vocabSize) {
      throw new VocabularyError(
        `${vocabulary.name} has ${base} ids, but the model's embedding has ${vocabSize} rows: ` +
          "this vocabulary belongs to another model",
      );
    }
    this.vocabulary = vocabulary;
    this.vocabSize = vocabSize;
    this.#reserved = new Set(reserved.values());
    const inside = (id) => vocabulary.specialIds.has(id) || this.#reserved.has(id);
    const canBeSpecial = (id) => (id >= base && id < vocabSize) || inside(id);
    const givenEos = eos.filter(canBeSpecial);
    const givenBos = bos.filter(canBeSpecial);
    const above = [base, base + 1].filter((id) => id < vocabSize);
    const ends = givenEos.length ? givenEos : above.filter((id) => !givenBos.includes(id)).slice(0, 1);
    const begins = givenBos.length ? givenBos : above.filter((id) => !ends.includes(id)).reverse();
    this.eos = ends[0] ?? null;
    this.pad = reserved.get(padToken) ?? this.eos;
    this.stop = new Set(ends);
    this.bosId = begins[0] ?? null;
    this.bos = addBos ? this.bosId : null;
    const ids = [...vocabulary.specialIds].sort((a, b) => a - b);
    this.specials = new Map(ids.map((id) => [vocabulary.decode([id]), id]));
    for (const [token, id] of [...reserved, [bosToken, this.bosId], [eosToken, this.eos]]) {
      if (token && id !== null) this.specials.set(token, id);
    }
    this.#silent = new Set([...ids, ...this.#reserved, ...ends, ...begins.slice(0, 1)]);
  }

  /**
   * The tokenizer of a checkpoint. `files`: the files of the checkpoint without the weights, as an object from names to
   * bytes: tokenizer_config.json and the vocabulary that it names. generation_config.json, config.json and
   * special_tokens_map.json are read too, if present, for EOS and BOS.
   *
   * Configured ids are used if they are above the vocabulary or special tokens of it. An ordinary token's id counts if
   * tokenizer_config.json spells the special token otherwise than that id's text, but not BOS 1 and EOS 2: transformers
   * writes its Llama defaults into every config.json. Throws `VocabularyError`: no such file, a damaged one, or more ids
   * than `vocabSize`.
   */
  static fromFiles(files, vocabSize) {
    const config = readJson(files, "tokenizer_config.json");
    const name = config.vocab_file || VOCAB_FILE;
    if (typeof name !== "string" || name === "." || name === ".." || /[/\\:\0]/.test(name)) {
      throw new VocabularyError(`tokenizer_config.json: vocab_file must be a file name, not ${JSON.stringify(name)}`);
    }
    if (!Object.hasOwn(files, name)) {
      throw new VocabularyError(`tokenizer_config.json names the vocabulary ${name}, which is not next to the model`);
    }
    const [eosToken, bosToken, padToken] = ["eos_token", "bos_token", "pad_token"].map((key) => spelling(files, key));
    const vocabulary = Vocabulary.fromBytes(files[name], name);
    return new TokenMonsterTokenizer(vocabulary, vocabSize, {
      reserved: reservedIds(files, config, vocabulary),
      eos: [...configuredIds(files, "eos_token_id"), ...addedIds(config, eosToken)],
      bos: [...configuredIds(files, "bos_token_id"), ...addedIds(config, bosToken)],
      addBos: config.add_bos_token === true,
      eosToken: eosToken || EOS,
      bosToken: bosToken || BOS,
      padToken,
    });
  }

  /**
   * Ids of a text, without BOS or EOS. With `specials` the spelling of a special token becomes its id: only for text
   * that you trust. Throws `PromptError` if `text` contains lone surrogates.
   */
  encode(text, { specials = false } = {}) {
    requireUtf8(text, "the text");
    const plain = (part) => this.vocabulary.encode(part, { specials: false, reserved: this.#reserved });
    if (!specials || !this.specials.size) return plain(text);
    const spelled = [...this.specials.keys()].sort((a, b) => b.length - a.length);
    const pattern = spelled.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|");
    return text
      .split(new RegExp(`(${pattern})`))
      .flatMap((part, i) => (i % 2 ? [this.specials.get(part)] : part ? plain(part) : []));
  }

  /** The text of a sequence; specials and padding decode to nothing, ill-formed UTF-8 to U+FFFD. */
  decode(ids) {
    return this.vocabulary.decode(Array.from(ids).filter((id) => !this.#silent.has(id)));
  }

  /** A streaming decoder that continues the text of `context`, an array of ids. */
  decoder(context = []) {
    const decoder = new TokenMonsterDecoder(this.vocabulary, this.#silent);
    for (const id of context) decoder.feed(id);
    return decoder;
  }

  /**
   * The ids that may follow without producing U+FFFD: Uint8Array (vocabSize) of 0 and 1, cached, so do not change it.
   *
   * `decoder`: a decoder from this tokenizer in its current state. `remaining`: how many ids may follow the next one; if
   * given, a character that they cannot finish is not begun. Ids that end a text are allowed between characters only.
   */
  utf8Mask(decoder, remaining) {
    if (!this.#masks) {
      const none = new Uint8Array(0);
      const piece = (_, id) => (this.#silent.has(id) ? none : this.vocabulary.piece(id));
      const pieces = Array.from({ length: this.vocabSize }, piece);
      this.#masks = new Masks(pieces, [...this.#silent], this.vocabulary.capcode);
    }
    return this.#masks.mask(decoder.maskState(this.#masks), remaining);
  }
}

/** Streaming decoder from ids to text. Pending between ids: an unfinished character, a delete marker, capitals. */
class TokenMonsterDecoder {
  #inner;
  #silent;
  #fed = [];
  #maskState = null;

  constructor(vocabulary, silent) {
    this.#inner = vocabulary.decoder();
    this.#silent = silent;
  }

  /** The text that is certain after this id; "" while a character or a marker is unfinished. */
  feed(id) {
    if (this.#silent.has(id)) return "";
    this.#fed.push(id);
    return this.#inner.feed(id);
  }

  /** The withheld text (an unfinished character becomes U+FFFD); resets the decoder. */
  flush() {
    this.#fed = [];
    this.#maskState = null;
    return this.#inner.flush();
  }

  /** The state of the mask's automaton. It advances only here, so other uses cost nothing. */
  maskState(masks) {
    let state = this.#maskState ?? masks.start;
    for (const id of this.#fed) state = masks.advance(state, id);
    this.#fed = [];
    this.#maskState = state;
    return state;
  }
}

// ---- configuration files (edgekit/tokenizers/load.py) ---------------------------------------------------------------

function readJson(files, name) {
  if (!Object.hasOwn(files, name)) return {};
  let value;
  try {
    value = JSON.parse(new TextDecoder().decode(files[name]));
  } catch (error) {
    throw new VocabularyError(`${name} is not JSON: ${error.message}`);
  }
  if (!isObject(value)) throw new VocabularyError(`${name} is not a JSON object`);
  return value;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

// The generation config comes first, as in transformers' `generate`.
function configuredIds(files, key) {
  const ids = ["generation_config.json", "config.json", "tokenizer_config.json"]
    .flatMap((name) => readJson(files, name)[key] ?? [])
    .filter((id) => Number.isInteger(id) && id >= 0);
  return [...new Set(ids)];
}

// The spelling of a special token: a string, or transformers' AddedToken as an object with `content`.
function spelling(files, key) {
  for (const name of ["tokenizer_config.json", "special_tokens_map.json"]) {
    const value = readJson(files, name)[key];
    const text = isObject(value) ? value.content : value;
    if (typeof text === "string" && text) return text;
  }
  return "";
}

// Ids of this spelling in transformers' `added_tokens_decoder` table.
function addedIds(config, token) {
  const table = config.added_tokens_decoder;
  if (!token || !isObject(table)) return [];
  return Object.keys(table)
    .filter((id) => /^\d+$/.test(id) && isObject(table[id]) && table[id].content === token)
    .map(Number);
}

// Ids of ordinary tokens that the configuration makes special, by spelling; see `fromFiles`.
function reservedIds(files, config, vocabulary) {
  const found = new Map();
  for (const key of ["eos_token", "pad_token", "bos_token", "unk_token", "sep_token", "cls_token", "mask_token"]) {
    const token = spelling(files, key);
    for (const id of [...configuredIds(files, `${key}_id`), ...addedIds(config, token)]) {
      const ordinary = id < vocabulary.tableSize && !vocabulary.specialIds.has(id);
      if (token && ordinary && id !== UNSET[key] && vocabulary.decode([id]) !== token && !found.has(token)) {
        found.set(token, id);
      }
    }
    if (key === "eos_token" && !found.size) return found; // padding alone is often 0, which nobody chose
  }
  return found;
}
