// The state of the page, and how its parts hang together.
"use strict";

const RUN = decodedNetwork(contents.network); // as trained; never changed
const REMEMBERED = 20; // states of the network that can be undone

const page = {
  network: RUN,
  weights: "the run's", // which weights are in use, in words
  past: [], // earlier [network, weights]
  pixels: new Uint8Array(FIELD * FIELD),
  isBlank: true,
  label: null, // of a test image
  target: null, // chosen by the person; otherwise the label or what is read
  training: false,
  maskSeed: 1,
  journey: [],
  selection: { index: 1, cell: [0, 12, 12] },
};

const element = (id) => document.getElementById(id);

/** Compute everything anew and show it. */
function refresh() {
  const journey = travel(page.network);
  Object.assign(page, { read: journey.read, aim: journey.aim, journey: stopsOf(journey) });
  page.probabilities = page.journey.at(-1).details.p;
  showResult();
  showMaps();
  showPictures();
  showArithmetic();
}

let asked = false;
/** Refresh before the next picture of the screen, once for any number of changes. */
function refreshSoon() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    refresh();
  });
}

// ------------------------------------------------------------------------------ picture and result

function onDrawing() {
  let digits = [];
  try {
    if (pad.isEmpty) throw new PictureError("");
    digits = findDigits(pad.picture);
    page.pixels = largestDigit(digits).pixels;
    page.isBlank = false;
  } catch (error) {
    if (!(error instanceof PictureError)) throw error;
    page.pixels = new Uint8Array(FIELD * FIELD);
    page.isBlank = true;
    // the next drawing has not been given a class
    page.target = null;
  }
  page.label = null;
  say(wordsOnSeveral(digits));
  refreshSoon();
}

/** What to say of a picture with more than one digit: the page looks at one. */
function wordsOnSeveral(digits) {
  if (digits.length < 2) return "";
  return `${digits.length} digits found; the network sees the largest.`;
}

/** Take pixels like MNIST's as the picture, with their label where it is known. */
function showPicture(pixels, label) {
  Object.assign(page, { pixels, label, target: null, isBlank: false });
  pad.start(pixels);
  say("");
  refresh();
}

async function takeFile(file) {
  try {
    const digits = await digitsOfFile(file);
    showPicture(largestDigit(digits).pixels, null);
    say(wordsOnSeveral(digits));
  } catch (error) {
    if (!(error instanceof PictureError)) throw error;
    say(`${error.message}.`);
  }
}

/**
 * Put a message on the page, with a button to undo the last change of the weights where that helps.
 */
function say(words, withUndo = false) {
  element("message-words").textContent = words;
  element("message").hidden = words === "";
  element("message-undo").hidden = !withUndo;
}

function showResult() {
  const { probabilities, read, aim } = page;
  bars.show(page.isBlank ? null : probabilities, read, aim);
  element("read").innerHTML = resultLine();
  const chosen = page.target !== null;
  element("automatic").hidden = !chosen;
  const why = page.label === null ? "what is read" : "its label";
  element("aim").textContent = chosen
    ? `The gradient asks: what would make this a ${nameOf(aim)}?`
    : `The gradient is for ${nameOf(aim)}, ${why}. Choose another class to see its gradient.`;
  element("loss").textContent = page.isBlank
    ? ""
    : `loss ${exactly(page.journey.at(-1).output.data[0])}`;
  element("weights").textContent = page.weights;
  element("undo-weights").disabled = page.past.length === 0;
  element("step-target").textContent = nameOf(aim);
}

function resultLine() {
  if (page.isBlank) return "Nothing drawn yet";
  const best = page.probabilities[page.read];
  if (!Number.isFinite(best)) return "The scores are not finite numbers";
  const label =
    page.label === null ? "" : ` <span class="label">labelled ${nameOf(page.label)}</span>`;
  return `Read as <strong>${nameOf(page.read)}</strong> ${percent(best)}${label}`;
}

/** The picture as the network sees it, with the receptive field, and the gradient over it. */
function showPictures() {
  const [first] = page.journey;
  prepared.show({ data: page.pixels, shape: [1, 1, FIELD, FIELD] }, { low: 0, high: 255 });
  drawOverInk(element("input-gradient"), page.pixels, first.gradient.data, first.gradientRange);
}

