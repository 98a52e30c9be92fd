// Ruled lines and frames, taken off the ink of a picture, by the steps of
// cnnbp/data/picture_lines.py.
"use strict";

const LINE_LENGTH = 0.88; // share of a picture's side that a line has to run along
const WHOLE_LINE = 0.97; // and where a stroke lies beside it
const LINE_THICKNESS = 0.05; // share of a picture's side above which it is a stroke, not a line
const STEEPEST = 0.09; // rise of a line over its run

/** Take the long thin lines, down and across, off both layers of ink: {coarse, fine}. */
function withoutLines(coarse, fine, edge) {
  for (let turn = 0; turn < 2; turn++) {
    [coarse, fine] = [transposed(coarse), transposed(fine)];
    const { slope, lines } = findLines(coarse, edge);
    for (const [first, last] of lines) {
      coarse = withoutLine(coarse, edge, slope, first, last);
      fine = withoutLine(fine, edge, slope, first, last);
    }
  }
  return { coarse, fine };
}

function transposed({ data, width, height }) {
  const turned = new Float32Array(data.length);
  for (let k = 0; k < data.length; k++) {
    turned[(k % width) * height + Math.floor(k / width)] = data[k];
  }
  return { data: turned, width: height, height: width };
}

/**
 * The slope of the lines across, and of each its first row and one past its last, at the middle
 * column. Each pixel votes for the lines through it (Hough, 1962).
 */
function findLines({ data, width, height }, edge) {
  // a line may wind by a pixel
  const [rows, columns] = [[], []];
  for (let k = 0; k < data.length; k++) {
    if (data[k] > edge || data[k - width] > edge || data[k + width] > edge) {
      rows.push(Math.floor(k / width));
      columns.push(k % width);
    }
  }
  const margin = Math.trunc(STEEPEST * width) + 1;
  const step = 3 / width;
  let best = { slope: 0, votes: new Float64Array(height + 2 * margin), most: 0 };
  for (let k = 0; k <= Math.trunc(STEEPEST / step); k++) {
    for (const slope of [k * step, -k * step]) {
      const votes = new Float64Array(height + 2 * margin);
      for (let k = 0; k < rows.length; k++) {
        votes[rows[k] - rise(slope, columns[k], width) + margin] += 1;
      }
      for (let place = 0; place < votes.length; place++) votes[place] /= width;
      const most = largestOf(votes);
      if (most > best.most + 0.01) best = { slope, votes, most };
    }
  }
  // a line may be as thick as this, and votes reach a pixel further on both sides
  const shorter = Math.min(width, height);
  const thickest = Math.max(2, roundHalfToEven(LINE_THICKNESS * shorter)) + 2;
  const lines = [];
  for (const [first, last] of runsAbove(best.votes, 0.7 * LINE_LENGTH)) {
    const votes = best.votes.subarray(first, last);
    if (largestOf(votes) < LINE_LENGTH) continue;
    if (last - first <= thickest) {
      lines.push([first - margin, last - margin]);
      continue;
    }
    // beside a stroke as long as the stem of a 1, or a bow on a picture cut close
    for (const [ownFirst, ownLast] of runsAbove(votes, WHOLE_LINE)) {
      if (ownLast - ownFirst > thickest) continue;
      lines.push([first + ownFirst - margin, first + ownLast - margin]);
    }
  }
  return { slope: best.slope, lines };
}

/** First and one past the last place of each run of values from a limit on. */
function runsAbove(values, limit) {
  const runs = [];
  for (let first = 0; first < values.length; first++) {
    if (values[first] < limit) continue;
    let last = first;
    while (last < values.length && values[last] >= limit) last += 1;
    runs.push([first, last]);
    first = last;
  }
  return runs;
}

/** How many rows lower than at the middle column a line is. */
const rise = (slope, column, width) => Math.floor(slope * (column - (width >> 1)) + 0.5);

/** Take one line off: what is left is what crosses it, and what is darker. */
function withoutLine({ data, width, height }, edge, slope, first, last) {
  const at = (row, column) => data[Math.min(height - 1, Math.max(0, row)) * width + column];
  const darkest = Array.from({ length: width }, (_, column) => {
    let most = 0;
    for (let row = first; row < last; row++) {
      most = Math.max(most, at(row + rise(slope, column, width), column));
    }
    return most;
  });
  const level = median(darkest);
  const cleaned = data.slice();
  for (let column = 0; column < width; column++) {
    const low = first + rise(slope, column, width);
    const high = last - 1 + rise(slope, column, width);
    const [top, bottom] = [low, high].map((row) => Math.min(height - 1, Math.max(0, row)));
    const above = top > 0 ? at(top - 1, column) : 0;
    const below = bottom < height - 1 ? at(bottom + 1, column) : 0;
    const crossing = Math.min(above, below) > edge ? Math.min(above, below) : 0;
    for (let row = Math.max(0, low); row <= Math.min(height - 1, high); row++) {
      const darker = level < 0.8 ? Math.max(0, (at(row, column) - level) / (1 - level)) : 0;
      cleaned[row * width + column] = Math.max(darker, crossing);
    }
  }
  return { data: cleaned, width, height };
}
