// What page.py put into the page, decoded: the run's network, its pictures and its history.
"use strict";

const contents = JSON.parse(document.getElementById("contents").textContent);

/** What a class is called. */
const nameOf = (label) => contents.classes[label];

/** The bytes behind base64, as an ArrayBuffer. */
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

/** The network as engine.js takes it. */
function decodedNetwork(components) {
  const tensors = (encoded) =>
    Object.fromEntries(
      Object.entries(encoded).map(([key, { shape, values }]) => [
        key,
        { data: new Float32Array(bytesOf(values)), shape },
      ]),
    );
  return components.map((component) => ({
    ...component,
    parameters: tensors(component.parameters),
    buffers: tensors(component.buffers),
  }));
}

/** The numbers behind half-precision ones (IEEE 754 binary16), as a Float32Array. */
function halvesOf(base64) {
  return Float32Array.from(new Uint16Array(bytesOf(base64)), (bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

/** The network with all its parameters and buffers taken from one array, in their order. */
function withValues(network, values) {
  const changed = copyNetwork(network);
  let start = 0;
  for (const { parameters, buffers } of changed) {
    for (const { data } of [...Object.values(parameters), ...Object.values(buffers)]) {
      data.set(values.subarray(start, start + data.length));
      start += data.length;
    }
  }
  return changed;
}

/** The pictures of a sprite, each a Uint8Array (28 * 28). */
async function spriteImages({ sprite, columns }, count) {
  const sheet = new Image();
  sheet.src = `data:image/png;base64,${sprite}`;
  await sheet.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [sheet.width, sheet.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(sheet, 0, 0);
  const { data } = context.getImageData(0, 0, sheet.width, sheet.height);
  return Array.from({ length: count }, (_, index) => {
    const left = (index % columns) * FIELD;
    const top = Math.floor(index / columns) * FIELD;
    return Uint8Array.from({ length: FIELD * FIELD }, (_, k) => {
      const [x, y] = [left + (k % FIELD), top + Math.floor(k / FIELD)];
      return data[4 * (y * sheet.width + x)];
    });
  });
}

/** Pictures (28 * 28 pixels each, 0 to 255) as the network's input (N, 1, 28, 28). */
function asInput(images) {
  const { mean, std } = contents;
  const area = FIELD * FIELD;
  const data = new Float32Array(images.length * area);
  images.forEach((pixels, n) => {
    for (let k = 0; k < area; k++) data[n * area + k] = (pixels[k] - 255 * mean) / (255 * std);
  });
  return { data, shape: [images.length, 1, FIELD, FIELD] };
}
