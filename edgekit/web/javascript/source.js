// Where bytes come from: an address, a path in Node, bytes, a Blob or a Response. And the package's one error.

/** What is wrong, in one sentence: a file, a setting, a prompt, memory. */
export class EdgekitError extends Error {
  name = "EdgekitError";
}

const inNode = typeof process === "object" && Boolean(process.versions?.node);

/** {total, chunks}: the number of bytes, undefined if it is not known, and an iterator over Uint8Arrays. */
export async function open(source, signal) {
  if (source instanceof ArrayBuffer) source = new Uint8Array(source);
  if (ArrayBuffer.isView(source)) {
    const bytes = new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
    return { total: bytes.length, chunks: [bytes] };
  }
  if (source instanceof URL || typeof source === "string") {
    const isWeb = source instanceof URL ? source.protocol !== "file:" : /^(?!file:)[a-z][a-z0-9+.-]+:/i.test(source);
    if (inNode && !isWeb) return openFile(source);
    source = await fetched(source, signal);
  }
  if (source instanceof Blob) return { total: source.size, chunks: read(source.stream(), signal) };
  if (source instanceof Response) return ofResponse(source, signal);
  throw new EdgekitError("a model is a URL, a path, an ArrayBuffer, a Uint8Array, a Blob or a Response");
}

/** All bytes. */
export async function bytesOf(source) {
  const parts = [];
  for await (const chunk of (await open(source)).chunks) parts.push(chunk);
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function fetched(url, signal) {
  try {
    return await fetch(url, { signal });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new EdgekitError(`${url} cannot be loaded: ${error.cause?.message || error.message}`);
  }
}

function ofResponse(response, signal) {
  const name = response.url || "the response";
  if (!response.ok) throw new EdgekitError(`${name}: HTTP status ${response.status}`);
  if (!response.body || response.bodyUsed) throw new EdgekitError(`${name} has no body, or it was read before`);
  // With an encoding, the length is that of the compressed bytes.
  const length = response.headers.get("content-encoding") ? null : response.headers.get("content-length");
  return { total: length ? Number(length) : undefined, chunks: read(response.body, signal) };
}

/** Safari cannot iterate over a stream. */
async function* read(stream, signal) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (signal?.aborted) throw signal.reason;
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function openFile(path) {
  const name = "node:fs/promises"; // not a literal: bundlers for browsers have no such module
  const fs = await import(/* @vite-ignore */ /* webpackIgnore: true */ name);
  if (typeof path === "string" && path.startsWith("file:")) path = new URL(path);
  try {
    const file = await fs.open(path);
    const { size } = await file.stat();
    return { total: size, chunks: file.createReadStream({ highWaterMark: 1 << 20 }) };
  } catch (error) {
    throw new EdgekitError(`${path} cannot be read: ${error.message}`);
  }
}
