// The weights in use, their changes by one step on the drawing, and undoing them.
"use strict";

/** Keep the network that is in use, so that the change to come can be undone. */
function remember() {
  page.past.push([page.network, page.weights]);
  if (page.past.length > REMEMBERED) page.past.shift();
}

function use(network, weights) {
  Object.assign(page, { network, weights });
  refreshSoon();
}

function undoWeights() {
  if (!page.past.length) return;
  learning.interrupt();
  use(...page.past.pop());
  element("outcome").innerHTML = "";
  say("");
}

/** One SGD step on the picture towards the target; say what it changed. */
function stepOnDrawing() {
  if (page.isBlank) return say("Draw a digit, or choose a picture, to take a step on.");
  learning.interrupt();
  remember();
  const before = page.network;
  const after = copyNetwork(before);
  const records = forward(after, asInput([page.pixels]), [page.aim], modeNow());
  sgdStep(after, backward(records).gradients, rateOf("rate"));
  const aim = page.aim;
  const losses = [records.at(-1).output.data[0]];
  const chances = [records.at(-1).details.p[aim]];
  page.target = aim; // so that the next step has the same
  const later = travel(after).records.at(-1);
  losses.push(later.output.data[0]);
  chances.push(later.details.p[aim]);
  use(after, "changed by a step on the drawing");
  element("outcome").innerHTML = changesTable(
    changesBetween(before, after),
    losses,
    chances,
    nameOf(aim),
  );
  for (const fill of element("outcome").querySelectorAll(".fill"))
    fill.style.width = `${100 * fill.dataset.width}%`;
  const finite = Number.isFinite(losses[1]) && hasFiniteWeights(after);
  say(finite ? "" : "The loss is no longer a finite number: the rate is too high.", !finite);
}

/** The rate that a slider stands for, whose value is the logarithm of it. */
const rateOf = (id) => 10 ** Number(element(id).value);

function showRate(id) {
  const words = String(Number(rateOf(id).toPrecision(2)));
  element(`${id}-value`).textContent = words;
  element(id).setAttribute("aria-valuetext", words);
}
