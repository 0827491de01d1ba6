// Resizing as Pillow does it: the same filters, the same rounding to 8 bits after each direction.
//
// A picture is {width, height, channels, data}, data being a Uint8Array of rows of pixels.

const PRECISION = 2 ** 22;

const FILTERS = {
  box: { support: 0.5, at: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  hamming: { support: 1, at: hamming },
  bicubic: { support: 2, at: bicubic },
  lanczos: { support: 3, at: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function hamming(x) {
  const far = Math.abs(x);
  return far >= 1 ? 0 : sinc(far) * (0.54 + 0.46 * Math.cos(far * Math.PI));
}

function bicubic(x) {
  const far = Math.abs(x);
  if (far < 1) return (1.5 * far - 2.5) * far * far + 1;
  return far < 2 ? (((far - 5) * far + 8) * far - 4) * -0.5 : 0;
}

// For each place of the result: where its window begins, and the window's weights.
function windows(length, first, last, wanted, filter) {
  const scale = Math.fround(last - first) / wanted;
  const wide = Math.max(1, scale);
  const support = filter.support * wide;
  const found = [];
  for (let place = 0; place < wanted; place++) {
    const center = first + (place + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(length, Math.trunc(center + support + 0.5));
    const weights = [];
    let total = 0;
    for (let x = begin; x < end; x++) {
      const weight = filter.at((x - center + 0.5) / wide);
      weights.push(weight);
      total += weight;
    }
    const whole = weights.map((weight) => {
      const share = (total === 0 ? weight : weight / total) * PRECISION;
      return Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    });
    found.push({ begin, weights: whole });
  }
  return found;
}

function rounded(sum) {
  return Math.min(255, Math.max(0, Math.floor((sum + PRECISION / 2) / PRECISION)));
}

function along(picture, places) {
  const { width, height, channels, data } = picture;
  const found = new Uint8Array(places.length * height * channels);
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (const { begin, weights } of places) {
      const start = (y * width + begin) * channels;
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let k = 0, i = start + c; k < weights.length; k++, i += channels) {
          sum += data[i] * weights[k];
        }
        found[at++] = rounded(sum);
      }
    }
  }
  return { width: places.length, height, channels, data: found };
}

function down(picture, places) {
  const { width, channels, data } = picture;
  const row = width * channels;
  const found = new Uint8Array(places.length * row);
  let at = 0;
  for (const { begin, weights } of places) {
    for (let x = 0; x < row; x++) {
      let sum = 0;
      for (let k = 0, i = begin * row + x; k < weights.length; k++, i += row) {
        sum += data[i] * weights[k];
      }
      found[at++] = rounded(sum);
    }
  }
  return { width, height: places.length, channels, data: found };
}

function nearest(picture, width, height, box) {
  const columns = steps(box[0], (box[2] - box[0]) / width, width, picture.width);
  const rows = steps(box[1], (box[3] - box[1]) / height, height, picture.height);
  return taken(picture, columns, rows);
}

function steps(first, step, count, length) {
  const found = [];
  for (let k = 0, at = first + step * 0.5; k < count; k++, at += step) {
    found.push(Math.min(length - 1, Math.floor(at)));
  }
  return found;
}

function taken(picture, columns, rows) {
  const { width, channels, data } = picture;
  const found = new Uint8Array(columns.length * rows.length * channels);
  let at = 0;
  for (const y of rows) {
    for (const x of columns) {
      const inside = x >= 0 && y >= 0 && x < width && y < picture.height;
      for (let c = 0; c < channels; c++) {
        found[at++] = inside ? data[(y * width + x) * channels + c] : 0;
      }
    }
  }
  return { width: columns.length, height: rows.length, channels, data: found };
}

// Scale a box [left, top, right, bottom] of a picture to a width and height.
export function resize(picture, width, height, interpolation, box) {
  const whole = [0, 0, picture.width, picture.height];
  const cut = (box ?? whole).map(Math.fround);
  if (width === picture.width && height === picture.height && cut.every((v, i) => v === whole[i])) {
    return picture;
  }
  if (interpolation === "nearest") return nearest(picture, width, height, box ?? whole);
  const filter = FILTERS[interpolation];
  let found = picture;
  if (width !== picture.width || cut[0] || cut[2] !== width) {
    found = along(found, windows(picture.width, cut[0], cut[2], width, filter));
  }
  if (height !== picture.height || cut[1] || cut[3] !== height) {
    found = down(found, windows(picture.height, cut[1], cut[3], height, filter));
  }
  return found;
}

// Cut a box out; what lies beyond the picture is black.
export function crop(picture, left, top, width, height) {
  const columns = Array.from({ length: width }, (_, x) => left + x);
  const rows = Array.from({ length: height }, (_, y) => top + y);
  return taken(picture, columns, rows);
}