/** Draw a gradient in its colours, darkened where there is ink. */
function drawOverInk(canvas, pixels, gradient, range) {
  [canvas.width, canvas.height] = [FIELD, FIELD];
  const context = canvas.getContext("2d");
  const image = context.createImageData(FIELD, FIELD);
  const inkColour = scaleOf("greys")[STEPS - 1];
  pixels.forEach((v, k) => {
    const inkShare = 0.3 * (v / 255);
    const colour = colourOf(gradient[k], range, "diverging");
    const blend = colour.map((part, d) => (1 - inkShare) * part + inkShare * inkColour[d]);
    image.data.set([...blend, 255], 4 * k);
  });
  context.putImageData(image, 0, 0);
}

// ----------------------------------------------------------------------------------- setting it up

function setUpInput() {
  element("undo").addEventListener("click", () => pad.undo());
  element("clear").addEventListener("click", () => pad.clear());
  element("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) takeFile(file);
  });
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => event.preventDefault());
  }
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file) takeFile(file);
  });
  element("automatic").addEventListener("click", () => {
    page.target = null;
    refresh();
    document.querySelector("#bars input:checked").focus();
  });
}

function setUpView() {
  for (const radio of document.querySelectorAll("[name=mode]")) {
    radio.addEventListener("change", () => {
      page.training = radio.value === "training";
      const hasDropout = page.network.some(({ kind }) => kind === "Dropout");
      element("new-masks").hidden = !(page.training && hasDropout);
      refresh();
    });
  }
  element("new-masks").addEventListener("click", () => {
    page.maskSeed += 1;
    refresh();
  });
  page.showGradients = element("gradients").checked;
  element("gradients").addEventListener("change", () => {
    page.showGradients = element("gradients").checked;
    element("blocks").classList.toggle("forward-only", !page.showGradients);
    refresh();
  });
  darkness.addEventListener("change", refresh);
  new ResizeObserver(() => {
    for (const { strip, gradientStrip, kernels } of rows) {
      for (const own of [strip, gradientStrip, kernels?.strip]) own?.forgetRoom();
    }
    refreshSoon();
  }).observe(element("blocks"));
}

function setUpLearning() {
  for (const id of ["rate", "training-rate"]) {
    element(id).addEventListener("input", () => showRate(id));
    showRate(id);
  }
  element("training-rate").addEventListener("input", () => learning.changeRate());
  element("step").addEventListener("click", stepOnDrawing);
  for (const id of ["undo-weights", "message-undo"])
    element(id).addEventListener("click", undoWeights);
  const begin = (id, make, weights) =>
    element(id).addEventListener("click", () => {
      learning.interrupt();
      remember();
      learning.restart();
      element("outcome").innerHTML = "";
      say("");
      use(make(), weights);
    });
  begin("reset", () => RUN, "the run's");
  begin("fresh", () => freshNetwork(RUN, uniformStream(Date.now())), "fresh, not trained");
  setUpEpochs(element("epochs"), RUN, (name, network) => {
    learning.interrupt();
    if (!page.weights.startsWith("the run's ")) remember();
    use(network, `the run's ${name}`);
  });
}

const pad = new Pad(element("pad"), element("pen"), onDrawing);
const prepared = new MapStrip(element("prepared"), "greys", 112);
const fields = receptiveFields(RUN);
const bars = new ProbabilityBars(element("bars"), contents.classes, (k) => {
  page.target = k;
  refresh();
});
const inspector = new Inspector(element("arithmetic"), select);
const learning = new Learning(element("learning"), {
  network: () => page.network,
  rate: () => rateOf("training-rate"),
  remember,
  changed: (network, step) => use(network, `trained here for ${step} step${step === 1 ? "" : "s"}`),
  failed: (words) => say(words, true),
});

async function setUp() {
  const first = await setUpPicker();
  Object.assign(page, { ...first, isBlank: false, aim: first.label });
  page.journey = stopsOf(travel(page.network));
  buildRows();
  inspector.nameStops(page.journey);
  setUpInput();
  setUpView();
  setUpPanels();
  setUpLearning();
  showPicture(first.pixels, first.label);
  await learning.prepare();
  document.documentElement.dataset.ready = performance.now();
}

setUp();
