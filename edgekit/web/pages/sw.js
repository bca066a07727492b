// Makes the page work offline after the first visit. `edgekit export-web` fills in SITE; its version changes with any file.
//
// The page's own files are downloaded at installation and cached together under one version, so versions never mix. The
// models, and the one build of the engine that this browser runs, are downloaded by the worker, which reports progress
// (assets.js). Their names contain a hash, so a new version of the page downloads only what changed.

const SITE = { version: "none", shell: [], assets: [] };

// Pages in other folders of the same host have caches of their own.
const { pathname } = new URL(self.registration.scope);
const SHELL = `edgekit-shell-${pathname}-${SITE.version}`;
const ASSETS = `edgekit-assets-${pathname}`;
// The names that edgekit up to 0.3 used.
const BEFORE = /^edgekit-(assets|shell-[0-9a-f]{12})$/;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(SHELL).then((cache) => cache.addAll(SITE.shell.map((path) => new Request(path, { cache: "reload" })))),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOld().then(() => self.clients.claim()));
});

async function removeOld() {
  const ours = (name) => name.startsWith(`edgekit-shell-${pathname}-`) || BEFORE.test(name);
  const old = (await caches.keys()).filter((name) => ours(name) && name !== SHELL);
  await Promise.all(old.map((name) => caches.delete(name)));
  const current = new Set(SITE.assets.map((path) => new URL(path, self.registration.scope).href));
  const cache = await caches.open(ASSETS);
  const unused = (await cache.keys()).filter(({ url }) => !current.has(url));
  await Promise.all(unused.map((request) => cache.delete(request)));
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  const url = request.mode === "navigate" ? new URL("./", self.registration.scope).href : request.url;
  event.respondWith(
    caches.match(url, { ignoreSearch: true, cacheName: SHELL })
      .then((cached) => cached ?? caches.match(url, { cacheName: ASSETS }))
      .then((cached) => cached ?? fetch(request)),
  );
});
