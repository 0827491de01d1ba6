// Keeps the page, so that it works without a network.

export async function keepOffline(used, say) {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(new URL("sw.js", document.baseURI));
    const { active } = await navigator.serviceWorker.ready;
    navigator.serviceWorker.addEventListener("message", ({ data }) => say(data));
    active.postMessage(used);
  } catch (error) {
    say(`not kept (${error.message})`);
  }
}
