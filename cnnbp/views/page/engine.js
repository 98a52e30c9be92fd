// Forward and backward of every component by hand, the JavaScript twin of cnnbp/model/backprop.py.
//
// A tensor is {data, shape}: a Float32Array or Float64Array and its sizes. A component is one
// function that returns its output y and a function `backward`, which takes dy, the gradient of the
// loss at y, to a list of gradients: at the input x first, then at each parameter. Sums run in
// double precision in both cases.
"use strict";

/** A tensor of zeros of the same precision as x. */
function zeros(x, shape) {
  return { data: new x.data.constructor(shape.reduce((a, b) => a * b, 1)), shape };
}

/** A tensor of the shape and precision of x, its element k computed by f(k). */
function fill(x, f) {
  const y = zeros(x, x.shape);
  for (let k = 0; k < y.data.length; k++) y.data[k] = f(k);
  return y;
}

/**
 * The values of the gradient of a parameter, which were summed in double, in the precision of x.
 */
const summed = (x, sums, shape) => ({ data: x.data.constructor.from(sums), shape });

// ------------------------------------------------------------------------------------- convolution

/** Sizes of a convolution: x (N, C, H, W), weight (O, C, A, B), y (N, O, I, J). */
function convolutionSizes(x, weight, [s, t], [p, q]) {
  const [, C, H, W] = x.shape;
  const [O, , A, B] = weight.shape;
  const I = Math.floor((H + 2 * p - A) / s) + 1;
  const J = Math.floor((W + 2 * q - B) / t) + 1;
  return { C, H, W, O, A, B, I, J, s, t, p, q, window: C * A * B };
}

/**
 * Call visit(place in a window, pixel of the image) for all pixels of all windows that lie inside
 * the image.
 */
function eachWindowPixel({ C, H, W, A, B, I, J, s, t, p, q, window }, visit) {
  for (let i = 0; i < I; i++) {
    for (let j = 0; j < J; j++) {
      const first = (i * J + j) * window;
      const top = s * i - p;
      const left = t * j - q;
      const aStart = Math.max(0, -top);
      const aEnd = Math.min(A, H - top);
      const bStart = Math.max(0, -left);
      const bEnd = Math.min(B, W - left);
      for (let c = 0; c < C; c++) {
        for (let a = aStart; a < aEnd; a++) {
          const place = first + (c * A + a) * B;
          const pixel = (c * H + top + a) * W + left;
          for (let b = bStart; b < bEnd; b++) visit(place + b, pixel + b);
        }
      }
    }
  }
}

/**
 * y[o, at] = bias[o] + the inner product of kernel o and window `at`; four kernels share each read
 * of a window.
 */
function multiplyWindows(y, yStart, windows, kernels, bias, sizes) {
  const { O, I, J, window } = sizes;
  const stops = I * J;
  for (let at = 0; at < stops; at++) {
    const first = at * window;
    let o = 0;
    for (; o + 3 < O; o += 4) {
      const w0 = o * window;
      const w1 = w0 + window;
      const w2 = w1 + window;
      const w3 = w2 + window;
      let y0 = bias[o];
      let y1 = bias[o + 1];
      let y2 = bias[o + 2];
      let y3 = bias[o + 3];
      for (let k = 0; k < window; k++) {
        const x = windows[first + k];
        y0 += kernels[w0 + k] * x;
        y1 += kernels[w1 + k] * x;
        y2 += kernels[w2 + k] * x;
        y3 += kernels[w3 + k] * x;
      }
      y[yStart + o * stops + at] = y0;
      y[yStart + (o + 1) * stops + at] = y1;
      y[yStart + (o + 2) * stops + at] = y2;
      y[yStart + (o + 3) * stops + at] = y3;
    }
    for (; o < O; o++) {
      let sum = bias[o];
      for (let k = 0; k < window; k++) sum += kernels[o * window + k] * windows[first + k];
      y[yStart + o * stops + at] = sum;
    }
  }
}

/**
 * Add dy's part to the gradients of the kernels, and give each pixel of each window its share of
 * dy.
 */
