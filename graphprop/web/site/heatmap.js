// Draws a map: summed over channels, zero white, positive red, negative blue.

const STOPS = [
  [0, 0, 77],
  [0, 0, 255],
  [255, 255, 255],
  [255, 0, 0],
  [128, 0, 0],
];

// The color of a value from -1 to 1, as `graphprop explain` has it.
export function color(value) {
  const place = (Math.min(1, Math.max(-1, value)) + 1) * 2;
  const below = Math.min(3, Math.floor(place));
  return STOPS[below].map((low, c) => Math.round(low + (place - below) * (STOPS[below + 1][c] - low)));
}

// The sum over channels of relevance [C, H, W], and where its scale ends.
export function summed(relevance, [channels, height, width]) {
  const area = height * width;
  const values = new Float64Array(area);
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < area; i++) values[i] += relevance[c * area + i];
  }
  let limit = 0;
  let total = 0;
  let finite = true;
  for (const value of values) {
    limit = Math.max(limit, Math.abs(value));
    total += value;
    finite &&= Number.isFinite(value);
  }
  return { values, width, height, limit, total, finite };
}

// The pixels of a map, darkest at the limit.
export function drawn({ values, width, height }, limit) {
  const image = new ImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    image.data.set([...color(limit ? values[i] / limit : 0), 255], 4 * i);
  }
  return image;
}

// The pixels of an input {width, height, channels, data}; in shades of gray if asked.
export function picture({ width, height, channels, data }, gray) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [0, 1, 2].map((c) => data[i * channels + Math.min(c, channels - 1)]);
    const shade = gray ? Math.round(0.299 * r + 0.587 * g + 0.114 * b) : 0;
    image.data.set(gray ? [shade, shade, shade, 255] : [r, g, b, 255], 4 * i);
  }
  return image;
}

// A float32 array as an .npy file.
export function npy(data, shape) {
  const list = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  let header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${list}), }`;
  header += " ".repeat(63 - ((header.length + 10) % 64)) + "\n";
  const bytes = new Uint8Array(10 + header.length);
  bytes.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), 10);
  return new Blob([bytes, data], { type: "application/octet-stream" });
}
