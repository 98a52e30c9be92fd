// The very numbers behind one cell: how its value came about, and how the gradient came back to it.
//
// A cell is [map, row, column] of the output of a record of engine.js; the batch is one image. An
// account is {terms, tables, shares, note, result}: lines of (what, value), small matrices, the
// shares that were summed and which of them the tables show, a remark, and what it all comes to.
"use strict";

/** The value of a tensor (1, C, H, W) at a cell. */
const at = ({ data, shape: [, , H, W] }, [c, i, j]) => data[(c * H + i) * W + j];

/** The place of a cell in a tensor (1, C, H, W). */
const placeOf = ({ shape: [, , H, W] }, [c, i, j]) => (c * H + i) * W + j;

const sumOf = (values) => values.reduce((sum, v) => sum + v, 0);

/** The index of the largest absolute value. */
function strongest(values) {
  const sizes = values.map((v) => (Number.isNaN(v) ? 0 : Math.abs(v)));
  return sizes.indexOf(Math.max(...sizes));
}

/** A matrix of f(a, b). */
const matrix = (rows, columns, f) =>
  Array.from({ length: rows }, (_, a) => Array.from({ length: columns }, (_, b) => f(a, b)));

/** Products cell by cell; where one of the two is null, null. */
const products = (left, right) =>
  left.map((row, a) =>
    row.map((v, b) => (v === null || right[a][b] === null ? null : v * right[a][b])),
  );

// ----------------------------------------------------------------------------------------- forward

/**
 * How the value at a cell of a record's output came about; share: which map's part to show in full.
 */
function forwardAccount(record, cell, share) {
  const special = FORWARD_ACCOUNTS[record.kind];
  if (special) return special(record, cell, share);
  const x = at(record.input, cell);
  const y = at(record.output, cell);
  return {
    terms: [
      ["<i>x</i>", x],
      ["<i>y</i>", y],
    ],
    result: y,
  };
}

const FORWARD_ACCOUNTS = {
  Conv2d(
    {
      input,
      component: {
        parameters: { weight, bias },
        options,
      },
    },
    [o, i, j],
    share,
  ) {
    const [, C, H, W] = input.shape;
    const [, , A, B] = weight.shape;
    const {
      stride: [s, t],
      padding: [p, q],
    } = options;
    const kernel = (c) => matrix(A, B, (a, b) => weight.data[((o * C + c) * A + a) * B + b]);
    const patch = (c) =>
      matrix(A, B, (a, b) => {
        const [row, column] = [s * i + a - p, t * j + b - q];
        const inside = row >= 0 && row < H && column >= 0 && column < W;
        return inside ? at(input, [c, row, column]) : 0;
      });
    const sums = Array.from({ length: C }, (_, c) => sumOf(products(patch(c), kernel(c)).flat()));
    const shown = share ?? strongest(sums);
    const result = sumOf(sums) + bias.data[o];
    return {
      shares: { of: "map", values: sums, shown },
      tables: [
        ["patch of <i>x</i>", patch(shown)],
        ["kernel", kernel(shown)],
        ["products", products(patch(shown), kernel(shown))],
      ],
      terms: [
        [C === 1 ? "sum of the products" : `sum over all ${C} maps`, sumOf(sums)],
        ["+ bias", bias.data[o]],
        ["= <i>y</i>", result],
      ],
      result,
    };
  },

  ReLU({ input }, cell) {
    const x = at(input, cell);
    const gate = reluSlope(x);
    const note = gate ? "positive: the gate is open" : "not positive: the gate is shut";
    return {
      terms: [
        ["<i>x</i>", x],
        ["gate", gate],
        ["<i>y</i>", gate * x],
      ],
      note,
      result: gate * x,
    };
  },

  BatchNorm2d: normaliseAccount,
  GroupNorm: normaliseAccount,

  Dropout({ input, details: { mask } }, cell) {
    const [x, kept] = [at(input, cell), at(mask, cell)];
    const note =
      { 0: "dropped this time", 1: "evaluation mode: nothing is dropped" }[kept] ??
      `kept, and made ${briefly(kept)} times as strong to make up for what is dropped`;
    return {
      terms: [
        ["<i>x</i>", x],
        ["mask", kept],
        ["<i>y</i>", kept * x],
      ],
      note,
      result: kept * x,
    };
  },

  AvgPool2d(
    {
      input,
      component: {
        options: {
          kernel_size: [A, B],
        },
      },
    },
    [c, i, j],
  ) {
    const tile = matrix(A, B, (a, b) => at(input, [c, A * i + a, B * j + b]));
    const sum = sumOf(tile.flat());
    const terms = [
      ["sum of the tile", sum],
      ["cells", A * B],
      ["<i>y</i>", sum / (A * B)],
    ];
    return { tables: [["tile of <i>x</i>", tile]], terms, result: sum / (A * B) };
  },

  Input({ pixels, output }, cell) {
    const [pixel, y] = [pixels[placeOf(output, cell)], at(output, cell)];
    return {
      terms: [
        ["pixel, 0 to 255", pixel],
        ["<i>y</i>", y],
      ],
      result: y,
    };
  },

  CrossEntropyLoss({ input, output, details: { p, target } }, [k]) {
    const highest = Math.max(...input.data);
    const exponentials = Array.from(input.data, (v) => Math.exp(v - highest));
    const goal = target.indexOf(Math.max(...target));
    const terms = [
      [`<i>x</i><sub>${k}</sub>`, input.data[k]],
      [`exp(<i>x</i><sub>${k}</sub> − ${minus(briefly(highest))})`, exponentials[k]],
      ["Σ of these over all classes", sumOf(exponentials)],
      [`<i>p</i><sub>${k}</sub>`, p[k]],
      [`loss = −log <i>p</i><sub>${goal}</sub>`, output.data[0]],
    ];
    const note = `the target is ${goal}; subtracting the largest score changes no probability`;
    return { terms, note, result: p[k] };
  },
};

