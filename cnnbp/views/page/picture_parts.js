// The connected parts of a picture's ink, and which of them make a digit, by the steps of
// cnnbp/data/picture_parts.py. A part is {labels, left, top, right, bottom, pixels}.
"use strict";

const DARKEST = 0.5; // share of the strongest ink that a part has to reach somewhere
const SPECK = 0.4; // share of the tallest part's height below which a part is a speck or a dash
const PIECE = 0.2; // share of a digit's height from which something beside it is a piece of it
const RINGED = 0.45; // share of a part's height from which another inside it is a digit in a ring,
const HELD = 0.2; // or something in a frame
const RIM = 0.15; // share of a frame's sides within which all of it lies
const MARGIN = 0.12; // share of a picture's side within which a part on the border is no digit

const highOf = (part) => part.bottom - part.top;
const wideOf = (part) => part.right - part.left;

/** The digits on ink, in the order of reading, and the label of each pixel: {labels, parts}. */
function findParts(ink, edge) {
  const { labels, parts } = connected(ink, edge);
  const strongest = new Float32Array(parts.length + 1);
  labels.forEach((label, k) => {
    strongest[label] = Math.max(strongest[label], ink.data[k]);
  });
  const strong = parts.filter((part) => strongest[part.labels[0]] >= DARKEST);
  const inside = insideOf(strong, ink);
  const free = inside.filter(
    (part) =>
      !inside.some((o) => containsPart(part, o) && highOf(o) >= RINGED * highOf(part)),
  );
  return { labels, parts: asRead(withoutSpecks(wholeParts(free))) };
}

/** Where there is a frame, a box around something that stands free in it: a mask. */
function framesOn(ink, edge) {
  const { labels, parts } = connected(ink, edge);
  const data = new Float32Array(labels.length);
  for (const part of parts) {
    const holds = parts.some((o) => containsPart(part, o) && highOf(o) >= HELD * highOf(part));
    if (!holds) continue;
    const down = roundHalfToEven(RIM * highOf(part));
    const across = roundHalfToEven(RIM * wideOf(part));
    let inner = 0;
    for (let y = part.top + down; y < part.bottom - down; y++) {
      for (let x = part.left + across; x < part.right - across; x++) {
        inner += labels[y * ink.width + x] === part.labels[0];
      }
    }
    if (inner >= 0.1 * part.pixels) continue;
    labels.forEach((label, k) => {
      if (label === part.labels[0]) data[k] = 1;
    });
  }
  return { ...ink, data };
}

/** Number the connected parts of the ink, with diagonal neighbours, from 1 in raster order. */
function connected({ data, width, height }, edge) {
  const labels = new Int32Array(data.length);
  const parts = [];
  for (let start = 0; start < data.length; start++) {
    if (labels[start] || !(data[start] > edge)) continue;
    const label = parts.length + 1;
    const part = { labels: [label], left: width, top: height, right: 0, bottom: 0, pixels: 0 };
    parts.push(part);
    labels[start] = label;
    const waiting = [start];
    while (waiting.length) {
      const k = waiting.pop();
      const [x, y] = [k % width, Math.floor(k / width)];
      part.left = Math.min(part.left, x);
      part.right = Math.max(part.right, x + 1);
      part.top = Math.min(part.top, y);
      part.bottom = Math.max(part.bottom, y + 1);
      part.pixels += 1;
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const other = v * width + u;
          if (labels[other] || !(data[other] > edge)) continue;
          labels[other] = label;
          waiting.push(other);
        }
      }
    }
  }
  return { labels, parts };
}

const containsPart = (part, other) =>
  part.left < other.left &&
  part.top < other.top &&
  part.right > other.right &&
  part.bottom > other.bottom;

/** Without what lies along the border, such as a shadow, if something else is left. */
function insideOf(parts, { width, height }) {
  const [across, down] = [MARGIN * width, MARGIN * height];
  const kept = parts.filter((part) => {
    const onLeft = part.left === 0 && part.right <= across;
    const onRight = part.right === width && part.left >= width - across;
    const onTop = part.top === 0 && part.bottom <= down;
    const onBottom = part.bottom === height && part.top >= height - down;
    return !(onLeft || onRight || onTop || onBottom);
  });
  return kept.length ? kept : parts;
}

/** Without specks and dashes, which are small beside the tallest part. */
function withoutSpecks(parts) {
  // not a long line
  const tall = parts.filter((part) => highOf(part) > wideOf(part) / 3);
  const tallest = largestOf(tall.map((part) => Math.max(highOf(part), wideOf(part))));
  // a part that lies on its side may be a digit too
  const large = parts.filter(
    (part) => Math.max(highOf(part), SPECK * wideOf(part)) >= SPECK * tallest,
  );
  return large.length ? large : parts;
}

/** Join the pieces of one digit: the bar of a 5, a stroke that broke. */
function wholeParts(parts) {
  const waiting = [...parts].sort((a, b) => b.pixels - a.pixels);
  const wholes = [];
  while (waiting.length) {
    let whole = waiting.shift();
    let k = 0;
    while (k < waiting.length) {
      if (!belongTogether(whole, waiting[k])) {
        k += 1;
        continue;
      }
      whole = joinedParts(whole, waiting.splice(k, 1)[0]);
      // what was too far away may touch the larger one
      k = 0;
    }
    wholes.push(whole);
  }
  return wholes;
}

const joinedParts = (one, other) => ({
  labels: [...one.labels, ...other.labels],
  left: Math.min(one.left, other.left),
  top: Math.min(one.top, other.top),
  right: Math.max(one.right, other.right),
  bottom: Math.max(one.bottom, other.bottom),
  pixels: one.pixels + other.pixels,
});

/** Whether two parts are pieces of one digit. */
function belongTogether(one, other) {
  const overlap = Math.min(one.right, other.right) - Math.max(one.left, other.left);
  const shared = overlap / Math.min(wideOf(one), wideOf(other));
  const whole = Math.max(one.bottom, other.bottom) - Math.min(one.top, other.top);
  const gap = (Math.max(one.top, other.top) - Math.min(one.bottom, other.bottom)) / whole;
  const low = Math.min(highOf(one), highOf(other)) / whole;
  const high = Math.max(highOf(one), highOf(other)) / whole;
  // halves, not two lines of digits
  if (high < 0.6) return shared > 0.5 && gap < 0.06;
  const smaller = highOf(other) < highOf(one) ? other : one;
  const isSpeck = Math.max(highOf(smaller), wideOf(smaller)) <= PIECE * whole;
  if (low < 0.6) return shared > 0.3 && gap < 0.15 && !isSpeck;
  return shared > 0.8;
}

/** Line by line, from left to right. */
function asRead(parts) {
  const lines = [];
  for (const part of [...parts].sort((a, b) => a.top + a.bottom - b.top - b.bottom)) {
    const middle = (part.top + part.bottom) / 2;
    const line = lines.at(-1);
    if (line?.some((other) => other.top < middle && middle < other.bottom)) line.push(part);
    else lines.push([part]);
  }
  return lines.flatMap((line) => line.sort((a, b) => a.left - b.left));
}
