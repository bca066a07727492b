// Reads and checks `.vocab` files as edgekit/tokenizers/tokenmonster/vocab_file.py does, with the same error messages.
//
// A token is stored as a *record*. A word-like token may have a second record, a duplicate: it has the same id
// (score -1), and its bytes start with the delete marker and a space, so that the encoder can match both in one step.
// Records are typed arrays over the file's bytes: an object for each record would take ten times the memory and time.

import { VocabularyError } from "./errors.js";

/** Stands for "no id" and "no record". */
export const NONE = 0xffffff;

// Flags of a record.
export const [ENDS_LETTER, BEGINS_LETTER, BEGINS_SPACE, ENDS_MARKER, BEGINS_MARKER, WHOLE_WORD, SPECIAL, UNIFORM] = [
  1, 2, 4, 8, 16, 32, 64, 128,
];
const LONGEST = 40; // bytes in a record
const HEADER = 24;
const AFTER_TOKEN = 15; // flags, words, alt1, alt2, id (3 bytes each), score

/**
 * The content of a file, checked. Throws `VocabularyError`; the message begins with `name`.
 *
 * Returns capcode, charset, normalization, mode, reserve, unk, size, tableSize, deleteToken, maxlen, follow (256 bytes),
 * count and bytes (the file); for each record, in arrays of `count`, start, length, flags, words, alt1, alt2, id and
 * score; `base` and `pieces` map an id to the record of its own bytes and to the record that it decodes to.
 */
export function readVocabulary(data, name) {
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  try {
    const file = parse(bytes);
    check(file);
    if (file.maxlen !== file.longest) {
      wrong(`longest record is ${file.longest} bytes, the header says ${file.maxlen}`);
    }
    const size = file.base.size + (file.unk !== NONE);
    if (file.size !== size) wrong(`${size} ids are in use, the header says ${file.size}`);
    return file;
  } catch (error) {
    throw error instanceof Wrong ? new VocabularyError(`${name}: ${error.message}`) : error;
  }
}

class Wrong extends Error {}

function wrong(message) {
  throw new Wrong(message);
}

function parse(bytes) {
  if (bytes.length < HEADER) wrong(`only ${bytes.length} bytes, too short for a TokenMonster vocabulary`);
  const [capcode, charset, normalization, mode, reserve] = bytes;
  if (capcode > 2 || charset > 2) {
    wrong(`capcode ${capcode} and charset ${charset} (each 0, 1 or 2): not a TokenMonster vocabulary`);
  }
  const u24 = (at) => bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16); // past the end: 0
  const [unk, size, tableSize, count, deleteToken] = [8, 11, 14, 17, 20].map(u24);
  // A damaged header may claim millions of records; this many fit in the file at most.
  const capacity = Math.min(count, Math.ceil((bytes.length - HEADER) / (2 + AFTER_TOKEN)));
  const file = {
    capcode, charset, normalization, mode, reserve, unk, size, tableSize, deleteToken, count, bytes,
    maxlen: bytes[23],
    start: new Uint32Array(capacity),
    length: new Uint8Array(capacity),
    flags: new Uint8Array(capacity),
    words: new Uint8Array(capacity),
    alt1: new Uint32Array(capacity),
    alt2: new Uint32Array(capacity),
    id: new Uint32Array(capacity),
    score: new Float32Array(capacity),
  };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let place = HEADER;
  for (let index = 0; index < count; index++) {
    const length = place < bytes.length ? bytes[place] : NONE;
    if (length === 0 || (length > LONGEST && length !== NONE)) {
      wrong(`record ${index} is ${length} bytes long (1 to ${LONGEST})`);
    }
    const end = place + 1 + length;
    if (end + AFTER_TOKEN > bytes.length) wrong(`ends inside record ${index} of ${count}`);
    file.start[index] = place + 1;
    file.length[index] = length;
    file.flags[index] = bytes[end];
    file.words[index] = bytes[end + 1];
    file.alt1[index] = u24(end + 2);
    file.alt2[index] = u24(end + 5);
    file.id[index] = u24(end + 8);
    file.score[index] = view.getFloat32(end + 11, true);
    place = end + AFTER_TOKEN;
  }
  file.follow = bytes.subarray(place, place + 256);
  place += 256;
  const deletedCount = u24(place);
  file.deleted = [];
  place += 3;
  for (let index = 0; index < deletedCount; index++) {
    const length = place < bytes.length ? bytes[place] : 0;
    const end = place + 1 + length;
    if (end + 7 > bytes.length) wrong(`ends inside deleted token ${index} of ${deletedCount}`);
    file.deleted.push({ length, id: u24(end) });
    place = end + 7;
  }
  if (place > bytes.length) wrong("ends before the list of deleted tokens");
  if (place !== bytes.length) wrong(`${bytes.length - place} bytes too many at the end`);
  return file;
}