function normaliseAccount(
  {
    input,
    component: {
      parameters: { weight, bias },
    },
    details,
  },
  cell,
) {
  const [c] = cell;
  const set = details.group(0, c);
  const x = at(input, cell);
  const xHat = (x - details.mean[set]) / details.deviation[set];
  const y = weight.data[c] * xHat + bias.data[c];
  const note = details.constant
    ? "mean and deviation: the running statistics of training"
    : "mean and deviation: of this picture's own cells";
  const terms = [
    ["<i>x</i>", x],
    ["mean", details.mean[set]],
    ["deviation", details.deviation[set]],
    ["<i>x̂</i>", xHat],
    ["weight", weight.data[c]],
    ["bias", bias.data[c]],
    ["<i>y</i>", y],
  ];
  return { terms, note, result: y };
}

// ---------------------------------------------------------------------------------------- backward

/**
 * How the gradient came back to a cell through the next record, whose input the cell is (of
 * flatten: the loss).
 */
function backwardAccount(next, cell, share) {
  const special = BACKWARD_ACCOUNTS[next.kind];
  if (special) return special(next, cell, share);
  const dy = at(next.gradient, cell);
  const result = next.backward(next.gradient)[0].data[placeOf(next.input, cell)];
  const x = at(next.input, cell);
  return {
    terms: [
      ["<i>x</i>", x],
      ["<i>dy</i>", dy],
      ["<i>dx</i>", result],
    ],
    result,
  };
}

