// A heat map: a table of buttons, each with its number, the stronger the larger.

import { h } from "./dom.js";

/**
 * `rows` and `columns` are names of sites; `values[i][j]` from 0 to 1; `isBest(i, j)` says which are set in bold;
 * `describe(i, j)` is what a cell is called; `sides` are the names of the axes. Arrow keys move from cell to cell.
 */
export function heatMap({ rows, columns, values, isBest, describe, chosen, onchoose, label, sides, rowNote = () => null }) {
  const at = [Math.max(0, rows.indexOf(chosen[0])), Math.max(0, columns.indexOf(chosen[1]))];
  const table = h("table", { class: "heat", "aria-label": label, onkeydown: (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -columns.length], End: [0, columns.length] };
    const place = event.target.dataset?.cell?.split(",").map(Number);
    if (!place || !(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = [0, 1].map((axis) => Math.max(0, Math.min([rows, columns][axis].length - 1, place[axis] + moves[event.key][axis])));
    focusCell(table, next[0], next[1]);
  } },
    h("thead", {},
      h("tr", {}, h("td", { class: "corner" }), h("th", { scope: "colgroup", colspan: columns.length, class: "axis-name" }, h("bdi", {}, sides[1]))),
      h("tr", {}, h("th", { scope: "col", class: "axis-name" }, h("bdi", {}, sides[0])), columns.map((site) => h("th", { scope: "col" }, shortSite(site))))),
    h("tbody", {}, rows.map((row, i) =>
      h("tr", {}, h("th", { scope: "row" }, shortSite(row), rowNote(i)), columns.map((column, j) => {
        const value = values[i][j];
        const shown = value.toFixed(2);
        return h("td", {}, h("button", {
          type: "button", class: "heat-cell", "aria-pressed": chosen[0] === row && chosen[1] === column ? "true" : "false", tabindex: i === at[0] && j === at[1] ? 0 : -1,
          "data-cell": i + "," + j, style: { "--strength": Math.max(0, Math.min(1, value)).toFixed(3) },
          "aria-label": describe(i, j), title: describe(i, j), onclick: () => onchoose(row, column),
        }, isBest(i, j) ? h("b", {}, shown) : shown));
      })))));
  return h("div", { class: "scroll-x", tabindex: 0, role: "region", "aria-label": "Heat map of the layers" }, table);
}

/** Move the focus to a cell; Tab comes back to it. */
function focusCell(table, i, j) {
  table.querySelector('.heat-cell[tabindex="0"]')?.setAttribute("tabindex", "-1");
  const cell = table.querySelector(`[data-cell="${i},${j}"]`);
  cell.setAttribute("tabindex", "0");
  cell.focus();
}

/** Focus the chosen cell of a map that was drawn anew. */
export function focusChosen(element) {
  element.querySelector('.heat-cell[aria-pressed="true"]')?.focus();
}

export function shortSite(site) {
  return site.replace("layer_", "");
}
