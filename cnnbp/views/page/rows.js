// The network as rows of maps: one for each block, in it one for each component, and under each its
// gradient.
"use strict";

const rows = []; // for each stop {strip, gradientStrip, outputRange, gradientRange}

/** Make a row for each block and in it a part for each component; the structure is the run's. */
function buildRows() {
  let block = null;
  page.journey.forEach((stop, index) => {
    const name = blockOf(stop);
    if (name !== block?.dataset.name) {
      block = document.createElement("section");
      block.className = "block";
      block.dataset.name = name;
      block.innerHTML = `<h3>${escaped(name)} <span class="shape"></span></h3>`;
      element("blocks").append(block);
    }
    const shape = stop.shown.shape.slice(1).join(" × ");
    block.querySelector(".shape").textContent = shape;
    block.append(componentRow(stop, index));
  });
}

/** The part of the network that a stop belongs to: conv1.0 for conv1.0.norm. */
function blockOf({ name, component }) {
  if (!component) return name === "loss" ? "probabilities" : name;
  return name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : name;
}

function componentRow(stop, index) {
  const row = document.createElement("div");
  row.className = "component";
  const [, C, H, W] = stop.shown.shape;
  const size = `${C} maps of ${H} by ${W} cells`;
  row.innerHTML = `<h4>${titleOf(stop)} <span class="does">${EQUATIONS[stop.kind].does}</span></h4>
    <div class="way"><p class="range">output <span></span></p><div class="strip">
    <canvas tabindex="0" role="application" aria-label="Output of ${escaped(stop.name)}, ${size}.
      Arrow keys move from cell to cell, Enter opens the arithmetic."></canvas></div></div>
    <div class="way backward"><p class="range">gradient <span></span></p><div class="strip">
    <canvas role="img" aria-label="Gradient of the loss at the output of
      ${escaped(stop.name)}, ${size}."></canvas>
    </div></div>`;
  const [canvas, gradientCanvas] = row.querySelectorAll("canvas");
  const [range, gradientRange] = row.querySelectorAll(".range span");
  const parts = {
    strip: new MapStrip(canvas, "greys"),
    gradientStrip: new MapStrip(gradientCanvas, "diverging"),
    range,
    gradientRange,
  };
  if (!stop.shownGradient) row.querySelector(".backward").remove();
  if (stop.kind === "Conv2d" && stop.component.parameters.weight.shape[1] === 1) {
    parts.kernels = kernelsRow(row, stop);
  }
  rows.push(parts);
  listenToStrip(parts.strip, index);
  if (stop.shownGradient) listenToStrip(parts.gradientStrip, index);
  return row;
}

/** The kernels of a convolution that reads a single map, which are pictures themselves. */
function kernelsRow(row, { name }) {
  const way = document.createElement("div");
  way.className = "way";
  way.innerHTML = `<p class="range">kernels <span></span></p><div class="strip">
    <canvas role="img" aria-label="The kernels of ${escaped(name)}."></canvas></div>`;
  row.querySelector(".way").before(way);
  return {
    strip: new MapStrip(way.querySelector("canvas"), "diverging"),
    range: way.querySelector("span"),
  };
}

function titleOf({ kind, component }) {
  const { title } = EQUATIONS[kind];
  if (kind === "Conv2d") {
    const [, , A, B] = component.parameters.weight.shape;
    const {
      stride: [s],
    } = component.options;
    return `${title} ${A} × ${B}${s > 1 ? `, stride ${s}` : ""}`;
  }
  if (kind === "Dropout") return `${title}, rate ${component.options.p}`;
  return title;
}

const escaped = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);

function showMaps() {
  page.journey.forEach((stop, index) => {
    const { strip, gradientStrip, range, gradientRange, kernels } = rows[index];
    strip.show(stop.shown, stop.range);
    range.textContent = `${briefly(stop.range.low)} to ${briefly(stop.range.high)}`;
    if (kernels) {
      const {
        data,
        shape: [O, , A, B],
      } = stop.component.parameters.weight;
      const own = symmetricRangeOf(data);
      kernels.strip.show({ data, shape: [1, O, A, B] }, own);
      kernels.range.textContent = `± ${briefly(own.high)}`;
    }
    if (!stop.shownGradient || !page.showGradients) return;
    gradientStrip.show(stop.shownGradient, stop.gradientRange);
    gradientRange.textContent = `± ${briefly(stop.gradientRange.high)}`;
  });
}

/**
 * Pointing at a cell shows its arithmetic while the pointer is there; a click or the keyboard
 * chooses it.
 */
function listenToStrip(strip, index) {
  const { canvas } = strip;
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    const cell = strip.cellAt(event);
    if (cell) showArithmetic({ index, cell });
  });
  canvas.addEventListener("pointerleave", () => showArithmetic());
  canvas.addEventListener("click", (event) => {
    const cell = strip.cellAt(event);
    if (!cell) return;
    select({ index, cell });
    openPanel("arithmetic");
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") return openPanel("arithmetic");
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    const start = page.selection.index === index ? page.selection.cell : null;
    const cell = start ? strip.cellBeyond(start, event.key) : [0, 0, 0];
    if (cell) select({ index, cell });
  });
}

function select(selection) {
  page.selection = selection;
  showArithmetic();
}

/**
 * Show the arithmetic of a selection, by default of the one that was chosen, and mark it
 * everywhere.
 */
function showArithmetic(selection = page.selection) {
  const { index, cell } = selection;
  rows.forEach(({ strip, gradientStrip }, row) => {
    const marked = row === index ? cell : null;
    if (strip.cell !== marked) strip.mark(marked);
    if (page.journey[row].shownGradient && gradientStrip.cell !== marked)
      gradientStrip.mark(marked);
  });
  inspector.show(page.journey, selection);
  showField(fieldOf(selection));
}

/** The rectangle of the picture that a cell sees. */
function fieldOf({ index, cell: [, row, column] }) {
  const stop = page.journey[index];
  if (stop.kind === "CrossEntropyLoss") return { top: 0, left: 0, height: FIELD, width: FIELD };
  const one = { size: [1, 1], jump: [1, 1], start: [0, 0] };
  const { size, jump, start } = index === 0 ? one : fields[index - 1];
  const along = (d, place) => {
    const from = start[d] + place * jump[d];
    return [Math.max(0, from), Math.min(FIELD, from + size[d])];
  };
  const [top, bottom] = along(0, row);
  const [left, right] = along(1, column);
  return { top, left, height: bottom - top, width: right - left };
}

function showField({ top, left, height, width }) {
  const share = (pixels) => `${(100 * pixels) / FIELD}%`;
  for (const frame of document.querySelectorAll(".field")) {
    Object.assign(frame.style, {
      top: share(top),
      left: share(left),
      height: share(height),
      width: share(width),
    });
  }
  element("field-words").textContent = `The cell sees ${height} × ${width} pixels of the picture.`;
}
