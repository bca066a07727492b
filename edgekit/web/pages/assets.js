// Downloads large files once and stores them in the browser's cache. Their names contain a hash of the content.

const ASSETS = `edgekit-assets-${new URL("./", import.meta.url).pathname}`; // as in sw.js

/** The cache; null where browsers have none, as over plain http from another machine: then files are fetched each time. */
const opened = async () => (await globalThis.caches?.open(ASSETS).catch(() => null)) ?? null;

/**
 * The Response with a file, from the cache if it is `stored` there, and a promise for when it is. Throws an Error with a
 * one-line message.
 */
export async function respond(url, { stored, signal }) {
  const cache = stored ? await opened() : null;
  const cached = await cache?.match(url);
  if (cached) return { response: cached, storing: null };
  const response = await fetch(url, { signal }).catch((error) => {
    if (signal.aborted) throw error;
    const own = new URL(url, self.location.href).origin === self.location.origin;
    const why = own ? "no network" : "no network, or its server does not let other pages read it (CORS)";
    throw new Error(`${url} cannot be downloaded: ${why}`);
  });
  if (!response.ok) throw new Error(`${url} cannot be downloaded: status ${response.status}`);
  // Disk full, or the download was broken off: it is fetched again next time.
  return { response, storing: cache?.put(url, response.clone()).catch(() => {}) };
}

/** Make sure that a file is in the cache. */
export async function keep(url) {
  const cache = await opened();
  if (cache && !(await cache.match(url))) await cache.add(url).catch(() => {});
}

/** A file in the cache that cannot be used is fetched again next time. */
export async function forget(url) {
  await (await opened())?.delete(url);
}
