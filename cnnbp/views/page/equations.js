// What each kind of component is called, its equations forward and backward, and where they come
// from. The symbols are those of cnnbp/model/backprop.py.
"use strict";

/** A symbol with indices: of("y", "o,i,j"). */
const of = (symbol, index) => `<i>${symbol}</i><sub>${index}</sub>`;

/** A quotient. */
const over = (above, below) =>
  `<span class="quotient"><span>${above}</span><span>${below}</span></span>`;

/** What the symbols of every equation stand for; `symbols` below are those of a component. */
const SYMBOLS = `<i>x</i>: input, <i>y</i>: output,
  <i>dx</i>, <i>dy</i>: gradients of the loss with respect to them`;

const NORMALISE = {
  forward: `<i>y</i> = weight<sub>c</sub> · <i>x̂</i> + bias<sub>c</sub>, &ensp;
    <i>x̂</i> = ${over("<i>x</i> − mean", "deviation")}, &ensp; deviation = √(variance + eps)`,
  backward: `<i>d</i> = weight<sub>c</sub> · <i>dy</i>, &ensp;
    <i>dx</i> =
    ${over("<i>d</i> − mean(<i>d</i>) − <i>x̂</i> · mean(<i>d x̂</i>)", "deviation")}`,
  symbols: "c: map, eps: a small number, so that nothing is divided by 0",
};

