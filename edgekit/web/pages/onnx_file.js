// What an `.onnx` file of edgekit's carries beside its graph: texts, and whole files as base64 (edgekit/formats/embedded.py).
//
// Only the outermost fields are walked, and the graph is one of them: it takes no time, however large the weights are.

import { fields } from "./protobuf.js";

const METADATA = 14; // ModelProto.metadata_props, each a StringStringEntryProto: 1 key, 2 value
const FILE = "edgekit.file.";

/** {texts: Map, files: {name: bytes}} of a Uint8Array. Throws an Error if it is no ONNX file. */
export function carried(data) {
  const texts = new Map();
  const text = new TextDecoder();
  for (const { number, value } of fields(data)) {
    if (number !== METADATA) continue;
    const entry = new Map(Array.from(fields(value), (field) => [field.number, text.decode(field.value)]));
    texts.set(entry.get(1), entry.get(2));
  }
  const files = {};
  for (const [key, value] of texts) {
    if (!key.startsWith(FILE) || key.endsWith(".sha256")) continue;
    files[key.slice(FILE.length)] = Uint8Array.from(atob(value), (character) => character.charCodeAt(0));
  }
  return { texts, files };
}