const BACKWARD_ACCOUNTS = {
  Conv2d(
    {
      output,
      gradient,
      component: {
        parameters: { weight },
        options,
      },
    },
    [c, u, v],
    share,
  ) {
    const [, O, I, J] = output.shape;
    const [, C, A, B] = weight.shape;
    const {
      stride: [s, t],
      padding: [p, q],
    } = options;
    /** The stop at which the kernel's place (a, b) lies on the cell, if there is one. */
    const stop = (a, b) => {
      const [i, j] = [(u + p - a) / s, (v + q - b) / t];
      const exists =
        Number.isInteger(i) && Number.isInteger(j) && i >= 0 && i < I && j >= 0 && j < J;
      return exists ? [i, j] : null;
    };
    const kernel = (o) => matrix(A, B, (a, b) => weight.data[((o * C + c) * A + a) * B + b]);
    const heard = (o) =>
      matrix(A, B, (a, b) => (stop(a, b) ? at(gradient, [o, ...stop(a, b)]) : null));
    const sums = Array.from({ length: O }, (_, o) => sumOf(products(kernel(o), heard(o)).flat()));
    const shown = share ?? strongest(sums);
    const result = sumOf(sums);
    const stops = heard(0)
      .flat()
      .filter((value) => value !== null).length;
    return {
      shares: { of: "map", values: sums, shown },
      tables: [
        ["kernel", kernel(shown)],
        ["<i>dy</i> at the stops", heard(shown)],
        ["products", products(kernel(shown), heard(shown))],
      ],
      note: `${stops} stops of each kernel cover the cell, so it hears from ${stops * O} cells`,
      terms: [[`<i>dx</i>: sum over all ${O} maps`, result]],
      result,
    };
  },

  ReLU({ input, gradient }, cell) {
    const [x, dy] = [at(input, cell), at(gradient, cell)];
    const gate = reluSlope(x);
    const note = gate
      ? "the gate was open: the gradient passes"
      : "the gate was shut: the gradient stops";
    return {
      terms: [
        ["<i>dy</i>", dy],
        ["gate", gate],
        ["<i>dx</i>", gate * dy],
      ],
      note,
      result: gate * dy,
    };
  },

  BatchNorm2d: normaliseBackAccount,
  GroupNorm: normaliseBackAccount,

  Dropout({ gradient, details: { mask } }, cell) {
    const [dy, kept] = [at(gradient, cell), at(mask, cell)];
    return {
      terms: [
        ["<i>dy</i>", dy],
        ["mask", kept],
        ["<i>dx</i>", kept * dy],
      ],
      result: kept * dy,
    };
  },

  AvgPool2d(
    {
      output,
      gradient,
      component: {
        options: {
          kernel_size: [A, B],
        },
      },
    },
    [c, u, v],
  ) {
    const [i, j] = [Math.floor(u / A), Math.floor(v / B)];
    if (i >= output.shape[2] || j >= output.shape[3]) {
      return {
        terms: [["<i>dx</i>", 0]],
        note: "in the remainder, which no tile covers",
        result: 0,
      };
    }
    const dy = at(gradient, [c, i, j]);
    const terms = [
      ["<i>dy</i>", dy],
      ["cells in the tile", A * B],
      ["<i>dx</i>", dy / (A * B)],
    ];
    return { terms, result: dy / (A * B) };
  },

  CrossEntropyLoss({ details: { p, target } }, [k]) {
    const result = p[k] - target[k];
    const terms = [
      [`<i>p</i><sub>${k}</sub>`, p[k]],
      [`target<sub>${k}</sub>`, target[k]],
      [`<i>dx</i><sub>${k}</sub>`, result],
    ];
    return { terms, result };
  },
};

function normaliseBackAccount(
  {
    gradient,
    component: {
      parameters: { weight },
    },
    details,
  },
  cell,
) {
  const [c] = cell;
  const set = details.group(0, c);
  const { meanD, meanDXHat } = details.gradientMeans(gradient);
  const dy = at(gradient, cell);
  const xHat = at(details.xHat, cell);
  const d = weight.data[c] * dy;
  const result = (d - meanD[set] - xHat * meanDXHat[set]) / details.deviation[set];
  const note = details.constant
    ? "the statistics are constants in evaluation mode, so both means are 0"
    : "the statistics depend on this cell too, which the two means make up for";
  const terms = [
    ["<i>dy</i>", dy],
    ["<i>d</i> = weight · <i>dy</i>", d],
    ["− mean(<i>d</i>)", -meanD[set]],
    ["− <i>x̂</i> · mean(<i>d x̂</i>)", -xHat * meanDXHat[set]],
    ["deviation", details.deviation[set]],
    ["<i>dx</i>", result],
  ];
  return { terms, note, result };
}
