// Learning in the page: one step on the drawing, and training on the page's own images by a worker.
"use strict";

/**
 * How much a network's tensors differ from an earlier state: [name, ||change|| / ||weights||,
 * largest change].
 */
function changesBetween(before, after) {
  const old = parametersOf(before);
  return Object.entries(parametersOf(after)).map(([name, { data, shape }]) => {
    const was = old[name].data;
    let [moved, size, place] = [0, 0, 0];
    for (let k = 0; k < data.length; k++) {
      moved += (data[k] - was[k]) ** 2;
      size += was[k] ** 2;
      if (Math.abs(data[k] - was[k]) > Math.abs(data[place] - was[place])) place = k;
    }
    const share = size ? Math.sqrt(moved / size) : Math.sqrt(moved);
    return { name, share, at: indicesOf(place, shape), from: was[place], to: data[place] };
  });
}

/** A share in percent: with two digits, as a whole number, or as a power of ten. */
function changeInPercent(share) {
  if (share < 1) return `${(100 * share).toPrecision(2)} %`;
  if (share < 100) return `${Math.round(100 * share)} %`;
  return `${(100 * share).toExponential(1)} %`;
}

/** The indices of the place k in a tensor of that shape. */
function indicesOf(k, shape) {
  const indices = [];
  for (const size of [...shape].reverse()) {
    indices.unshift(k % size);
    k = Math.floor(k / size);
  }
  return indices;
}

/** What one step changed, as HTML. */
function changesTable(changes, loss, probability, target) {
  const weights = changes.filter(({ name }) => name.endsWith(".weight"));
  const most = Math.max(...weights.map(({ share }) => share));
  const rows = weights.map(
    ({ name, share, at, from, to }) =>
      `<tr><th scope="row">${name.replace(/\.weight$/, "")}</th>
     <td><span class="track">
       <span class="fill" data-width="${most ? share / most : 0}"></span></span></td>
     <td>${changeInPercent(share)}</td>
     <td><span>[${at.join(", ")}]</span>
       <span>${exactly(from)} → ${exactly(to)}</span></td></tr>`,
  );
  return `<table class="outcome">
    <thead><tr><td></td><th scope="col">before</th><th scope="col">after</th></tr></thead>
    <tbody><tr><th scope="row">loss</th>
    <td>${exactly(loss[0])}</td><td>${exactly(loss[1])}</td></tr>
    <tr><th scope="row">probability of ${target}</th><td>${percent(probability[0])}</td>
    <td>${percent(probability[1])}</td></tr></tbody></table>
    <p class="caption">How much the weights of each component changed, as a share of their size,
    and which one changed most</p>
    <table class="changes"><tbody>${rows.join("")}</tbody></table>`;
}

/** The worker, made from the sources that stand in the page; null where the browser has none. */
function startWorker() {
  const sources = ["engine", "training_worker"].map(
    (id) => document.getElementById(`script-${id}`).textContent,
  );
  try {
    const address = URL.createObjectURL(
      new Blob([...sources, "serve();"], { type: "text/javascript" }),
    );
    return new Worker(address);
  } catch {
    return null;
  }
}

/** Training on the page's images: its buttons and its curves. */
class Learning {
  /** changed: called with the network after each step; failed: with words, when it cannot go on. */
  constructor(root, { network, rate, changed, failed, remember }) {
    Object.assign(this, {
      root,
      network,
      rate,
      changed,
      failed,
      remember,
      running: false,
      generation: 0,
    });
    this.button("start").addEventListener("click", () =>
      this.running ? this.pause() : this.start(),
    );
    this.button("single").addEventListener("click", () => this.single());
    this.restart();
  }

  button(name) {
    return this.root.querySelector(`#${name}`);
  }

  /** Give the images to a worker. */
  async prepare() {
    const { training } = contents;
    const images = await spriteImages(training, training.labels.length);
    const kept = images.length - training.heldOut;
    this.worker = startWorker();
    if (!this.worker) return this.refuse();
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = () => this.refuse();
    this.worker.postMessage({
      kind: "images",
      images: { train: asInput(images.slice(0, kept)), heldOut: asInput(images.slice(kept)) },
      labels: { train: training.labels.slice(0, kept), heldOut: training.labels.slice(kept) },
    });
    this.button("start").disabled = this.button("single").disabled = false;
  }

  /** Without a worker the rest of the page still works. */
  refuse() {
    this.worker = null;
    this.button("start").disabled = this.button("single").disabled = true;
    this.root.querySelector("#progress").textContent =
      "This browser has no workers to train in; steps on the drawing still work.";
  }

  /** Begin the curves anew. */
  restart() {
    Object.assign(this, {
      step: 0,
      lines: { batches: [], heldOut: [] },
      accuracies: { batches: [], heldOut: [] },
    });
    this.draw();
    this.root.querySelector("#progress").textContent = "Not trained here yet.";
  }

  load() {
    this.remember();
    const { step, generation } = this;
    this.worker.postMessage({
      kind: "load",
      network: this.network(),
      rate: this.rate(),
      step,
      generation,
    });
  }

  /** Stop, and take no notice of what the worker may still have to say. */
  interrupt() {
    if (this.running) this.pause();
    this.generation += 1;
  }

  /** Go on with the rate that is set now. */
  changeRate() {
    this.worker?.postMessage({ kind: "rate", rate: this.rate() });
  }

  start() {
    this.load();
    this.running = true;
    this.root.querySelector("#progress").textContent = "The first step is on its way.";
    this.worker.postMessage({ kind: "start" });
    this.label();
  }

  pause() {
    this.running = false;
    this.worker?.postMessage({ kind: "pause" });
    this.label();
  }

  single() {
    this.pause();
    this.load();
    this.worker.postMessage({ kind: "step" });
  }

  label() {
    this.button("start").textContent = this.running ? "Pause" : "Train";
  }

  hear(message) {
    if (message.generation !== this.generation) return;
    if (message.kind === "evaluation") {
      this.lines.heldOut.push([message.step, message.loss]);
      this.accuracies.heldOut.push([message.step, message.accuracy]);
      this.draw();
    }
    if (message.kind === "step") this.onStep(message);
  }

  onStep({ step, loss, accuracy, finite, network }) {
    this.step = step;
    this.lines.batches.push([step, loss]);
    this.accuracies.batches.push([step, accuracy]);
    this.draw();
    this.root.querySelector("#progress").textContent =
      `Step ${step}, ${((step * BATCH) / this.trainingCount).toFixed(1)} epochs: ` +
      `loss ${exactly(loss)}, ` +
      `${percent(accuracy)} of the batch right`;
    this.changed(network, step);
    if (finite) return;
    this.running = false;
    this.label();
    this.failed(
      `The loss or a weight is no longer a finite number at step ${step}: the rate is too high.`,
    );
  }

  get trainingCount() {
    return contents.training.labels.length - contents.training.heldOut;
  }

  draw() {
    const named = ({ batches, heldOut }) => [
      { name: "batches", points: batches },
      { name: "held-out", points: heldOut },
    ];
    const loss = this.root.querySelector("#loss-chart");
    drawChart(loss, named(this.lines), { low: 0, high: null, format: (v) => v.toPrecision(2) });
    const accuracy = this.root.querySelector("#accuracy-chart");
    drawChart(accuracy, named(this.accuracies), { low: 0, high: 1, format: (v) => `${100 * v} %` });
  }
}
