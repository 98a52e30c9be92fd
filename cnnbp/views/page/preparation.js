// A drawing or a picture of one digit, prepared as the digits of MNIST were: what `predict` does to
// a file, by the steps of cnnbp/data/user_pictures.py. Grey levels and ink are {data: Float32Array,
// width, height}.
"use strict";

const FIELD = 28; // sides of MNIST's pictures,
const BOX = 20; // and of the box that the ink fits
const WORKING_SIZE = 400; // a larger picture is averaged down
const DUST = 0.002; // share of the ink that may lie beyond each side of the bounding box

/**
 * Turn RGBA pixels {data, width, height} into pixels like MNIST's: Uint8Array (28 * 28), ink bright
 * on 0.
 */
function prepare(picture) {
  return largestDigit(findDigits(picture)).pixels;
}

function largestDigit(digits) {
  const size = ({ box }) => (box.right - box.left) * (box.bottom - box.top);
  return digits.reduce((best, digit) => (size(digit) > size(best) ? digit : best));
}

/** The digits on RGBA pixels, in the order of reading: [{pixels, box}]. */
function findDigits(picture) {
  const found = findInk(grey(picture));
  const framed = around(framesOn(found.coarse, EDGE));
  const free = (layer) => ({ ...layer, data: layer.data.map((v, k) => (framed.data[k] ? 0 : v)) });
  const { coarse, fine } = withoutLines(free(found.coarse), free(found.fine), EDGE);
  if (largestOf(coarse.data) < EDGE) throw new PictureError("no digit found: nothing but lines");
  const { labels, parts } = findParts(coarse, EDGE);
  return parts.map((part) => {
    const own = around({ ...fine, data: labels.map((v) => (part.labels.includes(v) ? 1 : 0)) });
    const inkOfPart = { ...fine, data: fine.data.map((v, k) => (own.data[k] ? v : 0)) };
    return { pixels: fittedPixels(inkOfPart), box: part };
  });
}

/** A mask with its neighbours: the soft edges of its ink. */
const around = (mask) => spread(spread(mask, true), false);

/** The ink of one digit as pixels like MNIST's. */
function fittedPixels(ink) {
  const found = thickened(ink, EDGE, BOX);
  const strong = found.data.map((v) => (v > EDGE ? v : 0));
  const [left, right] = extent(columnSums(strong, found.width, found.height));
  const [top, bottom] = extent(rowSums(strong, found.width, found.height));
  const scale = BOX / Math.max(right - left, bottom - top);
  const side = (length) => Math.max(1, roundHalfToEven(scale * length));
  const fitted = resized(found, side(right - left), side(bottom - top), {
    left,
    right,
    top,
    bottom,
  });
  // thin strokes have grown faint
  const strongest = largestOf(fitted.data);
  const field = centred({ ...fitted, data: fitted.data.map((v) => Math.max(0, v) / strongest) });
  return Uint8Array.from(field, (v) => roundHalfToEven(Math.fround(255 * v)));
}

/** Round as Python and NumPy do: a half to the even neighbour. */
function roundHalfToEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/**
 * Grey levels 0..255 of RGBA pixels, averaged down to at most about WORKING_SIZE pixels wide and
 * high.
 */
function grey({ data, width, height }) {
  const levels = new Float32Array(width * height);
  let transparent = false;
  for (let k = 0; k < levels.length; k++) {
    // the weights of ITU-R 601 in the fixed point of Pillow
    levels[k] =
      (data[4 * k] * 19595 + data[4 * k + 1] * 38470 + data[4 * k + 2] * 7471 + 0x8000) >> 16;
    transparent ||= data[4 * k + 3] < 255;
  }
  const flat = transparent ? onPaper(levels, data, width, height) : levels;
  const factor = Math.max(1, Math.ceil(Math.sqrt(width * height) / WORKING_SIZE));
  return reduced({ data: flat, width, height }, factor);
}

/** Grey levels of a transparent picture laid on paper. */
function onPaper(levels, rgba, width, height) {
  const alpha = Float32Array.from(levels, (_, k) => rgba[4 * k + 3] / 255);
  const most = alpha.reduce((a, b) => Math.max(a, b), 0);
  const opaque = levels.filter((_, k) => alpha[k] >= 0.98 * most);
  let paper = total(opaque) / opaque.length > 127 ? 0 : 255;
  const box = alphaBox(alpha, width, height);
  const fillsItsBox = total(alpha) > 0.9 * (box.right - box.left) * (box.bottom - box.top);
  const range =
    opaque.reduce((a, b) => Math.max(a, b), 0) - opaque.reduce((a, b) => Math.min(a, b), 255);
  // no bare ink, but a sheet with the digit on it: go on with its colour
  if (fillsItsBox && range > 64) paper = median(opaque);
  return levels.map((v, k) => paper + (v - paper) * alpha[k]);
}