function shareGradient(dy, dyStart, windows, kernels, dkernels, dwindows, sizes) {
  const { O, I, J, window } = sizes;
  const stops = I * J;
  dwindows.fill(0);
  for (let at = 0; at < stops; at++) {
    const first = at * window;
    let o = 0;
    for (; o + 1 < O; o += 2) {
      const g0 = dy[dyStart + o * stops + at];
      const g1 = dy[dyStart + (o + 1) * stops + at];
      if (g0 === 0 && g1 === 0) continue; // behind a ReLU most are
      const w0 = o * window;
      const w1 = w0 + window;
      for (let k = 0; k < window; k++) {
        const x = windows[first + k];
        dkernels[w0 + k] += g0 * x;
        dkernels[w1 + k] += g1 * x;
        dwindows[first + k] += g0 * kernels[w0 + k] + g1 * kernels[w1 + k];
      }
    }
    for (; o < O; o++) {
      const g = dy[dyStart + o * stops + at];
      for (let k = 0; k < window; k++) {
        dkernels[o * window + k] += g * windows[first + k];
        dwindows[first + k] += g * kernels[o * window + k];
      }
    }
  }
}

/**
 * Slide each kernel over the image and take the inner product at every stop. Shapes: x (N, C, H,
 * W), weight (O, C, A, B), bias (O,), y (N, O, I, J); pixels outside x count as 0.
 */
function conv2d(x, weight, bias, stride = [1, 1], padding = [0, 0]) {
  const sizes = convolutionSizes(x, weight, stride, padding);
  const { C, H, W, O, I, J, window } = sizes;
  const images = x.shape[0];
  // doubles, because reading them saves a conversion at each product
  const kernels = Float64Array.from(weight.data);
  // of one image; what lies in the padding stays 0
  const windows = new Float64Array(I * J * window);
  const y = zeros(x, [images, O, I, J]);
  for (let n = 0; n < images; n++) {
    const image = x.data.subarray(n * C * H * W, (n + 1) * C * H * W);
    eachWindowPixel(sizes, (place, pixel) => {
      windows[place] = image[pixel];
    });
    multiplyWindows(y.data, n * O * I * J, windows, kernels, bias.data, sizes);
  }

  function backward(dy) {
    const dx = zeros(x, x.shape);
    const dkernels = new Float64Array(weight.data.length);
    const dwindows = new Float64Array(windows.length);
    const dbias = new Float64Array(O);
    for (let n = 0; n < images; n++) {
      const image = x.data.subarray(n * C * H * W, (n + 1) * C * H * W);
      const dimage = dx.data.subarray(n * C * H * W, (n + 1) * C * H * W);
      eachWindowPixel(sizes, (place, pixel) => {
        windows[place] = image[pixel];
      });
      shareGradient(dy.data, n * O * I * J, windows, kernels, dkernels, dwindows, sizes);
      // a pixel collects a share from every window that covered it
      eachWindowPixel(sizes, (place, pixel) => {
        dimage[pixel] += dwindows[place];
      });
    }
    for (let k = 0; k < dy.data.length; k++) dbias[Math.floor(k / (I * J)) % O] += dy.data[k];
    return [dx, summed(x, dkernels, weight.shape), summed(x, dbias, bias.shape)];
  }

  return { y, backward };
}

// ------------------------------------------------------------------------------------- activations

/** An activation: y = f(x), dx = dy slope(x). */
function elementwise(x, f, slope) {
  const y = fill(x, (k) => f(x.data[k]));
  return { y, backward: (dy) => [fill(x, (k) => dy.data[k] * slope(x.data[k]))] };
}

const relu = (x) => elementwise(x, (v) => (v > 0 ? v : 0), reluSlope);
const reluSlope = (v) => (v > 0 ? 1 : 0);

const leakyRelu = (x, slope = 0.01) =>
  elementwise(
    x,
    (v) => (v > 0 ? v : slope * v),
    (v) => (v > 0 ? 1 : slope),
  );

const elu = (x, alpha = 1) =>
  elementwise(
    x,
    (v) => (v > 0 ? v : alpha * Math.expm1(v)),
    (v) => (v > 0 ? 1 : alpha * Math.exp(v)),
  );

