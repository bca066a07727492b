// TokenMonster vocabularies: text to ids and back, at once or streamed, from the bytes of a `.vocab` file.
//
// Ids and text are exactly those of edgekit/tokenizers/tokenmonster/vocabulary.py and of the reference library
// (github.com/alasdairforsythe/tokenmonster). How files are read is in vocab_file.js, how text is normalised in
// capcode.js, which tokens it becomes in matcher.js.

import { normalize, Undo } from "./capcode.js";
import { PromptError, VocabularyError } from "./errors.js";
import { Matcher } from "./matcher.js";
import { concat, decode, loneSurrogate, REPLACE, Utf8Stream } from "./utf8.js";
import { NONE, readVocabulary, SPECIAL } from "./vocab_file.js";

export { NONE };

const NOTHING = new Uint8Array(0);

/** One vocabulary. The tables for encoding are made at the first `encode`. */
export class Vocabulary {
  #file;
  #matchers = new Map();

  /**
   * A vocabulary from the content of its file, an ArrayBuffer or Uint8Array (kept, not copied).
   *
   * Throws `VocabularyError`, its one line led by `name`, if the file is damaged or foreign.
   */
  static fromBytes(data, name = "vocabulary") {
    return new Vocabulary(readVocabulary(data, name), name);
  }

  constructor(file, name) {
    this.#file = file;
    this.name = name;
    this.capcode = file.capcode; // 0 none, 1 delete marker only, 2 also capitals
    this.charset = file.charset;
    this.normalization = file.normalization; // flags of capcode.js
    this.unk = file.unk; // the id each byte without a token gets, or NONE (such bytes vanish)
    this.deleteToken = file.deleteToken;
    this.size = file.size; // ids in use
    this.tableSize = file.tableSize; // ids run below it
    this.specialIds = new Set(file.id.filter((id, index) => file.flags[index] & SPECIAL));
  }

  /** The byte stream that tokens are matched in. Throws `PromptError` if a string holds lone surrogates. */
  normalize(text) {
    if (this.charset === 2) {
      throw new VocabularyError(`${this.name}: charset UTF-16 cannot be encoded or decoded (the reference cannot)`);
    }
    if (typeof text === "string") requireUtf8(text, "the text");
    return normalize(text, this.normalization, this.capcode);
  }

  /**
   * Ids of a text: a string, or a Uint8Array of any bytes. Bytes that no token covers give `unk` each, or nothing.
   * A special token's spelling gives its id, unless `specials` is false: then such tokens do not exist.
   */
  encode(text, { specials = true } = {}) {
    const stream = this.normalize(text);
    const without = specials ? new Set() : this.specialIds;
    if (!this.#matchers.has(without.size)) this.#matchers.set(without.size, new Matcher(this.#file, without));
    return this.#matchers.get(without.size).encode(stream);
  }

  /**
   * The bytes an id adds to the stream before capcode is undone, for word-like tokens led by the delete marker and a
   * space. None for UNK and for ids that no token has.
   */
  piece(id) {
    const record = this.#file.pieces.get(id);
    if (record === undefined) return NOTHING;
    const start = this.#file.start[record];
    return this.#file.bytes.subarray(start, start + this.#file.length[record]);
  }

  /** The bytes of a sequence of ids, possibly ill-formed UTF-8. Ids without a token add nothing. */
  decodeBytes(ids) {
    const undo = new Undo(this.capcode);
    return concat([undo.feed(concat(Array.from(ids, (id) => this.piece(id)))), undo.flush()]);
  }

  /** The text of a sequence of ids; ill-formed UTF-8 shows as U+FFFD. NFD is not undone. */
  decode(ids) {
    return decode(this.decodeBytes(ids), REPLACE);
  }

  decoder() {
    return new Decoder(this);
  }
}

/**
 * Turns ids into text as they come: pieces and `flush` joined equal `Vocabulary.decode` of the whole.
 *
 * Held back: a delete marker or capital marker waiting for its character, and an unfinished UTF-8 character.
 */
export class Decoder {
  #vocabulary;
  #undo;
  #utf8 = new Utf8Stream(REPLACE);

  constructor(vocabulary) {
    this.#vocabulary = vocabulary;
    this.#undo = new Undo(vocabulary.capcode);
  }

  /** The text that is certain after this id; "" while a character or a marker is unfinished. */
  feed(id) {
    return this.#utf8.feed(this.#undo.feed(this.#vocabulary.piece(id)));
  }

  /** The text still held back, an unfinished character as U+FFFD; the decoder starts anew. */
  flush() {
    const text = this.#utf8.feed(this.#undo.flush());
    return text + this.#utf8.flush();
  }
}

/** Throws `PromptError` if a string holds a lone surrogate, which is no character and has no UTF-8. */
export function requireUtf8(text, what) {
  const at = loneSurrogate(text);
  if (at >= 0) throw new PromptError(`${what} is not UTF-8 (at character ${Array.from(text.slice(0, at)).length + 1})`);
}
