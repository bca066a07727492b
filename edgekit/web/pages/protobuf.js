// The parts of protobuf that an ONNX file needs: reading and writing fields.

/**
 * Yields each field of a message: {number, value, raw}. `value` is a number or bytes; `raw` is the whole field with its
 * tag. Bytes are views of `data`, not copies. Throws an Error if `data` is not a message.
 */
export function* fields(data) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      if (at >= data.length) throw new Error("the model is damaged: the file is truncated");
      const byte = data[at++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const start = at;
    const tag = varint();
    const kind = tag % 8;
    let value;
    if (kind === 0) value = varint();
    else if (kind === 1 || kind === 2 || kind === 5) {
      const length = kind === 2 ? varint() : kind === 1 ? 8 : 4;
      if (at + length > data.length) throw new Error("the model is damaged: the file is truncated");
      value = data.subarray(at, at + length);
      at += length;
    } else throw new Error("the model is damaged: it is not an ONNX file");
    yield { number: Math.floor(tag / 8), value, raw: data.subarray(start, at) };
  }
}

/** The start of a length-delimited field: tag and length. */
export function head(number, length) {
  return Uint8Array.from([...varint(number * 8 + 2), ...varint(length)]);
}

/** A field with a number. */
export function numeral(number, value) {
  return Uint8Array.from([...varint(number * 8), ...varint(value)]);
}

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return [...bytes, value];
}

export const sizeOf = (parts) => parts.reduce((total, { length }) => total + length, 0);