const gelu = (x) =>
  elementwise(
    x,
    (v) => v * normalCumulative(v),
    (v) => normalCumulative(v) + v * normalDensity(v),
  );

const silu = (x) =>
  elementwise(
    x,
    (v) => v * sigmoid(v),
    (v) => sigmoid(v) * (1 + v * (1 - sigmoid(v))),
  );

const tanh = (x) => elementwise(x, Math.tanh, (v) => 1 - Math.tanh(v) ** 2);

const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const normalDensity = (v) => Math.exp((-v * v) / 2) / Math.sqrt(2 * Math.PI);

/**
 * The normal distribution function, by a series of positive terms (Abramowitz & Stegun, 1964,
 * 26.2.11).
 */
function normalCumulative(v) {
  if (Math.abs(v) > 9) return v > 0 ? 1 : 0; // to double precision
  let term = v;
  let sum = v;
  for (let n = 3; Math.abs(term) > 1e-17 * Math.abs(sum); n += 2) {
    term *= (v * v) / n;
    sum += term;
  }
  return 0.5 + sum * normalDensity(v);
}

// ----------------------------------------------------------------------------------- normalisation

/**
 * The mean of f over the cells that share statistics, for each set of them.
 * group(n, c) names the set that channel c of image n belongs to.
 */
function averages(x, group, sets, f) {
  const [N, C, H, W] = x.shape;
  const sums = new Float64Array(sets);
  const counts = new Float64Array(sets);
  for (let n = 0; n < N; n++) {
    for (let c = 0; c < C; c++) {
      const start = (n * C + c) * H * W;
      let sum = 0;
      for (let k = start; k < start + H * W; k++) sum += f(k, c);
      sums[group(n, c)] += sum;
      counts[group(n, c)] += H * W;
    }
  }
  return sums.map((sum, set) => sum / counts[set]);
}

/** Mean and variance of each set of cells, in two passes. */
function moments(x, group, sets) {
  const [, C, H, W] = x.shape;
  const setOf = (k) => group(Math.floor(k / (C * H * W)), Math.floor(k / (H * W)) % C);
  const mean = averages(x, group, sets, (k) => x.data[k]);
  const variance = averages(x, group, sets, (k) => (x.data[k] - mean[setOf(k)]) ** 2);
  return { mean, variance };
}

/**
 * y = weight x_hat + bias with x_hat = (x - mean) / sqrt(variance + eps); backward, with d = weight
 * dy, dx = (d - mean(d) - x_hat mean(d x_hat)) / sqrt(variance + eps); both means are 0 where
 * statistics are constants.
 */
function normalise(x, weight, bias, eps, { group, mean, variance, constant }) {
  const [N, C, H, W] = x.shape;
  const area = H * W;
  const deviation = Float64Array.from(variance, (v) => Math.sqrt(v + eps));
  const xHat = zeros(x, x.shape);
  const y = zeros(x, x.shape);
  for (let n = 0; n < N; n++) {
    for (let c = 0; c < C; c++) {
      const set = group(n, c);
      const start = (n * C + c) * area;
      for (let k = start; k < start + area; k++) {
        xHat.data[k] = (x.data[k] - mean[set]) / deviation[set];
        y.data[k] = weight.data[c] * xHat.data[k] + bias.data[c];
      }
    }
  }

  /** The two means of dx, for each set of cells. */
  function gradientMeans(dy) {
    if (constant)
      return { meanD: new Float64Array(mean.length), meanDXHat: new Float64Array(mean.length) };
    const d = (k, c) => weight.data[c] * dy.data[k];
    return {
      meanD: averages(x, group, mean.length, d),
      meanDXHat: averages(x, group, mean.length, (k, c) => d(k, c) * xHat.data[k]),
    };
  }

  function backward(dy) {
    const { meanD, meanDXHat } = gradientMeans(dy);
    const dx = zeros(x, x.shape);
    const dweight = new Float64Array(C);
    const dbias = new Float64Array(C);
    for (let n = 0; n < N; n++) {
      for (let c = 0; c < C; c++) {
        const set = group(n, c);
        const start = (n * C + c) * area;
        for (let k = start; k < start + area; k++) {
          const d = weight.data[c] * dy.data[k];
          dx.data[k] = (d - meanD[set] - xHat.data[k] * meanDXHat[set]) / deviation[set];
          dweight[c] += dy.data[k] * xHat.data[k];
          dbias[c] += dy.data[k];
        }
      }
    }
    return [dx, summed(x, dweight, weight.shape), summed(x, dbias, bias.shape)];
  }

  return { y, backward, details: { group, mean, deviation, xHat, constant, gradientMeans } };
}

