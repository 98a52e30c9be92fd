// The journey of the picture that is shown, forward and back: a list of stops, the input, each
// component, the loss. A stop is a record of engine.js with the tensors to show and the ranges of
// their colours.
"use strict";

/**
 * Send the picture through a network and find the target; the running statistics stay as they are.
 */
function travel(network) {
  const input = asInput([page.pixels]);
  const mode = modeNow();
  const records = propagate(copyNetwork(network), input, mode);
  const read = classRead(records.at(-1).output);
  const aim = page.target ?? page.label ?? read;
  const whole = withLoss(records, [aim], mode);
  return { input, read, aim, records: whole, images: backward(whole).images };
}

/** Training or evaluation mode; the masks stay the same until new ones are asked for. */
function modeNow() {
  return { training: page.training, random: uniformStream(page.maskSeed), labelSmoothing: 0 };
}

/** The stops that are shown: flatten only lays the last maps out and is left out. */
function stopsOf({ input, records, images }) {
  const first = {
    name: "input",
    kind: "Input",
    pixels: page.pixels,
    output: input,
    gradient: images,
  };
  const stops = [first, ...records.filter(({ kind }) => kind !== "Flatten")];
  return stops.map((stop) => {
    if (stop.kind === "CrossEntropyLoss") {
      const { p } = stop.details;
      return {
        ...stop,
        shown: { data: p, shape: [1, p.length, 1, 1] },
        range: { low: 0, high: 1 },
      };
    }
    return {
      ...stop,
      shown: stop.output,
      range: rangeOf(stop.output.data),
      shownGradient: stop.gradient,
      gradientRange: symmetricRangeOf(stop.gradient.data),
    };
  });
}

/** The probabilities (doubles) of pixels 0 to 255 in evaluation mode. */
function probabilitiesOf(pixels, network = page.network) {
  return softmax(logitsOf(network, asInput([pixels])));
}
