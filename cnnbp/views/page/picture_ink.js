// The ink on a picture, by the steps of cnnbp/data/picture_ink.py: what stands out from the paper,
// its shade and its noise. Grey levels and ink are {data: Float32Array, width, height}.
"use strict";

const FAINTEST = 16; // grey levels between paper and ink below which a picture counts as blank
const EDGE = 0.2; // share of the strongest ink from which a pixel counts as ink
const TILES = 8; // along each side of a picture; their medians show where the paper is
const DEGREE = 4; // of the polynomial that the paper's grey levels follow, as in a vignette
const QUIET = 0.04; // share of the contrast up to which noise needs no smoothing

/** What is wrong with a picture, in words for the person who gave it. */
class PictureError extends Error {}

/**
 * Ink in 0..1 on 0: {coarse, fine}, smoothed until the noise is gone, and as sharp as the picture
 * allows.
 */
function findInk(levels) {
  const { radius, tolerance } = smoothing(levels);
  const smooth = meanAround(levels, radius);
  const paper = paperOf(smooth, tolerance);
  const stands = aboveNoise(smooth.data.map((v, k) => v - paper[k]));
  const strongest = largestOf(stands);
  if (!(strongest >= FAINTEST)) throw new PictureError("no digit found: the picture is blank");
  const coarse = { ...smooth, data: stands.map((v) => v / strongest) };
  // smoothed less than a thirtieth of a small digit's side
  const fineRadius = Math.min(radius, Math.floor(Math.min(levels.width, levels.height) / 80));
  if (fineRadius === radius) return { coarse, fine: coarse };
  const difference = meanAround(levels, fineRadius).data.map((v, k) => v - paper[k]);
  const empty = difference.filter((_, k) => coarse.data[k] === 0);
  const sign = Math.sign(total(difference.filter((_, k) => coarse.data[k] > EDGE)));
  const mean = total(empty) / empty.length;
  const spreadOfEmpty = Math.sqrt(total(empty.map((v) => (v - mean) ** 2)) / empty.length);
  const fine = difference.map((v) => Math.max(0, sign * v - 2 * spreadOfEmpty));
  const most = largestOf(fine);
  return { coarse, fine: { ...smooth, data: fine.map((v) => v / most) } };
}

/** The radius of the mean that quietens the noise, and how many grey levels noise then reaches. */
function smoothing(levels) {
  const { width, height } = levels;
  const quiet = QUIET * (quantile(levels.data, 0.99) - quantile(levels.data, 0.01));
  const largest = Math.max(1, Math.floor(Math.min(width, height) / 40));
  let noise = quiet;
  let radius = 0;
  for (; radius <= largest; radius++) {
    const { data } = meanAround(levels, radius);
    // of three pixels whose means share none; a slope has no such differences
    const lag = 2 * radius + 1;
    const across = width - 2 * lag;
    const bends = new Float32Array(Math.max(0, across) * height);
    for (let y = 0; y < height && across > 0; y++) {
      for (let x = 0; x < across; x++) {
        const place = y * width + x;
        const bend = data[place + 2 * lag] - 2 * data[place + lag] + data[place];
        bends[y * across + x] = Math.abs(bend);
      }
    }
    // of normal noise the standard deviation
    noise = bends.length ? 0.605 * quantile(bends, 0.5) : 0;
    if (noise <= quiet || radius === largest) break;
  }
  return { radius, tolerance: 3 * noise + quiet };
}

/** The mean over the square of 2 radius + 1 pixels around each, as far as it is inside. */
function meanAround(levels, radius) {
  if (radius === 0) return levels;
  const { width, height } = levels;
  const down = new Float32Array(width * height);
  for (let x = 0; x < width; x++) means(levels.data, down, x, width, height, radius);
  const data = new Float32Array(width * height);
  for (let y = 0; y < height; y++) means(down, data, y * width, 1, width, radius);
  return { data, width, height };
}

/** Write the means along one line of pixels, `step` apart from `start` on. */
function means(from, to, start, step, length, radius) {
  const sums = new Float64Array(length + 1);
  for (let k = 0; k < length; k++) sums[k + 1] = sums[k] + from[start + k * step];
  for (let k = 0; k < length; k++) {
    const first = Math.max(0, k - radius);
    const last = Math.min(length, k + radius + 1);
    to[start + k * step] = (sums[last] - sums[first]) / (last - first);
  }
}

/**
 * Grey levels of the paper. As a rule the border is empty; a frame, a vignette or squared paper
 * spoils it.
 */
function paperOf(levels, tolerance) {
  const border = borderOf(levels);
  const paper = surface(levels, border, 1);
  const isNear = (k) => Math.abs(levels.data[k] - paper[k]) <= tolerance;
  const onBorder = border.filter(({ x, y }) => isNear(y * levels.width + x)).length;
  let near = 0;
  for (let k = 0; k < paper.length; k++) near += isNear(k);
  if (onBorder / border.length >= 0.7 && near / paper.length > 0.35) return paper;
  return surface(levels, mediansOfTiles(levels), DEGREE);
}

