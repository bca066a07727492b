// UTF-8 that may be ill-formed or incomplete. TextDecoder alone cannot preserve it, and a tokenizer must return exactly
// the bytes that it was given.
//
// ESCAPE represents each ill-formed byte as a lone surrogate, U+DC80 to U+DCFF, which `encode` converts back (Python's
// `surrogateescape`). REPLACE replaces each maximal ill-formed part by one U+FFFD, as Python and browsers do.

export const ESCAPE = "escape";
export const REPLACE = "replace";

const encoder = new TextEncoder();
const NOTHING = new Uint8Array(0);

/**
 * What begins at `at`: n > 0, a well-formed character of n bytes; n < 0, an ill-formed part of -n bytes; 0, the
 * beginning of a character that continues past `end`. (The Unicode Standard, table 3-7.)
 */
function measure(bytes, at, end) {
  const lead = bytes[at];
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return -1;
  const length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  let low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  let high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  for (let k = 1; k < length; k++) {
    if (at + k >= end) return 0;
    const byte = bytes[at + k];
    // ED A0 to ED BF, a surrogate, is ill-formed in any case, but Python's stream decoder waits for a third byte. So
    // does this one, for the same pieces.
    if (lead === 0xed && k === 1 && byte >= 0xa0 && byte <= 0xbf && at + 2 === end) return 0;
    if (byte < low || byte > high) return -k;
    low = 0x80;
    high = 0xbf;
  }
  return length;
}

/** The text of `bytes` up to an unfinished character, and how many bytes it took. */
function read(bytes, illFormed) {
  const end = bytes.length;
  const units = new Uint16Array(end); // no byte gives more than one UTF-16 unit
  let count = 0;
  let at = 0;
  while (at < end) {
    const lead = bytes[at];
    if (lead < 0x80) {
      units[count++] = lead;
      at++;
      continue;
    }
    const length = measure(bytes, at, end);
    if (length === 0) break;
    if (length < 0) {
      if (illFormed === REPLACE) units[count++] = 0xfffd;
      else for (let k = 0; k < -length; k++) units[count++] = 0xdc00 | bytes[at + k];
      at -= length;
      continue;
    }
    let point = lead & (0xff >> (length + 1));
    for (let k = 1; k < length; k++) point = (point << 6) | (bytes[at + k] & 0x3f);
    if (point > 0xffff) {
      units[count++] = 0xd7c0 + (point >> 10);
      point = 0xdc00 | (point & 0x3ff);
    }
    units[count++] = point;
    at += length;
  }
  let text = "";
  for (let i = 0; i < count; i += 8192) {
    text += String.fromCharCode.apply(null, units.subarray(i, Math.min(count, i + 8192)));
  }
  return { text, used: at };
}

/** Decodes bytes in pieces; an unfinished character (at most 3 bytes) waits for the next piece. */
export class Utf8Stream {
  constructor(illFormed) {
    this.illFormed = illFormed;
    this.pending = NOTHING;
  }

  /** The text that is certain after these bytes. */
  feed(bytes) {
    const data = this.pending.length ? concat([this.pending, bytes]) : bytes;
    const { text, used } = read(data, this.illFormed);
    this.pending = used < data.length ? data.slice(used) : NOTHING;
    return text;
  }

  /** The withheld bytes, as ill-formed text; resets the stream. */
  flush() {
    const bytes = Array.from(this.pending);
    this.pending = NOTHING;
    if (this.illFormed === ESCAPE) return String.fromCharCode(...bytes.map((byte) => 0xdc00 | byte));
    const surrogate = bytes[0] === 0xed && bytes[1] >= 0xa0; // two ill-formed parts, not one
    return "\ufffd".repeat(surrogate ? 2 : Math.min(bytes.length, 1));
  }
}

/** The text of all of `bytes`. */
export function decode(bytes, illFormed) {
  const stream = new Utf8Stream(illFormed);
  const text = stream.feed(bytes);
  return text + stream.flush();
}

/** The bytes of a text; escaped bytes are restored. */
export function encode(text) {
  if (loneSurrogate(text) < 0) return encoder.encode(text);
  const bytes = [];
  for (const char of text) {
    const point = char.codePointAt(0);
    if (point >= 0xdc80 && point <= 0xdcff) bytes.push(point & 0xff);
    else bytes.push(...encoder.encode(char));
  }
  return Uint8Array.from(bytes);
}

/** Index of the first lone surrogate in UTF-16 units, or -1 if the text is well-formed. */
export function loneSurrogate(text) {
  // The simple test is many times faster, and most texts have no surrogates at all.
  return /[\ud800-\udfff]/.test(text) ? text.search(/\p{Surrogate}/u) : -1;
}

export function concat(parts) {
  let length = 0;
  for (const part of parts) length += part.length;
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
