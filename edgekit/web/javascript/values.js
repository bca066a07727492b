// Texts and GGUF values out of the engine's memory.

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Ill-formed bytes are U+FFFD. */
export function decoded(bytes) {
  return utf8.decode(bytes);
}

/** DataView's readers by GGUF's types, and the bytes of a number. */
const READERS = {
  0: ["getUint8", 1], 1: ["getInt8", 1], 2: ["getUint16", 2], 3: ["getInt16", 2], 4: ["getUint32", 4],
  5: ["getInt32", 4], 6: ["getFloat32", 4], 7: ["getUint8", 1], 10: ["getBigUint64", 8], 11: ["getBigInt64", 8],
  12: ["getFloat64", 8],
};

/** All of a value: one, or the items of an array. */
export function readValues(view, { type, array, count }) {
  const values = [];
  const string = (at, length) => decoded(new Uint8Array(view.buffer, view.byteOffset + at, length));
  if (type === 8 && !array) return [string(0, view.byteLength)];
  for (let at = 0; values.length < count; ) {
    if (type === 8) {
      const length = Number(view.getBigUint64(at, true));
      values.push(string(at + 8, length));
      at += 8 + length;
      continue;
    }
    const [reader, bytes] = READERS[type];
    const value = view[reader](at, true);
    values.push(type === 7 ? Boolean(value) : typeof value === "bigint" ? smaller(value) : value);
    at += bytes;
  }
  return values;
}

function smaller(value) {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
