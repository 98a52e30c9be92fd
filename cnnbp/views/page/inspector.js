// The arithmetic of one chosen cell: where it lies, what it sees, and the numbers forward and
// backward.
"use strict";

const LARGE = 168; // side of the enlarged map, in CSS pixels

/** The panel; a selection is {index, cell}: which stop of the journey, which [map, row, column]. */
class Inspector {
  /** choose: called with the selection that somebody makes here. */
  constructor(root, choose) {
    Object.assign(this, { root, choose, shares: {} });
    this.stops = root.querySelector("#stop");
    this.numbers = ["map", "row", "column"].map((name) => root.querySelector(`#${name}`));
    this.enlarged = new MapStrip(root.querySelector("#enlarged"), "greys", LARGE);
    this.enlargedGradient = new MapStrip(
      root.querySelector("#enlarged-gradient"),
      "diverging",
      LARGE,
    );
    this.stops.addEventListener("change", () => this.onStop());
    for (const [d, input] of this.numbers.entries()) {
      input.addEventListener("input", () => this.onNumber());
      // what lies outside the map is told by the cell that is shown
      input.addEventListener("change", () => (input.value = this.selection.cell[d]));
    }
    for (const strip of [this.enlarged, this.enlargedGradient]) this.listen(strip);
    root.querySelector("#accounts").addEventListener("click", (event) => this.onShare(event));
  }

  /** Name the stops of a journey. */
  nameStops(journey) {
    this.stops.replaceChildren(
      ...journey.map(
        ({ name, kind, component }, index) =>
          new Option(`${EQUATIONS[kind].title}${component ? ` (${name})` : ""}`, index),
      ),
    );
  }

  listen(strip) {
    const whole = ([, row, column]) => [this.selection.cell[0], row, column];
    strip.canvas.addEventListener("click", (event) => {
      const cell = strip.cellAt(event);
      if (cell) this.choose({ index: this.selection.index, cell: whole(cell) });
    });
    strip.canvas.addEventListener("keydown", (event) => {
      if (!event.key.startsWith("Arrow")) return;
      event.preventDefault();
      const cell = strip.cellBeyond([0, ...this.selection.cell.slice(1)], event.key);
      if (cell) this.choose({ index: this.selection.index, cell: whole(cell) });
    });
  }

  /** Show the same place of another map, as far as that has it. */
  onStop() {
    const index = Number(this.stops.value);
    const sizes = this.journey[index].shown.shape.slice(1);
    const cell = this.selection.cell.map((place, d) => Math.min(place, sizes[d] - 1));
    this.choose({ index, cell });
  }

  onNumber() {
    const sizes = this.sizes;
    const cell = this.numbers.map((input, d) => {
      const value = Math.round(Number(input.value));
      return Math.min(sizes[d] - 1, Math.max(0, Number.isFinite(value) ? value : 0));
    });
    this.choose({ index: this.selection.index, cell });
  }

  onShare(event) {
    const button = event.target.closest("[data-share]");
    if (!button) return;
    this.shares[button.dataset.way] = Number(button.dataset.share);
    this.show(this.journey, this.selection);
    const again = `[data-way="${button.dataset.way}"][data-share="${button.dataset.share}"]`;
    this.root.querySelector(again)?.focus();
  }

  get sizes() {
    return this.journey[this.selection.index].shown.shape.slice(1);
  }

  /**
   * Show the arithmetic of a selection; the parts that were chosen stay chosen while the place is
   * the same.
   */
  show(journey, selection) {
    if (this.selection?.index !== selection.index) this.shares = {};
    Object.assign(this, { journey, selection });
    const { index, cell } = selection;
    const stop = journey[index];
    this.stops.value = index;
    this.numbers.forEach((input, d) => {
      input.max = this.sizes[d] - 1;
      if (document.activeElement !== input) input.value = cell[d];
    });
    this.showMaps(stop, cell);
    const back = journey[index + 1];
    const parts = [section("forward", stop.kind, forwardAccount(stop, cell, this.shares.forward))];
    if (back)
      parts.push(
        section("backward", back.kind, backwardAccount(back, cell, this.shares.backward), stop),
      );
    this.root.querySelector("#accounts").innerHTML = parts.join("");
    for (const element of this.root.querySelectorAll("#accounts [data-value]")) tint(element);
  }

