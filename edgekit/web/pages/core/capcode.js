// Converts text to the byte stream that TokenMonster's tokens are matched in, and back. The rules of
// edgekit/tokenizers/tokenmonster/capcode.py.
//
// Forward, `normalize`: a vocabulary's normalisation flags (nearly always NFD alone), then capcode. Capcode level 1
// puts a delete marker and a space (7F 20) before a word without a space before it, so that `(Hello` uses the same
// token ` Hello` as running text. Level 2 does that with `D `, and also writes capitals as markers and lowercase
// letters: `C` (one capital), `W` (a word of capitals). Back, `Undo`: removes markers and restores capitals; NFD stays.
//
// The rules are those of the reference library (github.com/alasdairforsythe/tokenmonster) with Unicode 13.0.
// Ill-formed UTF-8 passes through byte by byte: strings represent such bytes as lone surrogates (utf8.js).

import { classOf, nfd, simpleLower, simpleUpper } from "./unicode13.js";
import { decode, encode, ESCAPE, loneSurrogate, Utf8Stream } from "./utf8.js";

// Bits of a vocabulary's normalisation byte.
export const [NFD, LOWERCASE, ACCENTS, QUOTEMARKS, COLLAPSE, TRIM, LEADING_SPACE, UNIX_LINES] = [
  1, 2, 4, 8, 16, 32, 64, 128,
];

/**
 * The stream that tokens are matched in, as bytes: `source` with normalisation `flags`, then capcode `level`, applied.
 *
 * `source` is a well-formed string, or a Uint8Array of any bytes; ill-formed ones are preserved.
 */
export function normalize(source, flags, level) {
  let text = plainFlags(typeof source === "string" ? source : decode(source, ESCAPE), flags);
  let wantsNfd = Boolean(flags & (NFD | ACCENTS));
  let tail = "";
  if (wantsNfd && loneSurrogate(text) >= 0) {
    const bytes = encode(text);
    const length = incompleteTail(bytes);
    tail = decode(bytes.subarray(bytes.length - length), ESCAPE);
    text = text.slice(0, text.length - tail.length);
  }
  if (tail || flags & (ACCENTS | LOWERCASE)) {
    text = fold(text, flags) + tail;
    // Something may have been removed from between the bytes of a character.
    if (loneSurrogate(text) >= 0) text = decode(encode(text), ESCAPE);
    wantsNfd = false;
  }
  if (level) text = capcode(text, level, wantsNfd);
  else if (wantsNfd) text = nfd(text);
  return encode(text);
}

/** How many bytes at the end (0 to 3) NFD does not change, because a lead byte needs more bytes than there are. */
export function incompleteTail(bytes) {
  for (const [left, low] of [
    [3, 0xf0],
    [2, 0xe0],
    [1, 0xc2],
  ]) {
    const lead = bytes[bytes.length - left];
    if (lead >= low && lead <= 0xf7) return left;
  }
  return 0;
}

function plainFlags(text, flags) {
  if (flags & UNIX_LINES) text = text.replaceAll("\r\n", "\n");
  if (flags & QUOTEMARKS) text = text.replace(/[\u2018\u2019]/g, "'").replace(/[\u201c\u201d]/g, '"');
  if (flags & COLLAPSE) text = text.replace(/ {2,}/g, " ");
  if (flags & TRIM) {
    let start = 0;
    let end = text.length;
    while (start < end && text.charCodeAt(start) <= 32) start++;
    while (end > start && text.charCodeAt(end - 1) <= 32) end--;
    text = text.slice(start, end);
  }
  if (flags & LEADING_SPACE && text && text[0] !== " ") text = " " + text;
  return text;
}

function fold(text, flags) {
  const each = (change) => (text = Array.from(text, change).join(""));
  if (flags & ACCENTS) {
    text = nfd(text);
    each((char) => (classOf(char) === "m" ? "" : char));
  }
  if (flags & LOWERCASE) each(simpleLower);
  return flags & (NFD | ACCENTS) ? nfd(text) : text;
}

// ---- forward --------------------------------------------------------------------------------------------------------
// Plain stretches (spaces and letters; at level 2 lowercase letters) pass unchanged. The units between them are
// rewritten: a run of anything else with the letter that follows. The result for a unit depends only on the unit and
// on what comes before it: a space (S), a letter, or the start of the text (^). English has few different units
// (", ", "'s", "\nTh"), so results are cached.

const UNITS = { 1: /[^ A-Za-z]+[A-Za-z]?/g, 2: /[^ a-z]+[a-z]?/g };
const MARKERS = { 1: "\x7f ", 2: "D " };

function capcode(text, level, wantsNfd) {
  if (!text) return text;
  const [start, space, letter] = rewriters(level, wantsNfd);
  const marked = text.replace(UNITS[level], (unit, at) =>
    (at === 0 ? start : text.charCodeAt(at - 1) === 32 ? space : letter)(unit),
  );
  // If the text begins with a plain letter, no unit covers its beginning.
  const first = text.charCodeAt(0);
  const plain = (first >= 97 && first <= 122) || (level === 1 && first >= 65 && first <= 90);
  const whole = plain ? MARKERS[level] + marked : marked;
  // A capital after a space: the marker goes before that space. Capital D, C and W occur as markers only.
  return level === 2 ? whole.replace(/ D([WC]) /g, "$1 ") : whole;
}

const rewritersByKind = new Map();

/** Functions that rewrite a unit: at the start of a text, after a space, after a letter. */
function rewriters(level, wantsNfd) {
  const key = 2 * level + wantsNfd;
  if (!rewritersByKind.has(key)) {
    rewritersByKind.set(key, ["^", "S", "l"].map((before) => rewriter(level, before, wantsNfd)));
  }
  return rewritersByKind.get(key);
}

