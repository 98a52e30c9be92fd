// Training on many images, away from the page, so that it stays alive: batches, steps and
// evaluations. In the page this file only defines the class; a worker made from it and engine.js
// calls `serve`.
"use strict";

const BATCH = 25; // images a step
const EVALUATE_EVERY = 10; // steps

/** Trains a network step by step and says through `tell` what came of each. */
class Training {
  /** images {train, heldOut}: tensors (N, 1, H, W); labels likewise. */
  constructor({ images, labels }, tell) {
    Object.assign(this, { images, labels, tell });
    this.random = uniformStream(1);
    this.running = false;
    this.order = [];
  }

  /**
   * Take over the weights to go on from; generation comes back with each answer, so that late ones
   * are known.
   */
  load({ network, rate, step, generation }) {
    Object.assign(this, { network, rate, step, generation });
    if (step === 0) this.evaluate();
  }

  /** Train one batch in training mode. */
  takeStep() {
    const chosen = this.nextBatch();
    const batch = picked(this.images.train, chosen);
    const labels = chosen.map((n) => this.labels.train[n]);
    const mode = { training: true, random: this.random, labelSmoothing: 0 };
    const records = forward(this.network, batch, labels, mode);
    sgdStep(this.network, backward(records).gradients, this.rate);
    this.step += 1;
    const loss = records.at(-1).output.data[0];
    const finite = Number.isFinite(loss) && hasFiniteWeights(this.network);
    if (!finite) this.running = false;
    const accuracy = shareRight(records.at(-1).input, labels);
    this.answer({ kind: "step", loss, accuracy, finite, network: this.network });
    if (finite && this.step % EVALUATE_EVERY === 0) this.evaluate();
  }

  /** Loss and accuracy on the held-out images, in evaluation mode. */
  evaluate() {
    const { heldOut } = this.images;
    const records = forward(this.network, heldOut, this.labels.heldOut, EVALUATION);
    const loss = records.at(-1).output.data[0];
    const accuracy = shareRight(records.at(-1).input, this.labels.heldOut);
    this.answer({ kind: "evaluation", loss, accuracy });
  }

  answer(message) {
    this.tell({ ...message, step: this.step, generation: this.generation });
  }

  /** The next images of a random order, which is drawn anew when it is used up. */
  nextBatch() {
    if (this.order.length < BATCH) this.order = shuffled(this.images.train.shape[0], this.random);
    return this.order.splice(0, BATCH);
  }

  /** Step after step until told to stop; other messages are heard in between. */
  run() {
    if (!this.running) return;
    this.takeStep();
    setTimeout(() => this.run(), 0);
  }

  /** Do what a message asks: "load", "start", "pause", "step" or "rate". */
  hear(message) {
    if (message.kind === "load") this.load(message);
    if (message.kind === "rate") this.rate = message.rate;
    if (message.kind === "step") this.takeStep();
    if (message.kind === "pause") this.running = false;
    if (message.kind === "start" && !this.running) {
      this.running = true;
      this.run();
    }
  }
}

/** The images at some places of a tensor (N, C, H, W). */
function picked({ data, shape: [, ...sizes] }, places) {
  const size = sizes.reduce((a, b) => a * b, 1);
  const chosen = new data.constructor(places.length * size);
  places.forEach((place, n) =>
    chosen.set(data.subarray(place * size, (place + 1) * size), n * size),
  );
  return { data: chosen, shape: [places.length, ...sizes] };
}

/** The numbers below `count` in a random order (Fisher & Yates). */
function shuffled(count, random) {
  const order = Array.from({ length: count }, (_, n) => n);
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

/** The class with the highest of K logits of image n. */
function classRead({ data, shape: [, K] }, n = 0) {
  const row = data.subarray(n * K, (n + 1) * K);
  return row.indexOf(row.reduce((a, b) => Math.max(a, b), -Infinity));
}

/** The share of images that are read as their labels. */
function shareRight(logits, labels) {
  return labels.filter((label, n) => classRead(logits, n) === label).length / labels.length;
}

/** Whether all parameters of a network are finite. */
function hasFiniteWeights(network) {
  return Object.values(parametersOf(network)).every(({ data }) => data.every(Number.isFinite));
}

/** What the worker does: the first message brings the images, the others say what to do. */
function serve() {
  let training = null;
  self.onmessage = ({ data }) => {
    if (data.kind === "images")
      training = new Training(data, (message) => self.postMessage(message));
    else training.hear(data);
  };
}
