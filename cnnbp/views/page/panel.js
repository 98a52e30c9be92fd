// The panel with its tabs; on a narrow page it opens over the maps.
"use strict";

const PANELS = ["arithmetic", "learning", "epochs"];

/** Show one of the panels; on a narrow page they open over the maps. */
function openPanel(name) {
  for (const own of PANELS) {
    element(own).hidden = own !== name;
    element(`${own}-tab`).setAttribute("aria-selected", own === name);
    element(`${own}-tab`).tabIndex = own === name ? 0 : -1;
  }
  element("panel").classList.add("open");
  if (page.journey.length) showArithmetic();
}

function setUpPanels() {
  PANELS.forEach((name, place) => {
    const tab = element(`${name}-tab`);
    tab.addEventListener("click", () => openPanel(name));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = PANELS[(place + step + PANELS.length) % PANELS.length];
      openPanel(next);
      element(`${next}-tab`).focus();
    });
  });
  const close = () => element("panel").classList.remove("open");
  element("close-panel").addEventListener("click", close);
  element("panel").addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  openPanel("arithmetic");
  close();
}
