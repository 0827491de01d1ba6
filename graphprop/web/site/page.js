// The page: where pictures come from, and what is shown of what the worker computes.

import { start as startCamera } from "./camera.js";
import { pad as padOn } from "./drawing.js";
import { color, drawn, npy, picture, summed } from "./heatmap.js";
import { keepOffline } from "./offline.js";

const MOST_CLASSES = 10;
const LARGEST = -1;

const by = (id) => document.getElementById(id);
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
const facts = new Map();
let config;
let asked = 0;
let target = LARGEST; // the class that is explained, or that of the largest logit
let source = null; // gives what is explained next; null while the picture stays
let stopSource = () => {};
let last = null; // what was explained last
let chosen = 0; // counts choices of what to explain
let running = false;
let stale = false;

function ask(message, transfer = []) {
  const id = ++asked;
  worker.postMessage({ ...message, id }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

worker.addEventListener("message", ({ data }) => {
  if (data.kind === "progress") return say(`${data.text} ...`);
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.failure === undefined) resolve(data.answer);
  else reject(new Error(data.failure));
});
worker.addEventListener("error", (event) => say(event.message || "the worker fails", "bad"));

function say(text, kind = "") {
  by("status").textContent = text;
  by("status").className = kind;
}

function fact(name, text, kind = "") {
  if (!facts.has(name)) {
    const [row, term, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    row.append(term, value);
    by("facts").append(row);
    facts.set(name, value);
  }
  facts.get(name).textContent = text;
  facts.get(name).className = kind;
}

const short = (number) => Number(number.toPrecision(3)).toString();
const nameOf = (index) => config.class_names?.[index] ?? `class ${index}`;

// Explaining: one picture at a time; what changes meanwhile is explained next.

async function explain() {
  stale = true;
  if (running) return;
  running = true;
  while (stale) {
    stale = false;
    const current = source; // another may be chosen meanwhile: that one is kept
    try {
      const given = current ? await current() : null;
      if (!given && !last) break;
      const began = performance.now();
      if (!last) say("Explaining the picture ...", "quiet");
      const transfer = given instanceof ImageBitmap ? [given] : [];
      const found = await ask({ kind: "explain", source: given, target }, transfer);
      if (!last) say("", "quiet");
      last = { ...found, seconds: (performance.now() - began) / 1000 };
      show();
      if (source === current && current?.once) source = null;
      if (source?.live) {
        stale = true;
        await new Promise(requestAnimationFrame);
      }
    } catch (error) {
      say(`This can't be explained: ${error.message}`, "bad");
      if (source === current && current?.once) source = null;
    }
  }
  running = false;
}

function use(next, stop = () => {}) {
  stopSource();
  stopSource = stop;
  source = next;
  explain();
}

const once = (blob) => Object.assign(() => blob, { once: true });

function useFile(blob) {
  mode("picture");
  say("", "quiet");
  use(once(blob));
}

// The one that was chosen last, in whichever order they arrive.
async function useExample(address) {
  const choice = ++chosen;
  try {
    const response = await fetch(address);
    if (!response.ok) throw new Error(`the server answers ${response.status}`);
    const blob = await response.blob();
    if (choice === chosen) useFile(blob);
  } catch (error) {
    if (choice === chosen) say(`The example does not load: ${error.message}`, "bad");
  }
}

function mode(name) {
  chosen++;
  for (const id of ["draw", "camera"]) by(id)?.setAttribute("aria-pressed", String(id === name));
  if (by("pad")) by("pad").hidden = name !== "draw";
  for (const id of ["clear", "dark-ink"]) if (by(id)) by(id).disabled = name !== "draw";
  by("video").hidden = name !== "camera";
  by("shot").hidden = name !== "camera";
}

// What is shown.

function logitsByClass() {
  const places = last.logits.length / config.classes;
  return Array.from({ length: config.classes }, (_, k) => {
    let sum = 0;
    for (let i = 0; i < places; i++) sum += last.logits[k * places + i];
    return sum;
  });
}

function show() {
  const logits = logitsByClass();
  const order = logits.map((_, k) => k).sort((a, b) => logits[b] - logits[a]);
  last.chosen = last.target === LARGEST ? order[0] : last.target; // of this map, not the next
  last.map = summed(last.relevance, config.relevance_shape);
  const drawing = by("pad") && !by("pad").hidden;
  if (!drawing && by("video").hidden) paint(by("input"), picture(last.shown, false));
  const [, height, width] = config.input_shape;
  by("about-input").textContent = `The input, ${width} x ${height} pixels`;
  showMap(logits);
  showClasses(logits, order);
  fact("time for a map", `${Math.round(last.milliseconds)} ms`);
  fact("maps a second", short(1 / last.seconds));
}

function paint(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function showMap(logits) {
  const { map, chosen } = last;
  const limit = map.limit / 2 ** Number(by("contrast").value);
  const canvas = by("map");
  const under = Number(by("overlay").value) / 100;
  const own = map.width === last.shown.width && map.height === last.shown.height;
  const name = nameOf(chosen);
  const drawable = map.finite && map.limit > 0;
  if (under && drawable) {
    paint(canvas, picture(last.shown, true));
    const layer = new OffscreenCanvas(map.width, map.height);
    layer.getContext("2d").putImageData(drawn(map, limit), 0, 0);
    const pen = canvas.getContext("2d");
    pen.globalAlpha = 1 - under;
    pen.imageSmoothingEnabled = !own;
    pen.drawImage(layer, 0, 0, canvas.width, canvas.height);
  } else {
    paint(canvas, drawn(map, drawable ? limit : 0));
  }
  canvas.classList.toggle("smooth", !own);
  const size = own ? "" : ` (a map of ${map.width} x ${map.height})`;
  const logit = short(logits[chosen]);
  const text = drawable
    ? `Relevance for ${name}: it sums to ${short(map.total)}, the logit is ${logit}${size}`
    : `The map for ${name} ${map.finite ? "is zero everywhere" : "holds NaN or infinity"}`;
  by("about-map").textContent = text;
  canvas.setAttribute("aria-label", text);
  by("low").textContent = drawable ? `−${short(limit)}` : "";
  by("high").textContent = drawable ? `+${short(limit)}` : "";
}

function showClasses(logits, order) {
  const list = by("classes");
  const shown = order.slice(0, MOST_CLASSES);
  if (!shown.includes(last.chosen)) shown[shown.length - 1] = last.chosen;
  while (list.children.length < shown.length) list.append(entry());
  const high = logits[order[0]];
  const low = Math.min(0, logits[order[order.length - 1]]);
  shown.forEach((k, place) => {
    const button = list.children[place].firstChild;
    const [name, logit, bar] = button.children;
    button.dataset.index = k;
    button.setAttribute("aria-pressed", String(k === last.chosen));
    name.textContent = nameOf(k);
    logit.textContent = logits[k].toFixed(2);
    bar.style.width = `${(100 * (logits[k] - low)) / (high - low || 1)}%`;
  });
  by("largest").setAttribute("aria-pressed", String(target === LARGEST));
}

function entry() {
  const [item, button, ...parts] = ["li", "button", "span", "span", "span"].map((tag) =>
    document.createElement(tag),
  );
  button.type = "button";
  ["name", "logit", "bar"].forEach((kind, place) => parts[place].classList.add(kind));
  button.append(...parts);
  button.addEventListener("click", () => choose(Number(button.dataset.index)));
  item.append(button);
  return item;
}

function choose(index) {
  target = index;
  explain();
}

// What the visitor does.

function listen() {
  by("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) useFile(file);
    event.target.value = "";
  });
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => useExample(button.dataset.example));
  }
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", () => document.body.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    takeFrom(event.dataTransfer);
  });
  addEventListener("paste", (event) => takeFrom(event.clipboardData));
  by("largest").addEventListener("click", () => choose(LARGEST));
  by("find").addEventListener("change", (event) => {
    const text = event.target.value.trim();
    const number = /^\d+$/.test(text) ? Number(text) : -1;
    const index = config.class_names?.indexOf(text) ?? -1;
    const found = index >= 0 ? index : number;
    if (found >= 0 && found < config.classes) choose(found);
    event.target.setCustomValidity(found < 0 || found >= config.classes ? "no such class" : "");
  });
  for (const id of ["overlay", "contrast"]) {
    by(id).addEventListener("input", () => last && showMap(logitsByClass()));
  }
  by("map").addEventListener("pointermove", point);
  by("map").addEventListener("pointerleave", () => (by("under").textContent = "\u00a0"));
  by("save").addEventListener("click", save);
  by("camera").addEventListener("click", film);
  by("shot").addEventListener("click", async () => {
    const shot = await source();
    mode("picture");
    use(once(shot));
  });
}

