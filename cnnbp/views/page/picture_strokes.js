// Hairlines made thicker, by the steps of cnnbp/data/picture_strokes.py.
"use strict";

const THIN = 1.5; // width of strokes, where a digit fills the box, below which they are thickened
const PEN = 2; // and to what

/** The ink of one digit, or with thicker strokes and room around it. */
function thickened(ink, edge, box) {
  const { data, width, height } = ink;
  const isInk = (x, y) => x >= 0 && x < width && y >= 0 && y < height && data[y * width + x] > edge;
  let [sum, sides] = [0, 0];
  const found = { left: width, right: 0, top: height, bottom: 0 };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!isInk(x, y)) continue;
      sum += data[y * width + x];
      sides += !isInk(x - 1, y) + !isInk(x + 1, y) + !isInk(x, y - 1) + !isInk(x, y + 1);
      found.left = Math.min(found.left, x);
      found.right = Math.max(found.right, x + 1);
      found.top = Math.min(found.top, y);
      found.bottom = Math.max(found.bottom, y + 1);
    }
  }
  const scale = box / Math.max(found.right - found.left, found.bottom - found.top);
  // strokes of all directions have 4 / pi times as many pixels' sides as upright ones
  const stroke = ((8 / Math.PI) * sum) / sides;
  if (stroke * scale >= THIN) return ink;
  const radius = roundHalfToEven((PEN / scale - stroke) / 2);
  let thick = padded(ink, radius);
  // by turns, so that a dot grows round
  for (let step = 0; step < radius; step++) thick = spread(thick, step % 2 === 1);
  return thick;
}

/** With so many empty pixels on each side. */
function padded({ data, width, height }, room) {
  const wide = width + 2 * room;
  const whole = new Float32Array(wide * (height + 2 * room));
  for (let y = 0; y < height; y++) {
    whole.set(data.subarray(y * width, (y + 1) * width), (y + room) * wide + room);
  }
  return { data: whole, width: wide, height: height + 2 * room };
}

/** The greatest of each pixel and its four, or with the diagonal ones eight, neighbours. */
function spread({ data, width, height }, diagonal) {
  const tall = Float32Array.from(data);
  for (let k = 0; k < data.length; k++) {
    if (k >= width) tall[k] = Math.max(tall[k], data[k - width]);
    if (k + width < data.length) tall[k] = Math.max(tall[k], data[k + width]);
  }
  const middle = diagonal ? tall : data;
  const wide = Float32Array.from(tall);
  for (let k = 0; k < data.length; k++) {
    const x = k % width;
    if (x > 0) wide[k] = Math.max(wide[k], middle[k - 1]);
    if (x + 1 < width) wide[k] = Math.max(wide[k], middle[k + 1]);
  }
  return { data: wide, width, height };
}
