// Weights stored as float16, or as int8 with scales, made float32 before ONNX Runtime sees them.
//
// The graph says so itself, with Cast and Mul nodes that ONNX Runtime computes once, when it loads the file. But in
// WebAssembly what it computed so is slower to use than what the file held: with the same graph and the same numbers a
// step took 1.3 to 1.7 times the processor time (7M and 12M parameters, Node). So the file is rewritten as the one that
// `--quant fp32` would have been: those nodes leave, and their results are in their place.

import { fields, head, numeral, sizeOf } from "./protobuf.js";

// onnx.proto: ModelProto.graph; GraphProto.node, .initializer; NodeProto.input, .output, .op_type; TensorProto.dims,
// .data_type, .name, .raw_data; TensorProto.DataType.
const GRAPH = 7;
const [NODE, INITIALIZER] = [1, 5];
const [INPUT, OUTPUT, OPERATOR] = [1, 2, 4];
const [DIMS, TYPE, NAME, RAW] = [1, 2, 8, 9];
const [FLOAT, INT8, FLOAT16] = [1, 3, 10];

const text = new TextDecoder();

/** The file with its weights in float32, a Uint8Array; the one that was given if it has no others. */
export function widened(data) {
  const outer = [...fields(data)];
  const place = outer.findIndex(({ number }) => number === GRAPH);
  const graph = place < 0 ? null : rewritten([...fields(outer[place].value)]);
  if (!graph) return data;
  const parts = outer.map(({ raw }) => raw);
  parts.splice(place, 1, head(GRAPH, sizeOf(graph)), ...graph);
  const made = new Uint8Array(sizeOf(parts));
  let at = 0;
  for (const part of parts) {
    // Weights are made one by one, when their turn comes: what is here twice is the smallest part of them.
    made.set(part instanceof Wide ? part.bytes() : part, at);
    at += part.length;
  }
  return made;
}

/** The fields of a graph, one after the other; null if they may stay as they are. */
function rewritten(all) {
  const tensors = new Map();
  for (const field of all) {
    if (field.number !== INITIALIZER) continue;
    const tensor = tensorOf(field.value);
    tensors.set(tensor.name, tensor);
  }
  const wide = new Map();
  const gone = new Set(); // names of initializers, and nodes, that nobody needs any more
  for (const field of all) {
    if (field.number !== NODE) continue;
    const { inputs, output, operator } = nodeOf(field.value);
    const stored = tensors.get(inputs[0]);
    if (operator === "Cast" && (stored?.type === FLOAT16 || stored?.type === INT8)) {
      wide.set(output, new Wide(output, stored, null));
      gone.add(stored.name).add(field);
    } else if (operator === "Mul" && wide.has(inputs[0]) && tensors.has(inputs[1])) {
      wide.set(output, new Wide(output, wide.get(inputs[0]).stored, tensors.get(inputs[1])));
      wide.delete(inputs[0]);
      gone.add(inputs[1]).add(field);
    }
  }
  if (!wide.size) return null;
  const leaves = (field) => gone.has(field) || (field.number === INITIALIZER && gone.has(tensorOf(field.value).name));
  const kept = all.filter((field) => !leaves(field)).map(({ raw }) => raw);
  return [...kept, ...[...wide.values()].flatMap((one) => [one.head, one])];
}

/** A tensor that becomes float32; as a part of a file it has a `length` before it has its bytes. */
class Wide {
  constructor(name, stored, scale) {
    this.stored = stored;
    this.scale = scale;
    this.length = 4 * stored.dims.reduce((product, size) => product * size, 1);
    const named = new TextEncoder().encode(name);
    const facts = [...stored.dims.map((size) => numeral(DIMS, size)), numeral(TYPE, FLOAT), head(NAME, named.length), named];
    facts.push(head(RAW, this.length));
    const parts = [head(INITIALIZER, sizeOf(facts) + this.length), ...facts];
    this.head = Uint8Array.from(parts.flatMap((part) => [...part]));
  }

  bytes() {
    const { stored, scale } = this;
    const values = stored.type === INT8 ? Float32Array.from(new Int8Array(stored.raw)) : halves(new Uint16Array(stored.raw));
    if (scale) {
      const scales = new Float32Array(scale.raw);
      const width = stored.dims.at(-1);
      const across = scale.dims.at(-1) === width; // a scale for each column; else one for each row
      for (let i = 0; i < values.length; i++) values[i] *= scales[across ? i % width : Math.floor(i / width)];
    }
    return new Uint8Array(values.buffer);
  }
}

let table = null; // of all 65,536 float16

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
  // A copy, when it is wanted: typed arrays of more than a byte want their bytes at a multiple of it.
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
