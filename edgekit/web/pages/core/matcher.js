// TokenMonster's choice of tokens: a normalised byte stream in, ids out. The rules of
// edgekit/tokenizers/tokenmonster/matcher.py, on a trie.
//
// At each step the candidates are the longest match and up to two shorter alternatives from the vocabulary. Each is
// scored together with the longest match after it, with and without an inserted "delete marker, space" before that one.
// A score has a part that depends on the first token alone, and a part that depends on the second, on two flags of the
// first and on the follow class of the byte after both. The second part has sixteen values, computed once for each shape
// of record (length, flags, words). The rules and constants come from the reference library.

import {
  BEGINS_LETTER, BEGINS_MARKER, BEGINS_SPACE, ENDS_LETTER, ENDS_MARKER, NONE, UNIFORM, WHOLE_WORD,
} from "./vocab_file.js";

// Follow classes as 0 undecided, 1 letter, 2 other, 3 space.
const LETTER = 1;
const SPACE = 3;
const WORST = -(2 ** 30);

/** Everything that depends only on a record's shape. `kind` is 4 * (ends in a letter + 2 * ends on a marker). */
function shapeOf(length, flags, words) {
  const has = (flag) => Number((flags & flag) > 0);
  const first = length + has(UNIFORM) + Math.max(0, words - 1) + 100 * words;
  const second = new Int32Array(16); // score as the second of two, by kind of the first + class of the byte after
  const virtual = new Int32Array(16); // the same if its leading space is virtual: not in the text
  for (let kind = 0; kind < 4; kind++) {
    for (let after = 0; after < 4; after++) {
      const splitsWord = kind & 1;
      let score = first + Number(after === SPACE) + 100 * Number(after > LETTER);
      if (after === LETTER) score -= 3 * has(ENDS_LETTER);
      if (kind & 2) score -= 100 * has(BEGINS_MARKER);
      second[4 * kind + after] = score + has(BEGINS_SPACE) - 103 * splitsWord * has(BEGINS_LETTER);
      virtual[4 * kind + after] = score - 2 - 103 * splitsWord;
    }
  }
  return {
    second,
    virtual,
    first,
    carried: length - 1 + has(UNIFORM) + Math.max(0, words - 2) + 100 * (words - 1),
    kind: 4 * has(ENDS_LETTER) + 8 * has(ENDS_MARKER),
    whole: has(WHOLE_WORD) > 0, // a space after it decides at once
    joinable: has(BEGINS_LETTER) > 0 && words === 0, // a virtual space before it may be better
  };
}

/** All records as one tree; the children of all nodes are in one hash table. */
class Trie {
  constructor(records) {
    this.nodes = 1; // node 0 is the root
    this.record = new Int32Array(0);
    this.allocate(2 ** Math.ceil(Math.log2(4 * records + 64))); // most vocabularies have some 2.3 nodes a record
  }

  /** Allocate `slots` slots, for half as many nodes. */
  allocate(slots) {
    this.keys = new Int32Array(slots); // (node << 8 | byte) + 1; 0 is an empty slot
    this.children = new Int32Array(slots);
    this.shift = 32 - Math.log2(slots);
    const record = new Int32Array(slots / 2).fill(-1); // node -> the record that ends there, or -1
    record.set(this.record);
    this.record = record;
  }

  slot(key) {
    const mask = this.keys.length - 1;
    let at = Math.imul(key, 0x9e3779b1) >>> this.shift;
    while (this.keys[at] !== 0 && this.keys[at] !== key) at = (at + 1) & mask;
    return at;
  }

  add(bytes, start, length, record) {
    let node = 0;
    for (let k = 0; k < length; k++) {
      const key = ((node << 8) | bytes[start + k]) + 1;
      const at = this.slot(key);
      if (this.keys[at] === 0) {
        this.keys[at] = key;
        this.children[at] = this.nodes++;
        node = this.children[at];
        if (this.nodes > this.record.length) this.grow();
      } else node = this.children[at];
    }
    this.record[node] = record;
  }

  grow() {
    const { keys, children } = this;
    this.allocate(2 * keys.length);
    keys.forEach((key, i) => {
      if (key) {
        const at = this.slot(key);
        this.keys[at] = key;
        this.children[at] = children[i];
      }
    });
  }

  /** The child of a node, or 0. */
  child(node, byte) {
    const at = this.slot(((node << 8) | byte) + 1);
    return this.keys[at] === 0 ? 0 : this.children[at];
  }