function alphaBox(alpha, width, height) {
  const box = { left: width, right: 0, top: height, bottom: 0 };
  alpha.forEach((v, k) => {
    if (v === 0) return;
    const [x, y] = [k % width, Math.floor(k / width)];
    box.left = Math.min(box.left, x);
    box.right = Math.max(box.right, x + 1);
    box.top = Math.min(box.top, y);
    box.bottom = Math.max(box.bottom, y + 1);
  });
  return box.right ? box : { left: 0, right: 1, top: 0, bottom: 1 };
}

/**
 * The mean of each tile of factor x factor pixels; those at the right and bottom may be smaller.
 */
function reduced(image, factor) {
  if (factor === 1) return image;
  const width = Math.ceil(image.width / factor);
  const height = Math.ceil(image.height / factor);
  const data = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const bottom = Math.min(image.height, (y + 1) * factor);
    for (let x = 0; x < width; x++) {
      const right = Math.min(image.width, (x + 1) * factor);
      let sum = 0;
      for (let v = y * factor; v < bottom; v++) {
        for (let u = x * factor; u < right; u++) sum += image.data[v * image.width + u];
      }
      data[y * width + x] = sum / ((bottom - y * factor) * (right - x * factor));
    }
  }
  return { data, width, height };
}

/**
 * First and one past the last position of the ink in a profile, less the outermost specks of dust.
 */
function extent(profile) {
  const whole = total(profile);
  let sum = 0;
  const share = profile.map((v) => (sum += v) / whole);
  const first = share.findIndex((v) => v > DUST);
  const last = share.findIndex((v) => v >= 1 - DUST);
  return [first, last + 1];
}

function columnSums(data, width, height) {
  const sums = new Array(width).fill(0);
  for (let k = 0; k < width * height; k++) sums[k % width] += data[k];
  return sums;
}

function rowSums(data, width, height) {
  const sums = new Array(height).fill(0);
  for (let k = 0; k < width * height; k++) sums[Math.floor(k / width)] += data[k];
  return sums;
}

/**
 * Resample a box of an image to width x height by cubic convolution, as Pillow does: first rows,
 * then columns.
 */
function resized(image, width, height, { left, right, top, bottom }) {
  const across = resampling(left, right, image.width, width);
  const wide = new Float32Array(width * image.height);
  for (let y = 0; y < image.height; y++) {
    across.forEach(({ first, weights }, x) => {
      wide[y * width + x] = weights.reduce(
        (sum, w, k) => sum + w * image.data[y * image.width + first + k],
        0,
      );
    });
  }
  const data = new Float32Array(width * height);
  resampling(top, bottom, image.height, height).forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x++) {
      data[y * width + x] = weights.reduce(
        (sum, w, k) => sum + w * wide[(first + k) * width + x],
        0,
      );
    }
  });
  return { data: data.map((v) => Math.min(1, Math.max(0, v))), width, height };
}

/** For each output pixel the first input pixel and the weights of it and those behind it. */
function resampling(start, end, inputs, outputs) {
  const scale = (end - start) / outputs;
  // when it shrinks, the kernel covers all that a pixel stands for
  const stretch = Math.max(1, scale);
  const support = 2 * stretch;
  return Array.from({ length: outputs }, (_, place) => {
    const centre = start + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(inputs, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) =>
      cubic((first + k - centre + 0.5) / stretch),
    );
    const whole = total(weights);
    return { first, weights: weights.map((w) => w / whole) };
  });
}

/** Keys' cubic convolution kernel with a = -1/2 (Keys, 1981, equation 15). */
function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  if (d < 2) return ((-0.5 * d + 2.5) * d - 4) * d + 2;
  return 0;
}

/**
 * Put ink (at most 20 x 20) into a 28 x 28 field, its centre of mass on pixel (14, 14) as far as it
 * fits.
 */
function centred({ data, width, height }) {
  const place = (profile, length) => {
    const centre = profile.reduce((sum, v, k) => sum + v * k, 0) / total(profile);
    return Math.min(FIELD - length, Math.max(0, roundHalfToEven(FIELD / 2 - centre)));
  };
  const left = place(columnSums(data, width, height), width);
  const top = place(rowSums(data, width, height), height);
  const field = new Float32Array(FIELD * FIELD);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) field[(top + y) * FIELD + left + x] = data[y * width + x];
  }
  return field;
}
