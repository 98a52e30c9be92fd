// The test images that can be chosen: the hardest of the run, one of each class, some by chance.
"use strict";

const GROUPS = {
  hardest: "The run's hardest: label → what it read",
  classes: "One of each class",
  random: "By chance",
};

/** The test images as buttons, each with its label and what the run read. */
async function setUpPicker() {
  const { items } = contents.test;
  const images = await spriteImages(contents.test, items.length);
  const thumbs = [];
  for (const [group, title] of Object.entries(GROUPS)) {
    const list = document.createElement("div");
    list.className = "thumbs";
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", title);
    list.innerHTML = `<h3>${title}</h3>`;
    items.forEach(({ group: own, index, label, read }, place) => {
      if (own !== group) return;
      const button = document.createElement("button");
      button.type = "button";
      const words = read === label ? nameOf(label) : `${nameOf(label)}, read as ${nameOf(read)}`;
      button.title = `Test image ${index}, ${words}`;
      button.setAttribute("aria-label", button.title);
      const short = read === label ? nameOf(label) : `${nameOf(label)} → ${nameOf(read)}`;
      button.innerHTML = `<canvas></canvas><span>${short}</span>`;
      button.classList.toggle("wrong", read !== label);
      button.addEventListener("click", () => showPicture(images[place], label));
      thumbs.push([button.querySelector("canvas"), images[place]]);
      list.append(button);
    });
    element("picker").append(list);
  }
  const paint = () => thumbs.forEach(([canvas, pixels]) => paintThumb(canvas, pixels));
  paint();
  darkness.addEventListener("change", paint);
  const first = items.findIndex(({ group }) => group === "classes");
  return { pixels: images[Math.max(0, first)], label: items[Math.max(0, first)].label };
}

function paintThumb(canvas, pixels) {
  [canvas.width, canvas.height] = [FIELD, FIELD];
  const context = canvas.getContext("2d");
  const image = context.createImageData(FIELD, FIELD);
  const greys = scaleOf("greys");
  pixels.forEach((v, k) => image.data.set([...greys[v], 255], 4 * k));
  context.putImageData(image, 0, 0);
}
