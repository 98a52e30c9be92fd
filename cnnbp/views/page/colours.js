// Two scales of colours: greys for what a component puts out, blue-white-red for gradients.
"use strict";

const STEPS = 256;
const SCALES = {
  light: {
    greys: ["#ffffff", "#9aa1ab", "#12161c"],
    diverging: ["#0b4a9e", "#6ea3dd", "#ffffff", "#ea8a76", "#a81e12"],
  },
  dark: {
    greys: ["#0d1014", "#69717c", "#ffffff"],
    diverging: ["#7db4ff", "#2f5c9a", "#15191f", "#9a4033", "#ff9480"],
  },
};

const darkness = window.matchMedia("(prefers-color-scheme: dark)");

/** The name of the theme that is on. */
const theme = () => (darkness.matches ? "dark" : "light");

/** The scale of that kind for the theme that is on: STEPS colours, each [red, green, blue]. */
const scaleOf = (kind) => BLENDED[theme()][kind];

const BLENDED = Object.fromEntries(
  Object.entries(SCALES).map(([name, scales]) => [
    name,
    Object.fromEntries(Object.entries(scales).map(([kind, stops]) => [kind, blended(stops)])),
  ]),
);

/** STEPS colours that lead evenly from the first stop to the last. */
function blended(stops) {
  const colours = stops.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (colours.length - 1);
    const low = Math.min(Math.floor(place), colours.length - 2);
    return colours[low].map((v, k) => Math.round(v + (place - low) * (colours[low + 1][k] - v)));
  });
}

/** The lowest and the highest finite value; both 0 where there is none. */
function rangeOf(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const v of values) {
    if (v < low && v > -Infinity) low = v;
    if (v > high && v < Infinity) high = v;
  }
  return low <= high ? { low, high } : { low: 0, high: 0 };
}

/** A range with 0 in its middle. */
function symmetricRangeOf(values) {
  const { low, high } = rangeOf(values);
  const most = Math.max(-low, high);
  return { low: -most, high: most };
}

/**
 * The place of a value in a range on the scale of greys or, with 0 in the middle, on the diverging
 * one.
 */
function stepOf(value, { low, high }, kind) {
  const share = kind === "greys" ? (value - low) / (high - low) : divergingShare(value / high);
  const step = Math.round(Math.min(1, Math.max(0, share)) * (STEPS - 1));
  return Number.isNaN(step) ? STEPS >> 1 : step; // NaN has no place: the middle
}

/** The colour of a value in a range, [red, green, blue]. */
const colourOf = (value, range, kind) => scaleOf(kind)[stepOf(value, range, kind)];

/** Write the colours of values into the bytes of an image, four a pixel. */
function paintValues(bytes, values, range, kind) {
  const pixels = new Uint32Array(bytes.buffer);
  const packed = Uint32Array.from(
    scaleOf(kind),
    ([red, green, blue]) => new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0],
  );
  for (let k = 0; k < values.length; k++) pixels[k] = packed[stepOf(values[k], range, kind)];
}

/** Square roots, so that gradients far below the largest one are still seen. */
const divergingShare = (part) => 0.5 + (Math.sign(part) * Math.sqrt(Math.abs(part))) / 2;
