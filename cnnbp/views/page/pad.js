// The drawing pad: strokes by mouse, finger, pen or keyboard, over an empty sheet or a picture.
"use strict";

const PAD = 280; // pixels a side
const STROKE = 24; // pixels: as thick as MNIST's strokes beside a digit that fills most of the pad
const KEY_STEP = 10; // pixels that an arrow key moves the pen

/** The pad's sheet is dark ink on white paper, whatever the theme. */
class Pad {
  /**
   * cursor: the element that shows where the keyboard's pen is; changed: called after each change.
   */
  constructor(canvas, cursor, changed) {
    Object.assign(this, { canvas, cursor, changed, strokes: [], base: null });
    this.pen = { x: PAD / 2, y: PAD / 4, down: false };
    [canvas.width, canvas.height] = [PAD, PAD];
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.listen();
    this.paint();
  }

  get isEmpty() {
    return this.strokes.length === 0 && this.base === null;
  }

  /** Whether the sheet is a given picture that nobody has drawn on. */
  get isUntouched() {
    return this.strokes.length === 0;
  }

  /** The sheet's pixels as RGBA. */
  get picture() {
    return this.context.getImageData(0, 0, PAD, PAD);
  }

  /** Start anew from an empty sheet, or from pixels like MNIST's (28 * 28). */
  start(pixels = null) {
    Object.assign(this, { strokes: [], base: pixels });
    this.pen.down = false;
    this.paint();
  }

  undo() {
    if (this.strokes.length) this.strokes.pop();
    else this.base = null;
    this.pen.down = false;
    this.paint();
    this.changed();
  }

  clear() {
    this.start();
    this.changed();
  }

  paint() {
    const { context } = this;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, PAD, PAD);
    if (this.base) this.paintBase();
    this.strokes.forEach((stroke) => this.paintStroke(stroke));
    const { x, y, down } = this.pen;
    Object.assign(this.cursor.style, { left: `${(100 * x) / PAD}%`, top: `${(100 * y) / PAD}%` });
    this.cursor.classList.toggle("down", down);
  }

  paintBase() {
    const small = document.createElement("canvas");
    [small.width, small.height] = [FIELD, FIELD];
    const sheet = small.getContext("2d");
    const image = sheet.createImageData(FIELD, FIELD);
    this.base.forEach((v, k) => image.data.set([255 - v, 255 - v, 255 - v, 255], 4 * k));
    sheet.putImageData(image, 0, 0);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(small, 0, 0, PAD, PAD);
  }

  paintStroke(points) {
    const { context } = this;
    Object.assign(context, {
      strokeStyle: "#000",
      lineWidth: STROKE,
      lineCap: "round",
      lineJoin: "round",
    });
    context.beginPath();
    context.moveTo(points[0].x, points[0].y);
    points.forEach(({ x, y }) => context.lineTo(x, y));
    context.stroke();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId;
      this.strokes.push([this.pointOf(event)]);
      this.drawn();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      const moves = event.getCoalescedEvents?.() ?? [];
      for (const move of moves.length ? moves : [event])
        this.strokes.at(-1).push(this.pointOf(move));
      this.drawn();
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(end, () => {
        this.pointer = null;
      });
    }
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  /**
   * Arrow keys move the pen, the space bar puts it down or lifts it, Backspace undoes, Delete
   * clears.
   */
  onKey(event) {
    const moves = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
    const { pen } = this;
    if (moves[event.key]) {
      const [right, down] = moves[event.key];
      const within = (v) => Math.min(PAD, Math.max(0, v));
      [pen.x, pen.y] = [within(pen.x + KEY_STEP * right), within(pen.y + KEY_STEP * down)];
      if (pen.down) this.strokes.at(-1).push({ x: pen.x, y: pen.y });
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) this.strokes.push([{ x: pen.x, y: pen.y }]);
    } else if (event.key === "Backspace") {
      this.undo();
    } else if (event.key === "Delete") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
    this.drawn();
  }

  drawn() {
    this.paint();
    this.changed();
  }

  pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * PAD) / box.width,
      y: ((event.clientY - box.top) * PAD) / box.height,
    };
  }
}

const LARGEST_FILE = 30e6; // bytes
const MOST_PIXELS = 50e6;
const LONGEST_SIDE = 3000; // pixels; a longer picture is scaled down before it is prepared

/** Read a picture file and prepare it; a PictureError says in words what is wrong with it. */
async function digitsOfFile(file) {
  if (file.size > LARGEST_FILE) {
    throw new PictureError(`${file.name} is larger than ${LARGEST_FILE / 1e6} MB; make it smaller`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new PictureError(
      `${file.name} is not a picture that this browser can read; use PNG or JPEG`,
    );
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    throw new PictureError(
      `${file.name} has too many pixels for a picture of a digit; make it smaller`,
    );
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  try {
    return findDigits(context.getImageData(0, 0, canvas.width, canvas.height));
  } catch (error) {
    if (!(error instanceof PictureError)) throw error;
    throw new PictureError(`${file.name}: ${error.message}`);
  }
}