/**
 * Give each channel mean 0 and variance 1 over the batch, then a learnt scale and shift.
 * In training the running statistics move, in place; in evaluation they stand in for the batch's.
 */
function batchNorm(x, weight, bias, runningMean, runningVar, training, momentum = 0.1, eps = 1e-5) {
  const group = (n, c) => c;
  if (!training) {
    const statistics = { group, mean: runningMean.data, variance: runningVar.data, constant: true };
    return normalise(x, weight, bias, eps, statistics);
  }
  const channels = x.shape[1];
  const { mean, variance } = moments(x, group, channels);
  const count = x.data.length / channels;
  for (let c = 0; c < channels; c++) {
    runningMean.data[c] += momentum * (mean[c] - runningMean.data[c]);
    runningVar.data[c] += momentum * ((variance[c] * count) / (count - 1) - runningVar.data[c]);
  }
  return normalise(x, weight, bias, eps, { group, mean, variance, constant: false });
}

/**
 * Give each image's every group of channels mean 0 and variance 1, in training and evaluation
 * alike.
 */
function groupNorm(x, weight, bias, groups, eps = 1e-5) {
  const [images, channels] = x.shape;
  const group = (n, c) => n * groups + Math.floor((c * groups) / channels);
  const { mean, variance } = moments(x, group, images * groups);
  return normalise(x, weight, bias, eps, { group, mean, variance, constant: false });
}

// ----------------------------------------------------------------- dropout, pooling, flatten, loss

/** Silence some elements and make up for them: y = mask x, dx = mask dy. */
function dropout(x, mask) {
  const y = fill(x, (k) => mask.data[k] * x.data[k]);
  return { y, backward: (dy) => [fill(x, (k) => mask.data[k] * dy.data[k])], details: { mask } };
}

/** Draw a mask like x: 0 with probability `rate`, else 1 / (1 - rate); in evaluation all ones. */
function drawMask(x, rate, training, random) {
  return fill(x, () => {
    if (!training) return 1;
    return random() < rate ? 0 : 1 / (1 - rate);
  });
}

/** Average each tile of A x B pixels; a remainder at the right and bottom is left out. */
function avgPool2d(x, [A, B]) {
  const [N, C, H, W] = x.shape;
  const I = Math.floor(H / A);
  const J = Math.floor(W / B);
  const y = zeros(x, [N, C, I, J]);
  /** Call visit(output cell, input pixel) for all pixels of all tiles. */
  function eachTilePixel(visit) {
    for (let map = 0; map < N * C; map++) {
      for (let i = 0; i < I * A; i++) {
        for (let j = 0; j < J * B; j++) {
          visit((map * I + Math.floor(i / A)) * J + Math.floor(j / B), (map * H + i) * W + j);
        }
      }
    }
  }
  const sums = new Float64Array(y.data.length);
  eachTilePixel((cell, pixel) => {
    sums[cell] += x.data[pixel];
  });
  for (let cell = 0; cell < sums.length; cell++) y.data[cell] = sums[cell] / (A * B);

  function backward(dy) {
    const dx = zeros(x, x.shape);
    eachTilePixel((cell, pixel) => {
      dx.data[pixel] = dy.data[cell] / (A * B);
    });
    return [dx];
  }

  return { y, backward };
}

/** Lay the maps (N, K, 1, 1) out as logits (N, K). */
function flatten(x) {
  const y = { data: x.data, shape: [x.shape[0], x.data.length / x.shape[0]] };
  return { y, backward: (dy) => [{ data: dy.data, shape: x.shape }] };
}

