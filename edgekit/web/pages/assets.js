// Large files, fetched once: kept in the browser's cache under names that hold their content's hash.

const ASSETS = "edgekit-assets";

/**
 * The bytes of a file, unpacked if it is gzip. `progress(loaded, total)` counts bytes as they travel. Throws an Error of
 * one line. Without a cache (a page that came by plain http from another machine has none) it is fetched each time.
 */
export async function bytesOf(url, total, progress) {
  const cache = await globalThis.caches?.open(ASSETS).catch(() => null);
  const kept = await cache?.match(url);
  let answer = kept;
  if (!answer) {
    answer = await fetch(url).catch(() => null);
    if (!answer?.ok) throw new Error(`${url} could not be fetched${answer ? ` (${answer.status})` : ": no network"}`);
  }
  const data = await read(answer, total, progress);
  if (!kept) await cache?.put(url, new Response(data)).catch(() => {}); // a full disk: next time by network again
  // A server may have unpacked it on the way, so ask the bytes, not the name.
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  const plain = new Response(data).body.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

async function read(answer, total, progress) {
  const parts = [];
  let loaded = 0;
  const reader = answer.body.getReader();
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
