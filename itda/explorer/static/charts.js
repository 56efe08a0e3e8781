// Small charts as SVG. Each says in its label what a reader would see, and every bar tells its numbers.

import { h, short, count } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 128;
const LEFT = 6;
const BOTTOM = 20;

/** Bars between edges. `edges` has one more entry than `counts`; `mark` is where zero is, if it is inside. */
export function histogram({ counts, edges, label, unit, tone = "plain" }) {
  const most = Math.max(1, ...counts);
  const span = edges[edges.length - 1] - edges[0] || 1;
  const x = (value) => LEFT + ((value - edges[0]) / span) * (WIDTH - 2 * LEFT);
  const y = (value) => (value === 0 ? 0 : Math.max(1.5, (value / most) * (HEIGHT - BOTTOM - 14)));
  const bars = counts.map((number, i) =>
    h("rect", {
      x: x(edges[i]) + 0.5,
      width: Math.max(0.5, x(edges[i + 1]) - x(edges[i]) - 1),
      y: HEIGHT - BOTTOM - y(number),
      height: y(number),
      class: tone === "signed" && edges[i + 1] <= 0 ? "bar negative" : "bar positive",
    }, h("title", {}, `${short(edges[i])} to ${short(edges[i + 1])}: ${count(number)} ${unit}`)),
  );
  const zero = edges[0] < 0 && edges[edges.length - 1] > 0;
  return figure(label, [
    ...bars,
    axis(),
    zero && h("line", { x1: x(0), x2: x(0), y1: 8, y2: HEIGHT - BOTTOM, class: "zero" }),
    tick(LEFT, "start", short(edges[0])),
    zero && x(0) > 60 && x(0) < WIDTH - 60 && tick(x(0), "middle", "0"),
    tick(WIDTH - LEFT, "end", short(edges[edges.length - 1])),
    h("text", { x: WIDTH - LEFT, y: 10, "text-anchor": "end", class: "tick" }, `most: ${count(most)} ${unit}`),
  ]);
}

/** One bar for each of 1, 2, 3 ... */
export function ranks({ counts, label, unit, name }) {
  const most = Math.max(1, ...counts);
  const step = (WIDTH - 2 * LEFT) / counts.length;
  const bars = counts.map((number, i) => {
    const height = number === 0 ? 0 : Math.max(1.5, (number / most) * (HEIGHT - BOTTOM - 14));
    return h("rect", { x: LEFT + i * step + 0.5, width: Math.max(0.5, step - 1), y: HEIGHT - BOTTOM - height, height, class: "bar positive" },
      h("title", {}, `${name} ${i + 1}: ${count(number)} ${unit}`));
  });
  return figure(label, [
    ...bars,
    axis(),
    tick(LEFT + step / 2, "start", "1"),
    tick(WIDTH - LEFT, "end", String(counts.length)),
    h("text", { x: WIDTH - LEFT, y: 10, "text-anchor": "end", class: "tick" }, `most: ${count(most)} ${unit}`),
  ]);
}

const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

/** Lines over x. `series`: [{ name, x, y }]; a line is told from the next by its dashes as well as its colour. */
export function lines({ series, label, xTitle, yTitle, logarithmic = false }) {
  const scale = logarithmic ? (v) => Math.log10(Math.max(v, 0.5)) : (v) => v;
  const all = (key) => series.flatMap((each) => each[key].map(scale));
  const [xs, ys] = [all("x"), all("y")];
  const [x0, x1] = [Math.min(...xs, logarithmic ? Infinity : 0), Math.max(...xs)];
  const [y0, y1] = [Math.min(...ys, logarithmic ? Infinity : 0), Math.max(...ys)];
  const x = (v) => LEFT + ((scale(v) - x0) / (x1 - x0 || 1)) * (WIDTH - 2 * LEFT);
  const y = (v) => HEIGHT - BOTTOM - ((scale(v) - y0) / (y1 - y0 || 1)) * (HEIGHT - BOTTOM - 18);
  const raw = (key) => series.flatMap((each) => each[key]);
  const paths = series.map((each, i) =>
    h("path", { d: each.x.map((v, j) => `${j ? "L" : "M"}${x(v).toFixed(1)} ${y(each.y[j]).toFixed(1)}`).join(""), class: "line line-" + (i % 4), "stroke-dasharray": DASHES[i % 4] },
      h("title", {}, each.name)));
  const chart = figure(label, [
    ...paths,
    axis(),
    tick(LEFT, "start", count(Math.min(...raw("x")))),
    tick(WIDTH / 2, "middle", xTitle + (logarithmic ? " (log)" : "")),
    tick(WIDTH - LEFT, "end", count(Math.max(...raw("x")))),
    h("text", { x: LEFT, y: 10, class: "tick" }, `${yTitle}${logarithmic ? " (log)" : ""}, up to ${count(Math.max(...raw("y")))}`),
  ]);
  if (series.length > 1) {
    chart.append(
      h("ul", { class: "legend" }, series.map((each, i) =>
        h("li", {},
          h("svg", { viewBox: "0 0 28 8", width: 28, height: 8, "aria-hidden": "true" }, h("path", { d: "M0 4 L28 4", class: "line line-" + (i % 4), "stroke-dasharray": DASHES[i % 4] })),
          " " + each.name))));
  }
  return chart;
}

/** A signed number as a bar from the middle. */
export function meter(value, largest) {
  const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) : 0;
  return h("span", { class: "meter " + (value < 0 ? "negative" : "positive"), "aria-hidden": "true", style: { "--share": (100 * share).toFixed(1) + "%" } });
}

function figure(label, children) {
  return h("figure", { class: "chart" }, h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, children));
}

function axis() {
  return h("line", { x1: LEFT, x2: WIDTH - LEFT, y1: HEIGHT - BOTTOM + 0.5, y2: HEIGHT - BOTTOM + 0.5, class: "axis" });
}

function tick(at, anchor, text) {
  return h("text", { x: at, y: HEIGHT - 5, "text-anchor": anchor, class: "tick" }, text);
}