const EQUATIONS = {
  Input: {
    title: "Input",
    does: "The pixels, shifted and scaled so that the training set has mean 0 and deviation 1.",
    forward: `<i>y</i> = ${over("pixel − 255 · mean", "255 · deviation")}`,
    backward: "",
    source: "",
  },
  Conv2d: {
    title: "Convolution",
    does: "Each kernel slides over all maps and takes the inner product at every stop.",
    forward: `${of("y", "o,i,j")} = bias<sub>o</sub> + Σ<sub>c,a,b</sub>
      weight<sub>o,c,a,b</sub> · ${of("x", "c, s·i+a−p, s·j+b−p")}`,
    backward: `${of("dx", "c,u,v")} = Σ<sub>o,a,b</sub>
      weight<sub>o,c,a,b</sub> · ${of("dy", "o,i,j")}
      &ensp; where &ensp; s·i+a−p = u, &ensp; s·j+b−p = v`,
    symbols: `o: output map, (i, j): its cell, c: input map, (u, v): its cell,
      (a, b): cell of the kernel, s: stride, p: padding`,
    source: "Goodfellow, Bengio & Courville, Deep Learning, 2016, sections 9.1 and 9.5",
  },
  ReLU: {
    title: "ReLU",
    does: "What is negative becomes 0.",
    forward: "<i>y</i> = max(<i>x</i>, 0)",
    backward: "<i>dx</i> = <i>dy</i> where <i>x</i> &gt; 0, else 0",
    source: "Nair & Hinton, 2010",
  },
  LeakyReLU: {
    title: "Leaky ReLU",
    does: "What is negative is weakened.",
    forward: "<i>y</i> = <i>x</i> where <i>x</i> &gt; 0, else slope · <i>x</i>",
    backward: "<i>dx</i> = <i>dy</i> where <i>x</i> &gt; 0, else slope · <i>dy</i>",
    source: "Maas, Hannun & Ng, 2013",
  },
  ELU: {
    title: "ELU",
    does: "What is negative bends towards −α.",
    forward: "<i>y</i> = <i>x</i> where <i>x</i> &gt; 0, else α (e<sup>x</sup> − 1)",
    backward: "<i>dx</i> = <i>dy</i> where <i>x</i> &gt; 0, else <i>dy</i> · (<i>y</i> + α)",
    source: "Clevert, Unterthiner & Hochreiter, 2016",
  },
  GELU: {
    title: "GELU",
    does: "Each value is weighed with the normal distribution.",
    symbols: "Φ, φ: distribution and density of the standard normal",
    forward: "<i>y</i> = <i>x</i> Φ(<i>x</i>)",
    backward: "<i>dx</i> = <i>dy</i> · (Φ(<i>x</i>) + <i>x</i> φ(<i>x</i>))",
    source: "Hendrycks & Gimpel, 2016",
  },
  SiLU: {
    title: "SiLU",
    does: "Each value opens its own gate.",
    forward: "<i>y</i> = <i>x g</i> with <i>g</i> = sigmoid(<i>x</i>)",
    backward: "<i>dx</i> = <i>dy</i> · <i>g</i> (1 + <i>x</i> (1 − <i>g</i>))",
    source: "Elfwing, Uchibe & Doya, 2018",
  },
  Tanh: {
    title: "Tanh",
    does: "Each value is squashed into (−1, 1).",
    forward: "<i>y</i> = tanh(<i>x</i>)",
    backward: "<i>dx</i> = <i>dy</i> · (1 − <i>y</i><sup>2</sup>)",
    source: "",
  },
  BatchNorm2d: {
    title: "Batch norm",
    does: "Each map gets mean 0 and variance 1, then a learnt scale and shift.",
    ...NORMALISE,
    source: "Ioffe & Szegedy, 2015, algorithm 1 and section 3",
  },
  GroupNorm: {
    title: "Group norm",
    does: "Each group of maps gets mean 0 and variance 1, then a learnt scale and shift.",
    ...NORMALISE,
    source: "Wu & He, 2018, section 3",
  },
  Dropout: {
    title: "Dropout",
    does: "In training some cells are silenced, the others strengthened; in evaluation none.",
    forward: "<i>y</i> = mask · <i>x</i>",
    backward: "<i>dx</i> = mask · <i>dy</i>",
    source: "Srivastava et al., 2014, section 4, in its inverted form",
  },
  AvgPool2d: {
    title: "Average pool",
    does: "Each tile is averaged; with a tile as large as the map, to one score a class.",
    symbols: "c: map, (i, j): cell of the output",
    forward: `${of("y", "c,i,j")} = mean of ${of("x", "c")} over the tile`,
    backward: `<i>dx</i> = ${over("<i>dy</i>", "cells in the tile")}:
      every cell gets the same share`,
    source: "Lin, Chen & Yan, 2014, section 3.2",
  },
  Flatten: {
    title: "Logits",
    does: "One score for each class.",
    forward: "<i>y</i><sub>k</sub> = <i>x</i><sub>k</sub>",
    backward: "<i>dx</i><sub>k</sub> = <i>dy</i><sub>k</sub>",
    symbols: "k: class",
    source: "",
  },
  CrossEntropyLoss: {
    title: "Softmax and loss",
    does: "Scores become probabilities; the loss is minus the logarithm of the target's.",
    forward: `<i>p</i><sub>k</sub> =
      ${over("exp(<i>x</i><sub>k</sub>)", "Σ<sub>j</sub> exp(<i>x</i><sub>j</sub>)")},
      &ensp; loss = −log <i>p</i><sub>target</sub>`,
    backward: `<i>dx</i><sub>k</sub> = <i>p</i><sub>k</sub> − target<sub>k</sub>,
      &ensp; target<sub>k</sub> = 1 for the target, else 0`,
    symbols: "j, k: classes, <i>p</i>: probability",
    source: "Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3.4",
  },
};

/** A number for a narrow place: two or three digits. */
function briefly(value) {
  if (!Number.isFinite(value)) return String(value).replace("Infinity", "∞");
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 1000)
    return minus(String(Number(value.toPrecision(size < 0.1 ? 2 : 3))));
  return minus(value.toExponential(0));
}

/** A number with four digits that count. */
function exactly(value) {
  if (!Number.isFinite(value)) return String(value).replace("Infinity", "∞");
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 100000) return minus(value.toPrecision(4));
  return minus(value.toExponential(3));
}

/** A number with a minus sign instead of a hyphen. */
const minus = (text) => text.replaceAll("-", "−");
