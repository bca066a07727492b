// Reads the metadata of edgekit's `.onnx` files: texts, and whole files as base64 (edgekit/formats/embedded.py).
//
// Only the outermost fields are read, and the graph with its weights is one of them, so the size of the weights does not
// matter.

import { fields } from "./protobuf.js";

const METADATA = 14; // ModelProto.metadata_props, each a StringStringEntryProto: 1 key, 2 value
const FILE = "edgekit.file.";

/** {texts: Map, files: {name: bytes}} of a Uint8Array. Throws an Error if it is not an ONNX file. */
export function readMetadata(data) {
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