function takeFrom(transfer) {
  const file = [...(transfer?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) useFile(file);
  else if (transfer?.files?.length) say("That is no picture.", "bad");
}

function point(event) {
  if (!last) return;
  const { map } = last;
  const { left, top, width, height } = by("map").getBoundingClientRect();
  const side = Math.min(width / map.width, height / map.height);
  const x = Math.floor((event.clientX - left - (width - side * map.width) / 2) / side);
  const y = Math.floor((event.clientY - top - (height - side * map.height) / 2) / side);
  const inside = x >= 0 && y >= 0 && x < map.width && y < map.height;
  const value = inside ? map.values[y * map.width + x] : 0;
  by("under").textContent = inside ? `row ${y}, column ${x}: ${short(value)}` : "\u00a0";
}

function save() {
  if (!last) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(npy(last.relevance, config.relevance_shape));
  link.download = `relevance-${last.chosen}.npy`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function film() {
  if (by("camera").getAttribute("aria-pressed") === "true") {
    stopSource();
    use(null);
    return mode("picture");
  }
  try {
    const camera = await startCamera(by("video"));
    mode("camera");
    say("", "quiet");
    use(Object.assign(camera.frame, { live: true }), camera.stop);
  } catch (error) {
    say(`There is no camera to use: ${error.message}`, "bad");
  }
}

function draw() {
  const [, height, width] = config.input_shape;
  by("pad").height = Math.round((by("pad").width * height) / width);
  const drawing = padOn(by("pad"), () => explain());
  const begin = () => {
    mode("draw");
    say("", "quiet");
    use(drawing.picture);
  };
  by("draw").addEventListener("click", begin);
  by("clear").addEventListener("click", () => {
    drawing.clear();
    explain();
  });
  by("dark-ink").addEventListener("change", (event) => {
    drawing.invert(event.target.checked);
    explain();
  });
  begin();
}

async function main() {
  if (!globalThis.OffscreenCanvas) throw new Error("this browser is too old");
  const base = new URL(document.body.dataset.config, document.baseURI);
  config = await (await fetch(base)).json();
  const full = (address) => new URL(address, document.baseURI).href;
  config.model = full(config.model);
  config.probe.map = full(config.probe.map);
  for (const part of Object.values(config.runtime)) {
    for (const key of Object.keys(part)) part[key] = full(part[key]);
  }
  for (const name of Object.keys(config.beside)) config.beside[name] = full(config.beside[name]);
  const on = new URLSearchParams(location.search).get("on");
  const started = await ask({ kind: "start", config, on });
  const threads = started.threads > 1 ? `, ${started.threads} threads` : "";
  fact("runs on", started.provider === "wasm" ? `WebAssembly${threads}` : "WebGPU");
  fact(
    "its map and ONNX Runtime's",
    started.agrees
      ? `the same, off by ${started.error.toExponential(1)}`
      : `differ by ${started.error.toExponential(1)}, allowed ${config.probe.allowed.toExponential(1)}`,
    started.agrees ? "" : "bad",
  );
  if (started.notes.length) fact("note", started.notes.join(" "), "bad");
  say("", "quiet");
  for (let k = 0; k < config.classes; k++) {
    const option = document.createElement("option");
    option.value = config.class_names ? config.class_names[k] : String(k);
    by("names").append(option);
  }
  const bar = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) bar.data.set([...color(i / 127.5 - 1), 255], 4 * i);
  paint(by("scale"), bar);
  const [, height, width] = config.input_shape;
  for (const frame of document.querySelectorAll(".frame")) {
    frame.style.aspectRatio = `${width} / ${height}`;
  }
  document.querySelector("main").hidden = false;
  document.body.dataset.ready = "";
  if (!navigator.mediaDevices?.getUserMedia) by("camera").hidden = true;
  mode("picture");
  listen();
  if (by("pad")) draw();
  else document.querySelector("[data-example]")?.click();
  keepOffline(Object.values(config.runtime[started.provider]), (text) => fact("offline", text));
}

main().catch((error) => say(`The page does not start: ${error.message}`, "bad"));
