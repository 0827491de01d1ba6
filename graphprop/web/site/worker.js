// Explains pictures, beside the page, which stays responsive meanwhile.

import { fetchBytes, loadRuntime, openSession, runSession } from "./engine.js";
import { fitted, normalized, read } from "./pixels.js";

const MOST_THREADS = 4;

let config;
let ort;
let session;
let input; // the last one: {x, shown}

const NAMES = ["logits", "relevance"];

async function explain(x, target) {
  const began = performance.now();
  const feeds = {
    [config.input]: new ort.Tensor("float32", x, [1, ...config.input_shape]),
    target: new ort.Tensor("int64", BigInt64Array.of(BigInt(target)), [1]),
  };
  const { logits, relevance } = await runSession(session, feeds, NAMES);
  const milliseconds = performance.now() - began;
  return { logits: logits.data, relevance: relevance.data, milliseconds };
}

// The noise with which graphprop compared its own map when it wrote the page.
function probe() {
  const [channels, height, width] = config.input_shape;
  const data = new Uint8Array(channels * height * width);
  for (let i = 0; i < data.length; i++) data[i] = Math.imul(i, 2654435761) >>> 24;
  return normalized({ width, height, channels, data }, config.preprocessing);
}

function distance(found, wanted) {
  let apart = 0;
  let size = 0;
  for (let i = 0; i < wanted.length; i++) {
    apart += (found[i] - wanted[i]) ** 2;
    size += wanted[i] ** 2;
  }
  return Math.sqrt(apart / (size || 1));
}

async function hasGpu(asked) {
  if (!config.runtime.webgpu || !navigator.gpu || asked === "wasm") return false;
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) return false;
  return asked === "webgpu" || (config.large && !adapter.info?.isFallbackAdapter);
}

// Half of the cores: on busy ones threads wait for each other far longer than they compute.
function threadsFor(large) {
  if (!large || !self.crossOriginIsolated) return 1;
  const half = Math.floor((navigator.hardwareConcurrency || 1) / 2);
  return Math.max(1, Math.min(MOST_THREADS, half));
}

async function start(asked) {
  say("Loading the network");
  const model = await fetchBytes(config.model);
  const beside = {};
  for (const [name, address] of Object.entries(config.beside)) {
    beside[name] = await fetchBytes(address);
  }
  const wanted = new Float32Array((await fetchBytes(config.probe.map)).buffer);
  const providers = (await hasGpu(asked)) ? ["webgpu", "wasm"] : ["wasm"];
  const notes = [];
  for (const provider of providers) {
    say(`Starting ${provider === "wasm" ? "WebAssembly" : "WebGPU"}`);
    const threads = provider === "wasm" ? threadsFor(config.large) : 1;
    try {
      ort = await loadRuntime(config.runtime[provider], threads);
      session = await openSession(ort, model, beside, provider, config.on_processor);
      const found = await explain(probe(), config.probe.target);
      const error = distance(found.relevance, wanted);
      const agrees = error <= config.probe.allowed;
      if (!agrees && provider === "webgpu") throw new Error(`its map is off by ${error}`);
      const { milliseconds } = await explain(probe(), config.probe.target);
      return { provider, threads, error, agrees, milliseconds, notes };
    } catch (error) {
      if (provider === "wasm") throw error;
      notes.push(`WebGPU is not used: ${error?.message ?? error}`);
    }
  }
}

function say(text) {
  postMessage({ kind: "progress", text });
}

async function take(message) {
  if (message.kind === "start") {
    config = message.config;
    return start(message.on);
  }
  let prepared = 0;
  if (message.source) {
    const began = performance.now();
    const picture = await read(message.source, config.input_shape[0]);
    const shown = fitted(picture, config.preprocessing);
    input = { x: normalized(shown, config.preprocessing), shown };
    prepared = performance.now() - began;
  }
  const found = await explain(input.x, message.target);
  return { ...found, prepared, shown: input.shown, target: message.target };
}

let busy = Promise.resolve();

addEventListener("message", ({ data: message }) => {
  busy = busy.then(async () => {
    try {
      postMessage({ kind: "answer", id: message.id, answer: await take(message) });
    } catch (error) {
      postMessage({ kind: "answer", id: message.id, failure: String(error?.message ?? error) });
    }
  });
});
