// Curves over the steps of training, as SVG.
"use strict";

const CHART = { width: 400, height: 150, left: 52, right: 10, top: 10, bottom: 26 };

/**
 * Draw lines {name, points: [[step, value], ...]} into an svg; values from `low` to `high` or to
 * the highest.
 */
function drawChart(svg, lines, { low, high, format }) {
  const { width, height, left, right, top, bottom } = CHART;
  const points = lines.flatMap((line) => line.points).filter(([, value]) => Number.isFinite(value));
  const last = Math.max(10, ...points.map(([step]) => step));
  // an empty chart shows 0 to 1
  const values = points.length ? points.map(([, value]) => value) : [1];
  const highest = high ?? Math.max(1e-3, ...values);
  const x = (step) => left + (step / last) * (width - left - right);
  const y = (value) =>
    height - bottom - ((value - low) / (highest - low)) * (height - top - bottom);
  const parts = [low, (low + highest) / 2, highest].map(
    (value) =>
      `<path class="grid" d="M${left},${y(value)}H${width - right}"/>
     <text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${format(value)}</text>`,
  );
  parts.push(`<text x="${left}" y="${height - 8}">0</text>`);
  parts.push(`<text x="${width - right}" y="${height - 8}" text-anchor="end">step ${last}</text>`);
  for (const { name, points: own } of lines) {
    const drawn = own.filter(([, value]) => Number.isFinite(value));
    const path = drawn.map(
      ([step, value]) => `${x(step).toFixed(1)},${y(Math.min(value, highest)).toFixed(1)}`,
    );
    parts.push(`<polyline class="${name}" points="${path.join(" ")}"/>`);
    const [end] = path.slice(-1);
    if (end)
      parts.push(
        `<circle class="${name}" cx="${end.split(",")[0]}" cy="${end.split(",")[1]}" r="3"/>`,
      );
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.innerHTML = parts.join("");
}
