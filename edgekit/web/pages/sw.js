// Works offline after the first visit. `edgekit export-web` fills in SITE: its version changes with any file.
//
// The page's own files are fetched when this is installed, and kept together under one version, so that no page is ever
// made of two. Large files are fetched by the worker, which shows how far it is (assets.js); their names hold their
// hash, so a new version of the page fetches again only what changed.

const SITE = { version: "none", shell: [], assets: [] };

const SHELL = `edgekit-shell-${SITE.version}`;
const ASSETS = "edgekit-assets";

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches.open(SHELL).then((cache) => cache.addAll(SITE.shell.map((path) => new Request(path, { cache: "reload" })))),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(tidy().then(() => self.clients.claim()));
});

async function tidy() {
  const old = (await caches.keys()).filter((name) => name.startsWith("edgekit-shell-") && name !== SHELL);
  await Promise.all(old.map((name) => caches.delete(name)));
  const wanted = new Set(SITE.assets.map((path) => new URL(path, self.registration.scope).href));
  const cache = await caches.open(ASSETS);
  const gone = (await cache.keys()).filter(({ url }) => !wanted.has(url));
  await Promise.all(gone.map((request) => cache.delete(request)));
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  const asked = request.mode === "navigate" ? new URL("./", self.registration.scope).href : request.url;
  event.respondWith(
    caches.open(SHELL).then((cache) => cache.match(asked, { ignoreSearch: true })).then((kept) => kept ?? fetch(request)),
  );
});
