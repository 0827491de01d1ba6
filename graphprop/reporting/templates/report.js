"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const NONE = "none";
  const FINE = 127; // more levels than this take two bytes
  const sides = ["left", "right"];
  const maps = new Map(); // of picture, method and class: a promise of the values
  const images = new Map();
  let pointer = null; // as shares of the picture, so that it is the same place in both
  let drawn = {}; // what each panel shows now

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  async function inflated(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function valuesOf(map) {
    const raw = await inflated(map.data);
    const count = map.width * map.height;
    const codes = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      codes[i] = data.levels > FINE ? ((raw[i] | (raw[count + i] << 8)) << 16) >> 16 : (raw[i] << 24) >> 24;
    }
    return codes.map((code) => Math.sign(code) * (code / data.levels) ** 2 * map.limit);
  }

  function imageOf(index) {
    if (!images.has(index)) {
      images.set(index, new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve(image);
        image.onerror = reject;
        image.src = data.images[index];
      }));
    }
    return images.get(index);
  }

  const picture = () => data.pictures[Number(document.querySelector("#thumbs input:checked").value)];
  const split = () => document.querySelector("input[name=view]:checked").value === "split";
  const shown = (value) => (value === null ? "not finite" : (value > 0 ? "+" : "") + Number(value.toPrecision(4)).toString());

  function option(select, value, text) {
    const one = document.createElement("option");
    one.value = value;
    one.textContent = text;
    select.append(one);
  }

  // A method's view of the picture; where none is chosen, that of any that has one.
  function viewOf(method) {
    const views = picture().views;
    return (method === NONE ? null : views[Number(method)]) || views.find((view) => view);
  }

  async function contentOf(side) {
    const method = byId(side).value;
    const view = viewOf(method);
    const own = method === NONE ? null : picture().views[Number(method)];
    const map = own ? own.maps[byId("class").value] : null;
    const content = { method, view, map, values: null, image: await imageOf(view.image) };
    if (map && map.data) {
      const key = [data.pictures.indexOf(picture()), method, byId("class").value].join();
      if (!maps.has(key)) maps.set(key, valuesOf(map));
      content.values = await maps.get(key);
    }
    return content;
  }

  // The magnitude below which a share of the entries lies.
  function endOf(values, part) {
    const sorted = Float64Array.from(values, Math.abs).sort();
    return sorted[Math.min(sorted.length - 1, Math.ceil(part * sorted.length) - 1)] || sorted[sorted.length - 1];
  }

  function limits() {
    const part = Number(byId("end").value);
    const found = sides.map((side) => (drawn[side].values ? endOf(drawn[side].values, part) : 0));
    return byId("shared").checked ? found.map(() => Math.max(...found)) : found;
  }

  const table = () => bytes(data.colors[Number(byId("colors").value)][1]);

  function painted(content, limit, colors) {
    const canvas = document.createElement("canvas");
    canvas.width = content.map.width;
    canvas.height = content.map.height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    content.values.forEach((value, i) => {
      const place = limit ? Math.max(-1, Math.min(1, value / limit)) : 0;
      const color = Math.round((place + 1) * 127.5);
      pixels.data.set([colors[3 * color], colors[3 * color + 1], colors[3 * color + 2], 255], 4 * i);
    });
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  // One method's picture on the part of a canvas from one share of its width to another.
  function paint(context, content, limit, from, to, alone) {
    const { width, height } = context.canvas;
    context.save();
    context.beginPath();
    context.rect(from * width, 0, (to - from) * width, height);
    context.clip();
    context.imageSmoothingEnabled = content.view.width > 64;
    context.filter = alone ? "none" : "grayscale(1)";
    context.drawImage(content.image, 0, 0, width, height);
    context.filter = "none";
    if (content.values) {
      // a coarse map is enlarged smoothly, one of the picture's size pixel by pixel
      context.imageSmoothingEnabled = content.map.width * content.map.factor < content.view.width;
      context.globalAlpha = Number(byId("opacity").value) / 100;
      context.drawImage(painted(content, limit, table()), 0, 0, width, height);
    }
    context.restore();
  }

  function crosshair(context) {
    if (!pointer) return;
    const { width, height } = context.canvas;
    const [x, y] = [pointer[0] * width, pointer[1] * height];
    for (const [color, wide] of [["#fff", 3], ["#000", 1]]) {
      context.strokeStyle = color;
      context.lineWidth = wide * Math.max(1, width / 400);
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        const [near, far] = [width / 60, width / 20];
        context.moveTo(x + dx * near, y + dy * near);
        context.lineTo(x + dx * far, y + dy * far);
      }
      context.stroke();
    }
  }

  const className = (target) => picture().classes.find(([number]) => String(number) === target)[1];

  function captionOf(content, limit) {
    if (content.method === NONE) return "the picture alone";
    const name = data.methods[Number(content.method)];
    const target = className(byId("class").value);
    if (!content.map) return `${name}: no map for ${target}`;
    if (content.map.problem) return `${name}: no map, for ${content.map.problem}`;
    const size = content.map.width * content.map.factor < content.view.width ? `, ${content.map.width} × ${content.map.height} entries` : "";
    return `${name}, ${target}: logit ${shown(content.map.logit)}, relevance ${shown(content.map.sum)} in all, scale to ±${Number(limit.toPrecision(3))}${size}`;
  }

  function show() {
    const ends = limits();
    const divided = split();
    byId("panels").classList.toggle("split", divided);
    byId("canvas-right").parentElement.hidden = divided;
    byId("divider").hidden = !divided;
    byId("opacity-value").textContent = `${byId("opacity").value} %`;
    byId("split-value").textContent = `${byId("split").value} %`;
    sides.forEach((side, index) => {
      const content = drawn[side];
      const canvas = byId(`canvas-${side}`);
      const times = Math.max(1, Math.ceil(480 / content.view.width));
      canvas.width = content.view.width * times;
      canvas.height = content.view.height * times;
      const context = canvas.getContext("2d");
      const cut = divided ? Number(byId("split").value) / 100 : 1;
      if (!divided || index === 0) {
        paint(context, content, ends[index], 0, cut, content.method === NONE);
        if (divided) {
          paint(context, drawn.right, ends[1], cut, 1, drawn.right.method === NONE);
          context.fillStyle = "#000";
          context.fillRect(cut * canvas.width - 1, 0, 2, canvas.height);
        }
        crosshair(context);
      }
      const caption = divided ? `left of the line, ${captionOf(drawn.left, ends[0])}; right of it, ${captionOf(drawn.right, ends[1])}` : captionOf(content, ends[index]);
      byId(`caption-${side}`).textContent = caption;
      canvas.setAttribute("aria-label", `${picture().name}: ${caption}`);
    });
    scale(ends);
    read();
  }

  function scale(ends) {
    const context = byId("scale").getContext("2d");
    const colors = table();
    const pixels = context.createImageData(256, 1);
    for (let i = 0; i < 256; i++) pixels.data.set([...colors.slice(3 * i, 3 * i + 3), 255], 4 * i);
    context.putImageData(pixels, 0, 0);
    const known = ends.filter((end) => end);
    const same = new Set(known).size < 2;
    byId("low").textContent = same && known.length ? shown(-known[0]) : "lowest";
    byId("high").textContent = same && known.length ? shown(known[0]) : "highest";
  }

  function read() {
    if (!pointer) return;
    const view = drawn.left.view;
    const [x, y] = [Math.floor(pointer[0] * view.width), Math.floor(pointer[1] * view.height)];
    const parts = sides.map((side) => drawn[side]).filter((content) => content.values).map((content) => {
      const column = Math.min(content.map.width - 1, Math.floor(pointer[0] * content.map.width));
      const row = Math.min(content.map.height - 1, Math.floor(pointer[1] * content.map.height));
      return `${data.methods[Number(content.method)]} ${shown(content.values[row * content.map.width + column])}`;
    });
    byId("readout").textContent = `column ${x}, row ${y}: ${parts.join("; ") || "no map"}`;
  }

  let turn = 0;
  async function update() {
    const mine = ++turn;
    try {
      const found = await Promise.all(sides.map(contentOf));
      if (mine !== turn) return; // something else was chosen meanwhile
      sides.forEach((side, index) => { drawn[side] = found[index]; });
      show();
    } catch (error) {
      byId("trouble").textContent = `The maps can't be drawn: ${error.message || error}. A current browser can.`;
      byId("trouble").hidden = false;
    }
  }

  // The classes that were explained for a picture; the chosen one stays where it can.
  function choosePicture() {
    const before = byId("class").value;
    byId("class").replaceChildren();
    const predicted = new Set(picture().views.filter((view) => view).map((view) => view.predicted));
    for (const [number, name] of picture().classes) {
      option(byId("class"), number, predicted.has(number) ? `${name} (predicted)` : name);
    }
    if (before && picture().classes.some(([number]) => String(number) === before)) byId("class").value = before;
    update();
  }

  function point(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const place = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    pointer = place.map((share) => Math.max(0, Math.min(1 - 1e-9, share)));
    show();
  }

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function move(event) {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    const view = drawn.left.view;
    const far = event.shiftKey ? 10 : 1;
    const sizes = [view.width, view.height];
    const from = pointer || [0.5, 0.5];
    pointer = from.map((share, axis) => {
      const index = Math.floor(share * sizes[axis]) + step[axis] * far;
      return (Math.max(0, Math.min(sizes[axis] - 1, index)) + 0.5) / sizes[axis];
    });
    show();
  }

  function begin() {
    data.pictures.forEach((one, index) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      const image = document.createElement("img");
      const name = document.createElement("span");
      Object.assign(input, { type: "radio", name: "picture", value: index, checked: index === 0 });
      image.src = data.images[one.views.find((view) => view).image];
      image.alt = "";
      name.className = "label";
      name.textContent = one.name;
      label.append(input, image, name);
      byId("thumbs").append(label);
    });
    for (const side of sides) {
      data.methods.forEach((name, index) => option(byId(side), index, name));
      option(byId(side), NONE, "the picture alone");
    }
    byId("left").value = "0";
    byId("right").value = data.methods.length > 1 ? "1" : NONE;
    data.colors.forEach(([name], index) => option(byId("colors"), index, name));
    byId("thumbs").addEventListener("change", choosePicture);
    for (const id of ["class", "left", "right"]) byId(id).addEventListener("change", update);
    for (const id of ["opacity", "split", "colors", "end", "shared"]) byId(id).addEventListener("input", show);
    document.querySelectorAll("input[name=view]").forEach((one) => one.addEventListener("change", show));
    for (const side of sides) {
      const canvas = byId(`canvas-${side}`);
      canvas.addEventListener("pointermove", point);
      canvas.addEventListener("pointerdown", point);
      canvas.addEventListener("keydown", move);
    }
    byId("viewer").hidden = false;
    choosePicture();
  }

  begin();
})();