/** The outermost pixels: [{x, y, level}]. */
function borderOf({ data, width, height }) {
  const border = [];
  for (let y = 0; y < height; y++) {
    const step = y === 0 || y === height - 1 ? 1 : Math.max(1, width - 1);
    for (let x = 0; x < width; x += step) border.push({ x, y, level: data[y * width + x] });
  }
  return border;
}

/** The medians of tiles, most of which are empty, at their middles: [{x, y, level}]. */
function mediansOfTiles({ data, width, height }) {
  const edges = (length) => {
    const count = Math.min(TILES, length);
    return Array.from({ length: count + 1 }, (_, k) => Math.trunc((k * length) / count));
  };
  const [rows, columns] = [edges(height), edges(width)];
  const tiles = [];
  for (let i = 0; i + 1 < rows.length; i++) {
    for (let j = 0; j + 1 < columns.length; j++) {
      const levels = [];
      for (let y = rows[i]; y < rows[i + 1]; y++) {
        for (let x = columns[j]; x < columns[j + 1]; x++) levels.push(data[y * width + x]);
      }
      tiles.push({
        x: (columns[j] + columns[j + 1] - 1) / 2,
        y: (rows[i] + rows[i + 1] - 1) / 2,
        level: median(levels),
      });
    }
  }
  return tiles;
}

/** A polynomial surface, as large as the picture, through most of the levels at places. */
function surface({ width, height }, places, degree) {
  const at = (place, length) => (length > 1 ? (2 * place) / (length - 1) - 1 : -1);
  const levels = places.map(({ level }) => level);
  let fitted = levels.map(() => 0).fill(median(levels));
  let powers;
  let coefficients;
  // a stiff surface tells the outliers, which are ink, from the paper; then a supple one fits it
  for (let round = 0; round < 7; round++) {
    powers = powersUpTo(round < 4 ? Math.min(2, degree) : degree);
    const terms = places.map(({ x, y }) =>
      powers.map(([i, j]) => at(y, height) ** i * at(x, width) ** j),
    );
    const distances = levels.map((v, k) => Math.abs(v - fitted[k]));
    const limit = 2.5 * median(distances) + 1;
    coefficients = leastSquares(
      terms.filter((_, k) => distances[k] <= limit),
      levels.filter((_, k) => distances[k] <= limit),
    );
    fitted = terms.map((row) => row.reduce((sum, v, k) => sum + v * coefficients[k], 0));
  }
  const whole = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    // a polynomial of x alone
    const own = new Array(degree + 1).fill(0);
    powers.forEach(([i, j], k) => {
      own[j] += coefficients[k] * at(y, height) ** i;
    });
    for (let x = 0; x < width; x++) {
      const place = at(x, width);
      whole[y * width + x] = own.reduceRight((sum, v) => sum * place + v, 0);
    }
  }
  return whole;
}

/** The powers [of y, of x] of the monomials up to a degree. */
function powersUpTo(degree) {
  const powers = [];
  for (let i = 0; i <= degree; i++) for (let j = 0; j <= degree - i; j++) powers.push([i, j]);
  return powers;
}

/** The coefficients that fit rows of terms to values; those that the rows cannot tell are 0. */
function leastSquares(rows, values) {
  const count = rows[0].length;
  const places = Array.from({ length: count }, (_, k) => k);
  const equations = places.map((i) => [
    ...places.map((j) => rows.reduce((sum, row) => sum + row[i] * row[j], 0)),
    rows.reduce((sum, row, k) => sum + row[i] * values[k], 0),
  ]);
  for (const i of places) {
    const pivot = equations[i][i];
    if (Math.abs(pivot) < 1e-9 * rows.length) {
      equations[i] = new Array(count + 1).fill(0);
      continue;
    }
    equations[i] = equations[i].map((v) => v / pivot);
    for (const other of places) {
      if (other === i) continue;
      const factor = equations[other][i];
      equations[other] = equations[other].map((v, k) => v - factor * equations[i][k]);
    }
  }
  return equations.map((row) => row[count]);
}

/** What stands out from the noise of the paper, from differences to it. */
function aboveNoise(difference) {
  // dark ink or bright; the cube: little strong ink outweighs much faint shade
  let cubes = 0;
  for (let k = 0; k < difference.length; k++) cubes += difference[k] ** 3;
  const sign = Math.sign(cubes);
  // three standard deviations of normal noise, by its lower quarter: ink is seldom more than half
  const noise = 9.4 * quantile(difference.map(Math.abs), 0.25);
  return difference.map((v) => Math.max(0, v * sign - noise));
}

// loops, since these run over all pixels while a person draws

function total(values) {
  let sum = 0;
  for (let k = 0; k < values.length; k++) sum += values[k];
  return sum;
}

function largestOf(values) {
  let most = 0;
  for (let k = 0; k < values.length; k++) if (values[k] > most) most = values[k];
  return most;
}

const median = (values) => quantile(values, 0.5);

/** A quantile, between two values by their weighted mean. */
function quantile(values, share) {
  const isTyped = values instanceof Float32Array;
  const sorted = (isTyped ? values.slice() : Float64Array.from(values)).sort();
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  const high = Math.min(sorted.length - 1, low + 1);
  return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
}
