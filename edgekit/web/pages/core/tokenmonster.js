// TokenMonster vocabularies: text to ids and back, at once or streamed, from the bytes of a `.vocab` file.
//
// Ids and text are exactly those of edgekit/tokenizers/tokenmonster/vocabulary.py and of the reference library
// (github.com/alasdairforsythe/tokenmonster). vocab_file.js reads files, capcode.js normalises text, and matcher.js
// chooses the tokens.

import { normalize, Undo } from "./capcode.js";
import { PromptError, VocabularyError } from "./errors.js";
import { Matcher } from "./matcher.js";
import { concat, decode, loneSurrogate, REPLACE, Utf8Stream } from "./utf8.js";
import { NONE, readVocabulary, SPECIAL } from "./vocab_file.js";

export { NONE };

const NOTHING = new Uint8Array(0);

/** A vocabulary. The tables for encoding are built at the first `encode`. */
export class Vocabulary {
  #file;
  #matchers = new Map();

  /**
   * A vocabulary from the content of its file, an ArrayBuffer or Uint8Array (not copied).
   *
   * Throws `VocabularyError` if the file is damaged or foreign; the message begins with `name`.
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
    this.unk = file.unk; // the id of each byte without a token, or NONE (such bytes are dropped)
    this.deleteToken = file.deleteToken;
    this.size = file.size; // ids in use
    this.tableSize = file.tableSize; // all ids are below it
    this.specialIds = new Set(file.id.filter((id, index) => file.flags[index] & SPECIAL));
  }

  /** The byte stream that tokens are matched in. Throws `PromptError` if a string contains lone surrogates. */
  normalize(text) {
    if (this.charset === 2) {
      throw new VocabularyError(`${this.name}: charset UTF-16 cannot be encoded or decoded (the reference cannot)`);
    }
    if (typeof text === "string") requireUtf8(text, "the text");
    return normalize(text, this.normalization, this.capcode);
  }

  /**
   * Ids of a text: a string, or a Uint8Array of any bytes. Bytes that no token covers become `unk` each, or nothing.
   * A special token's spelling becomes its id, unless `specials` is false: then special tokens are ignored, and the ids
   * of `reserved` too, a Set that must be the same in every call.
   */
  encode(text, { specials = true, reserved = new Set() } = {}) {
    const stream = this.normalize(text);
    const without = specials ? new Set() : new Set([...this.specialIds, ...reserved]);
    if (!this.#matchers.has(without.size)) this.#matchers.set(without.size, new Matcher(this.#file, without));
    return this.#matchers.get(without.size).encode(stream);
  }

  /**
   * The bytes of an id before capcode is undone; those of word-like tokens start with the delete marker and a space.
   * Empty for UNK and for unused ids.
   */
  piece(id) {
    const record = this.#file.pieces.get(id);
    if (record === undefined) return NOTHING;
    const start = this.#file.start[record];
    return this.#file.bytes.subarray(start, start + this.#file.length[record]);
  }

  /** The bytes of a sequence of ids, possibly ill-formed UTF-8. Unused ids add nothing. */
  decodeBytes(ids) {
    const undo = new Undo(this.capcode);
    return concat([undo.feed(concat(Array.from(ids, (id) => this.piece(id)))), undo.flush()]);
  }

  /** The text of a sequence of ids; ill-formed UTF-8 becomes U+FFFD. NFD is not undone. */
  decode(ids) {
    return decode(this.decodeBytes(ids), REPLACE);
  }

  decoder() {
    return new Decoder(this);
  }
}

/**
 * Streaming decoder from ids to text: the pieces and `flush` joined equal `Vocabulary.decode` of all ids.
 *
 * Withholds delete and capital markers until their character comes, and unfinished UTF-8 characters.
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

  /** The withheld text, an unfinished character as U+FFFD; resets the decoder. */
  flush() {
    const text = this.#utf8.feed(this.#undo.flush());
    return text + this.#utf8.flush();
  }
}

/** Throws `PromptError` if a string contains a lone surrogate, which cannot be encoded as UTF-8. */
export function requireUtf8(text, what) {
  const at = loneSurrogate(text);
  if (at >= 0) throw new PromptError(`${what} is not UTF-8 (at character ${Array.from(text.slice(0, at)).length + 1})`);
}