/** Softmax of each row of logits (N, K), as an array of doubles. */
function softmax({ data, shape: [N, K] }) {
  const p = new Float64Array(N * K);
  for (let n = 0; n < N; n++) {
    const row = data.subarray(n * K, (n + 1) * K);
    // so that exp cannot overflow; softmax is the same
    const highest = row.reduce((a, b) => Math.max(a, b), -Infinity);
    const total = row.reduce((sum, v) => sum + Math.exp(v - highest), 0);
    for (let k = 0; k < K; k++) p[n * K + k] = Math.exp(row[k] - highest) / total;
  }
  return p;
}

/**
 * The mean negative log-likelihood of the labels under softmax(logits); dlogits = (p - target) / N.
 * Shapes: logits (N, K), labels: N whole numbers, loss (); smoothing spreads its share over the K
 * classes.
 */
function crossEntropy(logits, labels, labelSmoothing = 0) {
  const [N, K] = logits.shape;
  const p = softmax(logits);
  const target = Float64Array.from(
    p,
    (_, k) => (k % K === labels[Math.floor(k / K)] ? 1 - labelSmoothing : 0) + labelSmoothing / K,
  );
  let total = 0;
  for (let n = 0; n < N; n++) {
    const row = logits.data.subarray(n * K, (n + 1) * K);
    const highest = row.reduce((a, b) => Math.max(a, b), -Infinity);
    const logTotal = highest + Math.log(row.reduce((sum, v) => sum + Math.exp(v - highest), 0));
    for (let k = 0; k < K; k++) total -= target[n * K + k] * (row[k] - logTotal);
  }
  const loss = zeros(logits, []);
  loss.data[0] = total / N;
  const backward = (dy) => [fill(logits, (k) => (dy.data[0] * (p[k] - target[k])) / N)];
  return { y: loss, backward, details: { p, target } };
}

// ------------------------------------------------------------------------------- the whole network
//
// A network is a list of components {name, kind, options, parameters, buffers}, in the order in
// which they run.

const COMPONENTS = {
  Conv2d: ({ parameters: { weight, bias }, options }, x) =>
    conv2d(x, weight, bias, options.stride, options.padding),
  ReLU: (component, x) => relu(x),
  LeakyReLU: ({ options }, x) => leakyRelu(x, options.negative_slope),
  ELU: ({ options }, x) => elu(x, options.alpha),
  GELU: (component, x) => gelu(x),
  SiLU: (component, x) => silu(x),
  Tanh: (component, x) => tanh(x),
  BatchNorm2d: ({ parameters: { weight, bias }, buffers, options }, x, mode) =>
    batchNorm(
      x,
      weight,
      bias,
      buffers.running_mean,
      buffers.running_var,
      mode.training,
      options.momentum,
      options.eps,
    ),
  GroupNorm: ({ parameters: { weight, bias }, options }, x) =>
    groupNorm(x, weight, bias, options.num_groups, options.eps),
  Dropout: ({ options }, x, mode) => dropout(x, drawMask(x, options.p, mode.training, mode.random)),
  AvgPool2d: ({ options }, x) => avgPool2d(x, options.kernel_size),
};

/**
 * Send images (N, C, H, W) through a network; return one record a component, the last one's output
 * the logits. mode: {training, random, labelSmoothing}; in training running statistics move and
 * masks are drawn.
 */
function propagate(network, images, mode) {
  const records = [];
  let x = images;
  for (const component of network) {
    records.push(
      recordOf(
        component.name,
        component.kind,
        component,
        x,
        COMPONENTS[component.kind](component, x, mode),
      ),
    );
    x = records.at(-1).output;
  }
  records.push(recordOf("flatten", "Flatten", null, x, flatten(x)));
  return records;
}

/**
 * One component's part in the journey; backward fills in the gradient that comes back to its
 * output.
 */
function recordOf(name, kind, component, input, { y, backward, details }) {
  return { name, kind, component, input, output: y, backward, details, gradient: null };
}

