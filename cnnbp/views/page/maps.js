// The maps of one component side by side on a canvas, in which any cell can be pointed at.
"use strict";

const GAP = 4; // between maps, in CSS pixels
const LARGEST_TILE = 52;
const LINES = {
  // --frame and --accent of page.css
  light: { frame: "#c9ced6", accent: "#b24a00" },
  dark: { frame: "#3a424d", accent: "#ff9d4d" },
};

/** A canvas with maps (1, C, H, W), C tiles in rows; its cells are [map, row, column]. */
class MapStrip {
  /**
   * kind: "greys" or "diverging", the scale of its colours; side: of a map in CSS pixels, or what
   * fits the room.
   */
  constructor(canvas, kind, side = null) {
    Object.assign(this, { canvas, kind, side, cell: null });
    this.small = document.createElement("canvas"); // one pixel a cell, all maps below one another
  }

  /** Show a tensor, each value by its place in the range. */
  show(tensor, range) {
    Object.assign(this, { tensor, range });
    const [, C, H, W] = tensor.shape;
    if (this.small.width !== W || this.small.height !== C * H) {
      [this.small.width, this.small.height] = [W, C * H];
    }
    const context = this.small.getContext("2d");
    const picture = context.createImageData(W, C * H);
    paintValues(picture.data, tensor.data, range, this.kind);
    context.putImageData(picture, 0, 0);
    this.paint();
  }

  /** The room may have become another. */
  forgetRoom() {
    this.columns = null;
  }

  /** Mark a cell, or none. */
  mark(cell) {
    this.cell = cell;
    if (this.tensor) this.paint();
  }

  get maps() {
    return this.tensor.shape[1];
  }

  /**
   * Measure how many maps stand in a row, and the side of each; once, because it lays the page out
   * anew.
   */
  measure() {
    if (this.columns) return;
    const room = this.canvas.parentElement.clientWidth;
    const [, , H, W] = this.tensor.shape;
    const single = H * W === 1; // which shows its number
    let most = room > 560 ? 16 : 8;
    if (single) most = Math.floor((room + GAP) / (LARGEST_TILE + GAP));
    this.tile =
      this.side ?? Math.max(16, Math.min(LARGEST_TILE, Math.floor((room + GAP) / most) - GAP));
    this.columns = Math.max(1, Math.min(this.maps, most));
  }

  paint() {
    this.measure();
    const { canvas, small, tile, columns, maps } = this;
    const [, , H, W] = this.tensor.shape;
    const rows = Math.ceil(maps / columns);
    const density = window.devicePixelRatio || 1;
    const width = columns * (tile + GAP) - GAP;
    const height = rows * (tile + GAP) - GAP;
    if (
      canvas.width !== Math.round(width * density) ||
      canvas.height !== Math.round(height * density)
    ) {
      [canvas.width, canvas.height] = [Math.round(width * density), Math.round(height * density)];
      Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    const context = canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    for (let map = 0; map < maps; map++) {
      const { left, top } = this.placeOf(map);
      context.drawImage(small, 0, map * H, W, H, left, top, tile, tile);
    }
    const { frame, accent } = LINES[theme()];
    if (H * W === 1) this.writeValues(context);
    context.strokeStyle = frame;
    context.lineWidth = 1;
    for (let map = 0; map < maps; map++) {
      const { left, top } = this.placeOf(map);
      context.strokeRect(left + 0.5, top + 0.5, tile - 1, tile - 1);
    }
    if (this.cell) this.paintCell(context, accent);
  }

  /** Maps of a single cell are wide enough for its number. */
  writeValues(context) {
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let map = 0; map < this.maps; map++) {
      const [red, green, blue] = colourOf(this.tensor.data[map], this.range, this.kind);
      context.fillStyle = 0.3 * red + 0.6 * green + 0.1 * blue > 140 ? "#12161c" : "#ffffff";
      const { left, top } = this.placeOf(map);
      context.fillText(briefly(this.tensor.data[map]), left + this.tile / 2, top + this.tile / 2);
    }
  }

  paintCell(context, colour) {
    const [map, row, column] = this.cell;
    const [, , H, W] = this.tensor.shape;
    const { left, top } = this.placeOf(map);
    context.strokeStyle = colour;
    context.lineWidth = 2;
    if (this.maps > 1) context.strokeRect(left + 1, top + 1, this.tile - 2, this.tile - 2);
    if (H * W === 1) return;
    const [width, height] = [this.tile / W, this.tile / H];
    context.fillStyle = colour;
    const grow = Math.max(0, (4 - width) / 2); // a cell that is too small to be seen
    context.fillRect(
      left + column * width - grow,
      top + row * height - grow,
      width + 2 * grow,
      height + 2 * grow,
    );
  }

  placeOf(map) {
    return {
      left: (map % this.columns) * (this.tile + GAP),
      top: Math.floor(map / this.columns) * (this.tile + GAP),
    };
  }

  /** The cell under a pointer event, or null between the maps. */
  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const across = (event.clientX - box.left) / (this.tile + GAP);
    const down = (event.clientY - box.top) / (this.tile + GAP);
    const map = Math.floor(down) * this.columns + Math.floor(across);
    const within = (place) => ((place % 1) * (this.tile + GAP)) / this.tile;
    if (across < 0 || down < 0 || across >= this.columns || map >= this.maps) return null;
    if (within(across) >= 1 || within(down) >= 1) return null;
    const [, , H, W] = this.tensor.shape;
    return [map, Math.floor(within(down) * H), Math.floor(within(across) * W)];
  }

  /** The cell that an arrow key leads to: over a map's edge into the map beside it. */
  cellBeyond([map, row, column], key) {
    const [, , H, W] = this.tensor.shape;
    const [down, right] = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
    }[key];
    [row, column] = [row + down, column + right];
    let next = map;
    if (row < 0 || row >= H) next += down * this.columns;
    if (column < 0 || column >= W) next += right;
    if (next < 0 || next >= this.maps) return null;
    return [next, (row + H) % H, (column + W) % W];
  }
}