  /** The longest record that begins at `at`, searched from `node`; -1 if there is none. */
  longest(data, at, node) {
    const { keys, children, record, shift } = this;
    const mask = keys.length - 1;
    let best = record[node];
    for (; at < data.length; at++) {
      const key = ((node << 8) | data[at]) + 1;
      let slot = Math.imul(key, 0x9e3779b1) >>> shift;
      while (keys[slot] !== key) {
        if (keys[slot] === 0) return best;
        slot = (slot + 1) & mask;
      }
      node = children[slot];
      if (record[node] >= 0) best = record[node];
    }
    return best;
  }
}

export class Matcher {
  /** `file`: from readVocabulary. Records with an id in `without` are ignored. */
  constructor(file, without = new Set()) {
    this.unk = file.unk;
    this.deleteToken = file.deleteToken;
    this.classes = file.follow.map((kind) => ({ 1: LETTER, 10: 2, 12: SPACE })[kind] ?? 0);
    this.ids = file.id;
    this.lengths = file.length;
    this.shapes = [];
    this.shape = new Uint32Array(file.count);
    this.alternatives = new Int32Array(2 * file.count).fill(-1);
    this.trie = new Trie(file.count);
    const known = new Map();
    for (let index = 0; index < file.count; index++) {
      if (without.has(file.id[index])) continue;
      const length = file.length[index];
      const flags = file.flags[index];
      const words = file.words[index];
      const key = (length << 16) | (flags << 8) | words;
      if (!known.has(key)) known.set(key, this.shapes.push(shapeOf(length, flags, words)) - 1);
      this.shape[index] = known.get(key);
      // If the first alternative is ignored, the second takes its place.
      let place = 2 * index;
      const alt1 = file.alt1[index];
      const alt2 = file.alt2[index];
      if (alt1 !== NONE && !without.has(file.id[alt1])) this.alternatives[place++] = alt1;
      if (alt2 !== NONE && !without.has(file.id[alt2])) this.alternatives[place] = alt2;
      this.trie.add(file.bytes, file.start[index], length, index);
    }
    this.afterSpace = this.trie.child(0, 32); // the node after a space
  }

  /** The ids of a normalised stream (Uint8Array), as an array of numbers. */
  encode(data) {
    const { ids, lengths, classes, shape, shapes, alternatives, trie, afterSpace, unk, deleteToken } = this;
    const out = [];
    const size = data.length;
    let place = 0;
    while (place < size) {
      let token = trie.longest(data, place, 0);
      if (token < 0) {
        if (unk !== NONE) out.push(unk);
        place++;
        continue;
      }
      let carry = 0; // 1 while the leading space of `token` is virtual
      for (;;) {
        const end = place + lengths[token] - carry;
        if (end === size || (shapes[shape[token]].whole && classes[data[end]] === SPACE)) {
          out.push(ids[token]);
          place = end;
          break;
        }
        let best = WORST;
        let bestFirst = 0;
        let bestAt = 0;
        let bestNext = 0;
        let bestVirtual = WORST;
        let virtualFirst = 0;
        let virtualAt = 0;
        let virtualNext = 0;
        for (let k = -1; k < 2; k++) {
          const first = k < 0 ? token : alternatives[2 * token + k];
          if (first < 0) break;
          const at = place + lengths[first] - carry;
          const next = trie.longest(data, at, 0);
          if (next < 0) continue;
          const firstShape = shapes[shape[first]];
          const nextShape = shapes[shape[next]];
          const firstScore = carry ? firstShape.carried : firstShape.first;
          const { kind } = firstShape;
          const length = lengths[next];
          let stop = at + length;
          const after = classes[stop < size ? data[stop] : 0];
          let score = firstScore + nextShape.second[kind + after];
          if (stop <= end) score -= stop < end ? 100 : 10000;
          if (score > best) {
            best = score;
            bestFirst = first;
            bestAt = at;
            bestNext = next;
          }
          if (after !== LETTER || !nextShape.joinable || deleteToken === NONE || afterSpace === 0) continue;
          // The next token would stop inside a word: look for a better one that begins with a space.
          const joined = trie.longest(data, at, afterSpace);
          if (joined < 0 || lengths[joined] <= length + 1) continue;
          stop = at + lengths[joined] - 1;
          score = firstScore + shapes[shape[joined]].virtual[kind + classes[stop < size ? data[stop] : 0]];
          if (stop <= end) score -= stop < end ? 100 : 10000;
          if (score > bestVirtual) {
            bestVirtual = score;
            virtualFirst = first;
            virtualAt = at;
            virtualNext = joined;
          }
        }
        if (best === WORST) {
          out.push(ids[token]);
          place = end;
          break;
        }
        if (bestVirtual > best) {
          out.push(ids[virtualFirst], deleteToken);
          place = virtualAt;
          token = virtualNext;
          carry = 1;
        } else {
          out.push(ids[bestFirst]);
          place = bestAt;
          token = bestNext;
          carry = 0;
        }
      }
    }
    return out;
  }
}
