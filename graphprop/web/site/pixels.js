// From a picture to an input, as `graphprop explain` does it by the manifest's preprocessing.

import { crop, resize } from "./resample.js";

const LARGEST = 89478485; // pixels, as many as Pillow takes
const STRIP = 2 ** 21; // pixels that are read at once: phones have small canvases

// The pixels {width, height, channels, data} of a file, red first, or gray; transparent on white.
export async function read(source, channels) {
  const bitmap =
    source instanceof ImageBitmap
      ? source
      : await createImageBitmap(source, {
          imageOrientation: "from-image",
          colorSpaceConversion: "none",
        });
  const { width, height } = bitmap;
  if (width * height > LARGEST) throw new Error(`the picture has more than ${LARGEST} pixels`);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const data = new Uint8Array(width * height * channels);
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    pen.fillStyle = "white";
    pen.fillRect(0, 0, width, rows);
    pen.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const rgba = pen.getImageData(0, 0, width, count).data;
    let at = top * width * channels;
    for (let i = 0; i < rgba.length; i += 4) {
      if (channels === 1) {
        data[at++] = (rgba[i] * 19595 + rgba[i + 1] * 38470 + rgba[i + 2] * 7471 + 32768) >> 16;
      } else {
        data[at++] = rgba[i];
        data[at++] = rgba[i + 1];
        data[at++] = rgba[i + 2];
      }
    }
  }
  bitmap.close();
  return { width, height, channels, data };
}

// Half-integers go to the even neighbor, as in Python.
function halved(number) {
  const half = number / 2;
  const below = Math.floor(half);
  return half - below === 0.5 && below % 2 === 0 ? below : Math.round(half);
}

// Scale a picture, and cut out its center, of the size of an input.
export function fitted(picture, { size, resize: scale, interpolation }) {
  const [height, width] = size;
  if (scale === null) {
    const ratio = width / height;
    const own = picture.width / picture.height;
    let wide = picture.width;
    let high = picture.height;
    if (own > ratio) wide = ratio * picture.height;
    else if (own < ratio) high = picture.width / ratio;
    const left = (picture.width - wide) * 0.5;
    const top = (picture.height - high) * 0.5;
    return resize(picture, width, height, interpolation, [left, top, left + wide, top + high]);
  }
  let [high, wide] = Array.isArray(scale) ? scale : [0, 0];
  if (!Array.isArray(scale)) {
    const upright = picture.width <= picture.height;
    wide = upright ? scale : Math.trunc((scale * picture.width) / picture.height);
    high = upright ? Math.trunc((scale * picture.height) / picture.width) : scale;
  }
  const scaled = resize(picture, wide, high, interpolation);
  const [left, top] = [wide - width, high - height].map((rest) =>
    rest >= 0 ? halved(rest) : -Math.floor(-rest / 2),
  );
  return crop(scaled, left, top, width, height);
}

// The numbers [1, C, H, W] of a picture that `fitted` returned.
export function normalized(picture, { mean, std, channels: order }) {
  const { width, height, channels, data } = picture;
  const area = width * height;
  const found = new Float32Array(channels * area);
  for (let c = 0; c < channels; c++) {
    const from = order === "BGR" ? channels - 1 - c : c;
    const middle = Math.fround(mean[c]);
    const spread = Math.fround(std[c]);
    for (let i = 0; i < area; i++) {
      const value = Math.fround(data[i * channels + from] / 255);
      found[c * area + i] = Math.fround(Math.fround(value - middle) / spread);
    }
  }
  return found;
}
