// Serves the page from this browser once it is loaded. A file's address holds its content's hash,
// so that a new build has other addresses; index.html is asked for first where there is a network.

const { build, core, hashes, headers } = {{ content }};
const OWN = `graphprop ${registration.scope} `;
const PATIENCE = 3000; // milliseconds for index.html to come, else the kept one is shown

const full = (path) => new URL(path, registration.scope).href;
const known = new Map(Object.entries(hashes).map(([path, hash]) => [full(path), hash]));

async function keep(cache, address) {
  if (await cache.match(address)) return;
  const integrity = known.get(address);
  const older = integrity && (await caches.match(address));
  if (older) return cache.put(address, older);
  const response = await fetch(address, integrity ? { integrity } : { cache: "no-cache" });
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  await cache.put(address, response);
}

async function install() {
  const cache = await caches.open(OWN + build);
  for (const path of core) await keep(cache, full(path));
  await skipWaiting();
}

async function activate() {
  for (const name of await caches.keys()) {
    if (name.startsWith(OWN) && name !== OWN + build) await caches.delete(name);
  }
  await clients.claim();
}

// With headers that a folder of files can't have: they allow threads, and forbid all else.
function dressed(response) {
  if (!response || response.type === "opaque" || response.status !== 200) return response;
  const all = new Headers(response.headers);
  for (const [name, value] of Object.entries(headers)) all.set(name, value);
  return new Response(response.body, { status: 200, headers: all });
}

async function newest(request) {
  const cache = await caches.open(OWN + build);
  const kept = await cache.match(full("index.html"));
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE));
  const fresh = fetch(request.url, { cache: "no-cache" }).catch(() => null);
  const found = await Promise.race(kept ? [fresh, late] : [fresh]);
  return dressed(found?.ok ? found : (kept ?? found ?? Response.error()));
}

async function served(request) {
  const cache = await caches.open(OWN + build);
  return dressed((await cache.match(request, { ignoreSearch: true })) ?? (await fetch(request)));
}

addEventListener("install", (event) => event.waitUntil(install()));
addEventListener("activate", (event) => event.waitUntil(activate()));
addEventListener("fetch", (event) => {
  const { request } = event;
  const own = request.method === "GET" && request.url.startsWith(registration.scope);
  if (!own || request.url.endsWith("/sw.js")) return;
  const [address] = request.url.split(/[?#]/);
  const page = address === full("") || address === full("index.html");
  event.respondWith(page ? newest(request) : served(request));
});

// The page says which further files it uses, of onnxruntime-web.
addEventListener("message", (event) => {
  event.waitUntil(
    (async () => {
      let text = "yes, this page is kept";
      try {
        const cache = await caches.open(OWN + build);
        for (const address of event.data) if (known.has(address)) await keep(cache, address);
      } catch (error) {
        text = `no (${error.message})`;
      }
      event.source.postMessage(text);
    })(),
  );
});
