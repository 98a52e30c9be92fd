// The slider over the epochs that the run kept.
"use strict";

/** A range input, one place an epoch; chosen: called with the epoch and its network. */
function setUpEpochs(root, network, chosen) {
  const slider = root.querySelector("#epoch");
  const { history } = contents;
  root.querySelector("#with-history").hidden = history.length === 0;
  root.querySelector("#without-history").hidden = history.length > 0;
  if (!history.length) return;
  slider.max = history.length - 1;
  slider.value = history.length - 1;
  root.querySelector("#first-epoch").textContent = `epoch ${history[0].epoch}`;
  root.querySelector("#last-epoch").textContent = `epoch ${history.at(-1).epoch}`;
  if (history.length < contents.epochsKept) {
    root.querySelector("#epochs-kept").textContent =
      `The page has room for ${history.length} of the ${contents.epochsKept} that the run kept.`;
  }
  const networks = history.map(({ values }) => withValues(network, halvesOf(values)));
  const name = ({ epoch }) => (epoch === 0 ? "before the first step" : `after epoch ${epoch}`);
  const label = () => {
    root.querySelector("#epoch-name").textContent = name(history[slider.value]);
    slider.setAttribute("aria-valuetext", name(history[slider.value]));
  };
  label();
  slider.addEventListener("input", () => {
    label();
    chosen(name(history[slider.value]), networks[slider.value]);
  });
}
