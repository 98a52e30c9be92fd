// The probabilities as bars, each of which can be chosen as the target of the gradient.
"use strict";

/** Bars, one a class, that are radio buttons: which class the loss is to be for. */
class ProbabilityBars {
  /** classes: their names; choose: called with the class that is to be the target. */
  constructor(list, classes, choose) {
    list.style.setProperty("--longest", `${Math.max(...classes.map((name) => name.length))}ch`);
    this.classes = classes;
    this.rows = classes.map((name, k) => {
      const row = document.createElement("label");
      row.className = "bar";
      row.innerHTML = `<input type="radio" name="target" value="${k}">
        <span class="class">${name}</span>
        <span class="track"><span class="fill"></span></span><span class="percent"></span>`;
      row.querySelector("input").addEventListener("change", () => choose(k));
      list.append(row);
      return row;
    });
  }

  /**
   * Show the probabilities, the class that is read and the target; null: there is nothing to read.
   */
  show(p, read, target) {
    this.rows.forEach((row, k) => {
      row.classList.toggle("read", p !== null && k === read);
      row.querySelector(".fill").style.width = p === null ? "0" : `${100 * (p[k] || 0)}%`;
      row.querySelector(".percent").textContent = p === null ? "" : percent(p[k]);
      row.querySelector("input").checked = k === target;
      row
        .querySelector("input")
        .setAttribute(
          "aria-label",
          `target ${this.classes[k]}, ${p === null ? "" : percent(p[k])}`,
        );
    });
  }
}

/** A share in percent, with one decimal where there is room for it. */
function percent(share) {
  if (Number.isNaN(share)) return "NaN";
  return share > 0.9995 ? "100 %" : `${(100 * share).toFixed(1)} %`;
}
