// Downloads large files once and stores them in the browser's cache. Their names contain a hash of the content.

const ASSETS = "edgekit-assets";

/**
 * The bytes of a file, decompressed if it is gzip. `progress(loaded, total)` counts downloaded bytes. Throws an Error with
 * a one-line message. Without a cache (as over plain http from another machine) the file is downloaded each time.
 */
export async function bytesOf(url, total, progress) {
  const cache = await globalThis.caches?.open(ASSETS).catch(() => null);
  const cached = await cache?.match(url);
  let response = cached;
  if (!response) {
    response = await fetch(url).catch(() => null);
    if (!response?.ok) throw new Error(`Cannot download ${url}${response ? ` (status ${response.status})` : ": no network"}`);
  }
  const data = await read(response, total, progress);
  if (!cached) await cache?.put(url, new Response(data)).catch(() => {}); // disk full: download it again next time
  // The server may have decompressed it already, so check the bytes, not the name.
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  const plain = new Response(data).body.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

async function read(response, total, progress) {
  const parts = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    progress(Math.min(loaded, total), total);
  }
  const data = new Uint8Array(loaded);
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return data;
}