  showMaps(stop, [map, row, column]) {
    const one = (tensor) => {
      const [, , H, W] = tensor.shape;
      return { data: tensor.data.subarray(map * H * W, (map + 1) * H * W), shape: [1, 1, H, W] };
    };
    const single = stop.shown.shape[2] * stop.shown.shape[3] === 1; // nothing to point at
    this.root.querySelector(".pictures").hidden = single;
    if (single) return;
    this.enlarged.show(one(stop.shown), stop.range);
    this.enlarged.mark([0, row, column]);
    this.enlargedGradient.show(one(stop.shownGradient), stop.gradientRange);
    this.enlargedGradient.mark([0, row, column]);
  }
}

const WAYS = {
  forward: "Forward: how this value came about",
  backward: "Backward: how the gradient came back",
};

/** One account as HTML, the equation above the numbers. */
function section(way, kind, account) {
  const { title, source, symbols, [way]: equation } = EQUATIONS[kind];
  const through =
    way === "backward" ? `<p class="through">through the next component: ${title}</p>` : "";
  const parts = [
    `<section class="account ${way}"><h3>${WAYS[way]}</h3>${through}
      <p class="equation">${equation}</p>`,
  ];
  const meanings = way === "forward" ? [SYMBOLS, symbols] : [symbols];
  if (meanings.some(Boolean))
    parts.push(`<p class="symbols">${meanings.filter(Boolean).join(", ")}</p>`);
  if (account.shares && account.shares.values.length > 1)
    parts.push(sharesTable(way, account.shares));
  if (account.tables)
    parts.push(`<div class="tables">${account.tables.map(numbersTable).join("")}</div>`);
  parts.push(termsTable(account.terms));
  if (account.note) parts.push(`<p class="note">${capitalised(account.note)}.</p>`);
  if (source) parts.push(`<p class="source">${source.replace("&", "&amp;")}</p>`);
  return `${parts.join("")}</section>`;
}

const capitalised = (text) => text[0].toUpperCase() + text.slice(1);

/** What each map gave to the sum; a button shows its part in full. */
function sharesTable(way, { values, shown }) {
  const most = Math.max(...values.map(Math.abs));
  const buttons = values.map(
    (value, map) =>
      `<button type="button" data-way="${way}" data-share="${map}" data-value="${value}"
        data-most="${most}" aria-pressed="${map === shown}"
        title="map ${map}: ${exactly(value)}">${briefly(value)}</button>`,
  );
  const from =
    way === "forward" ? "What each map of <i>x</i> adds" : "What each map of <i>dy</i> adds";
  return `<p class="caption">${from}; below, map ${shown} in full</p>
    <div class="shares">${buttons.join("")}</div>`;
}

/** A small matrix of numbers; null is a place where nothing stands. */
function numbersTable([caption, rows]) {
  const most = Math.max(...rows.flat().map((v) => Math.abs(v ?? 0)));
  const cell = (v) =>
    v === null ? "<td>·</td>" : `<td data-value="${v}" data-most="${most}">${briefly(v)}</td>`;
  const body = rows.map((row) => `<tr>${row.map(cell).join("")}</tr>`).join("");
  return `<table class="numbers"><caption>${caption}</caption><tbody>${body}</tbody></table>`;
}

/** Lines of (what, value); the last one is what it all comes to. */
function termsTable(terms) {
  const lines = terms.map(
    ([what, value]) => `<tr><th scope="row">${what}</th><td>${exactly(value)}</td></tr>`,
  );
  return `<table class="terms"><tbody>${lines.join("")}</tbody></table>`;
}

/** Colour an element by its value on the scale of gradients. */
function tint(element) {
  const most = Number(element.dataset.most);
  const [red, green, blue] = colourOf(
    Number(element.dataset.value),
    { low: -most, high: most },
    "diverging",
  );
  element.style.background = `rgb(${red}, ${green}, ${blue})`;
  element.style.color = 0.3 * red + 0.6 * green + 0.1 * blue > 140 ? "#12161c" : "#ffffff";
}