function rewriter(level, before, wantsNfd) {
  const rewrite = level === 1 ? markWords : markCapitals;
  const cache = new Map(); // for short units, and bounded, since a hostile text may have any number of units
  return (unit) => {
    let result = cache.get(unit);
    if (result === undefined) {
      result = rewrite(wantsNfd ? nfd(unit) : unit, before);
      if (unit.length <= 24) {
        if (cache.size >= 1 << 15) cache.clear();
        cache.set(unit, result);
      }
    }
    return result;
  };
}

/** A character's class for capcode: S space, A apostrophe, u l t letters, n number, m mark, o other. */
function kindOf(char) {
  if (char === " ") return "S";
  if (char === "'" || char === "\u2019") return "A";
  const kind = classOf(char);
  return kind === "s" ? "m" : kind === "-" ? "o" : kind;
}

const isLetter = (kind) => kind === "u" || kind === "l" || kind === "t";
const isGlued = (kind) => isLetter(kind) || kind === "A" || kind === "m";

/** Level 1 for a unit. `before` is the class of the character before it, ^ at the start of the text. */
function markWords(unit, before) {
  let out = "";
  let earlier = "^";
  let previous = before;
  for (const char of unit) {
    const kind = kindOf(char);
    if (isLetter(kind)) {
      const joined = previous === "S" || previous === "m" || isLetter(previous);
      if (!joined && !(previous === "A" && isLetter(earlier))) out += "\x7f ";
    } else if (kind === "n" && previous !== "S" && previous !== "n") out += "\x7f ";
    out += char === "\x7f" ? "\x14" : char;
    earlier = previous;
    previous = kind;
  }
  return out;
}

/** Level 2 for a unit, except that a capital after a space is still ` DW ` or ` DC `. */
function markCapitals(unit, before) {
  const chars = [];
  const prefixes = [];
  let earlier = "^";
  let previous = before;
  let run = -1; // where the current run of capitals began
  let more = false; // whether it has a second one
  for (let char of unit) {
    const kind = kindOf(char);
    let prefix = "";
    if (kind === "u") {
      if (run < 0) {
        run = chars.length;
        more = false;
        prefix = "DW ";
      } else {
        more = true;
        prefix = isGlued(previous) ? "" : "D ";
      }
      char = simpleLower(char);
    } else if (kind === "l") {
      if (run >= 0) {
        // The run was not a word of capitals after all: mark each of its letters as a single capital.
        prefixes[run] = "DC ";
        for (let place = run + 1; more && place < chars.length; place++) {
          if (classOf(chars[place]) === "l") prefixes[place] = "DC ";
        }
        run = -1;
        prefix = isGlued(previous) ? "" : "D ";
      } else if (previous !== "S" && previous !== "l" && previous !== "m") {
        prefix = previous === "A" && isLetter(earlier) ? "" : "D ";
      }
    } else if (kind === "n") prefix = previous === "S" || previous === "n" ? "" : "D ";
    else if (kind !== "A" && kind !== "m") run = -1;
    prefixes.push(prefix);
    chars.push(char);
    earlier = previous;
    previous = kind;
  }
  return chars.map((char, place) => prefixes[place] + char).join("");
}

// ---- back -----------------------------------------------------------------------------------------------------------

/**
 * Removes capcode from a byte stream in pieces: the pieces and `flush` joined equal the result for the whole stream.
 *
 * Level 1: 7F deletes the next byte, whatever it is. Level 2 works on characters, so it withholds an unfinished one.
 * Level 0 changes nothing.
 */
export class Undo {
  constructor(level) {
    this.level = level;
    this.utf8 = new Utf8Stream(ESCAPE);
    this.clear();
  }

  clear() {
    this.word = this.char = this.delete = this.fresh = false;
  }

  feed(bytes) {
    if (this.level === 1) return this.deleteMarked(bytes);
    return this.level === 2 ? encode(this.capitalise(this.utf8.feed(bytes))) : bytes;
  }

  /** The withheld bytes; drops pending markers, and the next `feed` starts a new stream. */
  flush() {
    const left = encode(this.capitalise(this.utf8.flush()));
    this.clear();
    return left;
  }

  deleteMarked(bytes) {
    if (!this.delete && !bytes.includes(0x7f)) return bytes;
    const out = new Uint8Array(bytes.length);
    let count = 0;
    for (const byte of bytes) {
      if (this.delete) this.delete = false;
      else if (byte === 0x7f) this.delete = true;
      else out[count++] = byte;
    }
    return out.subarray(0, count);
  }

  capitalise(text) {
    if (!(this.word || this.char || this.delete || /[CDW]/.test(text))) {
      this.fresh = this.fresh && !text;
      return text;
    }
    let out = "";
    for (const char of text) out += this.step(char);
    return out;
  }

  step(char) {
    if (char === "C") {
      this.char = true;
      this.word = false;
      return "";
    }
    if (char === "W") {
      this.word = this.fresh = true;
      this.char = false;
      return "";
    }
    if (char === "D") {
      this.delete = true;
      return "";
    }
    if (this.delete) {
      this.delete = false;
      char = "";
    } else if (char === " ") this.word = this.word && this.fresh;
    else if (this.char) {
      this.char = false;
      char = simpleUpper(char);
    } else if (this.word) {
      const kind = kindOf(char);
      if (kind === "u" || kind === "l") char = simpleUpper(char);
      else if (kind !== "n" && kind !== "A" && kind !== "m") this.word = false;
    }
    this.fresh = false;
    return char;
  }
}