/** The records of images whose logits are known, and of the loss for these labels. */
function withLoss(records, labels, mode) {
  const logits = records.at(-1).output;
  const loss = crossEntropy(logits, labels, mode.labelSmoothing);
  return [...records, recordOf("loss", "CrossEntropyLoss", null, logits, loss)];
}

/**
 * Send images (N, C, H, W) through a network to the loss for their labels; return one record a
 * component.
 */
function forward(network, images, labels, mode) {
  return withLoss(propagate(network, images, mode), labels, mode);
}

/**
 * Walk the records back by the chain rule, from d loss / d loss = 1.
 * Fills each record's gradient; returns each parameter's by name, and the images'.
 */
function backward(records) {
  const gradients = {};
  let dy = fill(records.at(-1).output, () => 1);
  for (const record of [...records].reverse()) {
    record.gradient = dy;
    const [dx, dweight, dbias] = record.backward(dy);
    if (dweight) gradients[`${record.name}.weight`] = dweight;
    if (dbias) gradients[`${record.name}.bias`] = dbias;
    dy = dx;
  }
  return { gradients, images: dy };
}

/** The logits (N, K) of images in evaluation mode. */
function logitsOf(network, images) {
  return propagate(network, images, EVALUATION).at(-1).output;
}

const EVALUATION = { training: false, random: Math.random, labelSmoothing: 0 };

/** Each parameter of a network by its name in the state dict. */
function parametersOf(network) {
  const all = {};
  for (const { name, parameters } of network) {
    for (const [key, tensor] of Object.entries(parameters)) all[`${name}.${key}`] = tensor;
  }
  return all;
}

/** One step of plain gradient descent, in place: parameter -= rate gradient. */
function sgdStep(network, gradients, rate) {
  for (const [name, { data }] of Object.entries(parametersOf(network))) {
    const gradient = gradients[name].data;
    for (let k = 0; k < data.length; k++) data[k] -= rate * gradient[k];
  }
}

/** A copy whose parameters and buffers can change without the original's. */
function copyNetwork(network) {
  const copy = (tensors) =>
    Object.fromEntries(
      Object.entries(tensors).map(([key, { data, shape }]) => [key, { data: data.slice(), shape }]),
    );
  return network.map((component) => ({
    ...component,
    parameters: copy(component.parameters),
    buffers: copy(component.buffers),
  }));
}

/**
 * The network with the weights that PyTorch would start from: uniform in +-1/sqrt(fan in), norms at
 * identity.
 */
function freshNetwork(network, random) {
  const fresh = copyNetwork(network);
  for (const { kind, parameters, buffers } of fresh) {
    if (kind === "Conv2d") {
      const [, C, A, B] = parameters.weight.shape;
      const bound = 1 / Math.sqrt(C * A * B);
      for (const { data } of Object.values(parameters))
        data.forEach((_, k) => {
          data[k] = bound * (2 * random() - 1);
        });
    } else if (parameters.weight) {
      parameters.weight.data.fill(1);
      parameters.bias.data.fill(0);
      buffers.running_mean?.data.fill(0);
      buffers.running_var?.data.fill(1);
    }
  }
  return fresh;
}

/** A stream of uniform numbers in [0, 1) that depends on the seed alone (mulberry32). */
function uniformStream(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * For each component the pixels that a cell of its output sees: {size, jump, start}, [vertical,
 * horizontal] each.
 */
function receptiveFields(network) {
  let field = { size: [1, 1], jump: [1, 1], start: [0, 0] };
  return network.map(({ kind, options, parameters }) => {
    const strided = { Conv2d: options.stride, AvgPool2d: options.kernel_size }[kind];
    if (!strided) return field;
    const kernel = kind === "Conv2d" ? parameters.weight.shape.slice(2) : options.kernel_size;
    const padding = options.padding ?? [0, 0];
    const along = (f) => [f(0), f(1)];
    field = {
      size: along((d) => field.size[d] + (kernel[d] - 1) * field.jump[d]),
      jump: along((d) => field.jump[d] * strided[d]),
      start: along((d) => field.start[d] - padding[d] * field.jump[d]),
    };
    return field;
  });
}
