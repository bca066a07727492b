// Converts weights stored as float16, or as int8 with scales, to float32 before ONNX Runtime loads them.
//
// The graph does the same with Cast and Mul nodes, which ONNX Runtime evaluates once when it loads the file. But in
// WebAssembly such weights are slower to use than weights from the file: with the same graph and numbers a step took 1.3
// to 1.7 times the processor time (7M and 12M parameters, Node). So the file is rewritten as `--quant fp32` would have
// written it: those nodes are removed and replaced by their results.

import { fields, head, numeral, sizeOf } from "./protobuf.js";

// onnx.proto: ModelProto.graph; GraphProto.node, .initializer; NodeProto.input, .output, .op_type; TensorProto.dims,
// .data_type, .name, .raw_data; TensorProto.DataType.
const GRAPH = 7;
const [NODE, INITIALIZER] = [1, 5];
const [INPUT, OUTPUT, OPERATOR] = [1, 2, 4];
const [DIMS, TYPE, NAME, RAW] = [1, 2, 8, 9];
const [FLOAT, INT8, FLOAT16] = [1, 3, 10];

const text = new TextDecoder();

/** The file with float32 weights, a Uint8Array; `data` itself if there is nothing to convert. */
export function toFloat32(data) {
  const outer = [...fields(data)];
  const place = outer.findIndex(({ number }) => number === GRAPH);
  const graph = place < 0 ? null : rewritten([...fields(outer[place].value)]);
  if (!graph) return data;
  const parts = outer.map(({ raw }) => raw);
  parts.splice(place, 1, head(GRAPH, sizeOf(graph)), ...graph);
  const out = new Uint8Array(sizeOf(parts));
  let at = 0;
  for (const part of parts) {
    // Weights are converted one by one, so that only one tensor is in memory twice.
    out.set(part instanceof Float32Tensor ? part.bytes() : part, at);
    at += part.length;
  }
  return out;
}

/** The parts of the new graph; null if nothing has to change. */
function rewritten(all) {
  const tensors = new Map();
  for (const field of all) {
    if (field.number !== INITIALIZER) continue;
    const tensor = tensorOf(field.value);
    tensors.set(tensor.name, tensor);
  }
  const converted = new Map();
  const removed = new Set(); // names of initializers, and nodes, that are no longer needed
  for (const field of all) {
    if (field.number !== NODE) continue;
    const { inputs, output, operator } = nodeOf(field.value);
    const stored = tensors.get(inputs[0]);
    if (operator === "Cast" && (stored?.type === FLOAT16 || stored?.type === INT8)) {
      converted.set(output, new Float32Tensor(output, stored, null));
      removed.add(stored.name).add(field);
    } else if (operator === "Mul" && converted.has(inputs[0]) && tensors.has(inputs[1])) {
      converted.set(output, new Float32Tensor(output, converted.get(inputs[0]).stored, tensors.get(inputs[1])));
      converted.delete(inputs[0]);
      removed.add(inputs[1]).add(field);
    }
  }
  if (!converted.size) return null;
  const isRemoved = (field) =>
    removed.has(field) || (field.number === INITIALIZER && removed.has(tensorOf(field.value).name));
  const unchanged = all.filter((field) => !isRemoved(field)).map(({ raw }) => raw);
  return [...unchanged, ...[...converted.values()].flatMap((one) => [one.head, one])];
}

/** A tensor to convert to float32; its `length` in the file is known before its bytes are computed. */
class Float32Tensor {
  constructor(name, stored, scale) {
    this.stored = stored;
    this.scale = scale;
    this.length = 4 * stored.dims.reduce((product, size) => product * size, 1);
    const encoded = new TextEncoder().encode(name);
    const entries = [...stored.dims.map((size) => numeral(DIMS, size)), numeral(TYPE, FLOAT), head(NAME, encoded.length)];
    entries.push(encoded, head(RAW, this.length));
    const parts = [head(INITIALIZER, sizeOf(entries) + this.length), ...entries];
    this.head = Uint8Array.from(parts.flatMap((part) => [...part]));
  }

  bytes() {
    const { stored, scale } = this;
    const values = stored.type === INT8 ? Float32Array.from(new Int8Array(stored.raw)) : halves(new Uint16Array(stored.raw));
    if (scale) {
      const scales = new Float32Array(scale.raw);
      const width = stored.dims.at(-1);
      const across = scale.dims.at(-1) === width; // one scale for each column; else one for each row
      for (let i = 0; i < values.length; i++) values[i] *= scales[across ? i % width : Math.floor(i / width)];
    }
    return new Uint8Array(values.buffer);
  }
}

let table = null; // the values of all 65,536 float16

function halves(words) {
  table ??= Float32Array.from({ length: 65536 }, (_, word) => {
    const sign = word & 0x8000 ? -1 : 1;
    const exponent = (word >> 10) & 31;
    const fraction = word & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
  const values = new Float32Array(words.length);
  for (let i = 0; i < words.length; i++) values[i] = table[words[i]];
  return values;
}

function tensorOf(data) {
  const tensor = { dims: [], type: 0, name: "" };
  for (const { number, value } of fields(data)) {
    if (number === DIMS) tensor.dims.push(value);
    else if (number === TYPE) tensor.type = value;
    else if (number === NAME) tensor.name = text.decode(value);
    else if (number === RAW) tensor.bytes = value;
  }
  // A copy, made when it is needed, because typed arrays require alignment.
  Object.defineProperty(tensor, "raw", { get: () => tensor.bytes.slice().buffer });
  return tensor;
}

function nodeOf(data) {
  const node = { inputs: [], output: "", operator: "" };
  for (const { number, value } of fields(data)) {
    if (number === INPUT) node.inputs.push(text.decode(value));
    else if (number === OUTPUT) node.output ||= text.decode(value);
    else if (number === OPERATOR) node.operator = text.decode(value);
  }
  return node;
}