function check(file) {
  const { bytes, start, length, words, alt1, alt2, id, score, count, tableSize } = file;
  file.base = new Map();
  file.pieces = new Map();
  file.highest = -1; // highest id of a token with bytes
  for (let index = 0; index < count; index++) {
    if (index && !comesBefore(file, index - 1, index)) wrong(`record ${index} is out of order or comes twice`);
    // The encoder's scores rely on these counts; wrong ones could make it loop forever.
    if (words[index]) {
      let spaces = 0;
      for (let k = 0; k < length[index]; k++) spaces += bytes[start[index] + k] === 32;
      if (words[index] > spaces) wrong(`record ${index} counts ${words[index]} words, more than it has spaces`);
    }
    if (alt1[index] !== NONE) {
      checkAlternative(file, alt1[index], index);
      if (alt2[index] !== NONE) checkAlternative(file, alt2[index], index);
    } else if (alt2[index] !== NONE) wrong(`record ${index} has a second alternative but no first`);
    if (id[index] >= tableSize) wrong(`record ${index} has id ${id[index]}, the table size is ${tableSize}`);
    file.pieces.set(id[index], index); // the last record of an id counts
    if (score[index] >= 0) {
      if (file.base.has(id[index])) wrong(`record ${index} has id ${id[index]}, which another token has`);
      file.base.set(id[index], index);
      if (id[index] > file.highest) file.highest = id[index];
    } else if (score[index] !== -1) wrong(`record ${index} has score ${String(score[index]).toLowerCase()}`);
  }
  file.longest = count ? length[count - 1] : 0;
  checkIds(file);
}

function checkIds(file) {
  const { bytes, start, length, id, score, count, base, tableSize, unk, deleteToken, deleted } = file;
  const marker = [-1, 0x7f, 0x44][file.capcode];
  for (let index = 0; index < count; index++) {
    if (score[index] !== -1) continue;
    const record = base.get(id[index]); // without one its bytes must be the marker and a space alone
    const at = start[index];
    let same = file.capcode > 0 && bytes[at] === marker && bytes[at + 1] === 32 && length[index] >= 2;
    same &&= length[index] === 2 + (record === undefined ? 0 : length[record]);
    for (let k = 2; same && k < length[index]; k++) same = bytes[at + k] === bytes[start[record] + k - 2];
    if (!same) wrong(`record ${index} is marked as a duplicate of id ${id[index]}, but is none`);
  }
  for (const [name, special] of [["unknown", unk], ["delete", deleteToken]]) {
    if (special !== NONE && special >= tableSize) {
      wrong(`the ${name} token has id ${special}, the table size is ${tableSize}`);
    }
  }
  if (base.has(unk)) wrong(`the unknown token's id ${unk} belongs to a token with bytes`);
  if (deleteToken !== NONE) {
    const record = base.get(deleteToken);
    if (record === undefined || file.capcode === 0 || length[record] !== 1 || bytes[start[record]] !== marker) {
      wrong(`the delete token ${deleteToken} is not the marker of capcode level ${file.capcode}`);
    }
  }
  for (const token of deleted) {
    if (token.length < 1 || token.length > LONGEST || (token.id !== NONE && token.id >= tableSize)) {
      wrong(`a deleted token has ${token.length} bytes and id ${token.id}, the table size is ${tableSize}`);
    }
  }
  let { highest } = file;
  for (const used of [unk, ...deleted.map((token) => token.id)]) {
    if (used !== NONE && used > highest) highest = used;
  }
  if (tableSize !== highest + 1) wrong(`the table size is ${tableSize}, the highest id ${highest}`);
}

/** Whether record `a` comes before `b` in the order of records: by length, then by bytes. */
function comesBefore({ bytes, start, length }, a, b) {
  if (length[a] !== length[b]) return length[a] < length[b];
  for (let k = 0; k < length[a]; k++) {
    const difference = bytes[start[a] + k] - bytes[start[b] + k];
    if (difference) return difference < 0;
  }
  return false;
}

function checkAlternative({ bytes, start, length }, alt, index) {
  let fits = alt < index;
  for (let k = 0; fits && k < length[alt]; k++) fits = bytes[start[alt] + k] === bytes[start[index] + k];
  if (!fits) wrong(`record ${index} has alternative ${alt}, which is not an earlier prefix of it`);
}
