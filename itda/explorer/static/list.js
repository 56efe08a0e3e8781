// A table of any length of which only the rows in sight exist. Rows have one height, so a row's place is its number.

import { h } from "./dom.js";
import { found, keep } from "./state.js";

const BEYOND = 8; // rows above and below those in sight

/**
 * `columns`: [{ key, title, hint, sort, numeric }]; `row(i)`: { href, name, className, cells: [node, ...] }, one cell for each column.
 * Arrow keys, Page Up and Down, Home and End move from row to row, Enter opens one. `want(rows)` may return a promise,
 * after which the rows are drawn again; `onleave` is called for an arrow up from the first row.
 */
export function longTable({ label, columns, sorted, onsort, className = "", want = () => null, onleave = null }) {
  let total = 0;
  let makeRow = () => null;
  let current = 0;
  const body = h("div", { class: "rows", role: "rowgroup" });
  const sizer = h("div", { class: "sizer", role: "presentation" }, body);
  const scroller = h("div", { class: "scroller", role: "presentation" }, sizer);
  const head = h(
    "div",
    { class: "row head", role: "row", "aria-rowindex": 1 },
    columns.map((column) =>
      h(
        "span",
        {
          role: "columnheader",
          class: "cell " + column.key,
          "aria-sort": sorted?.key === column.key ? (sorted.descending ? "descending" : "ascending") : column.sort ? "none" : null,
        },
        column.sort
          ? h("button", { type: "button", class: "sort", title: column.hint, "data-sort": column.key, onclick: () => onsort(column.key) }, column.title,
              h("span", { class: "arrow", "aria-hidden": "true" }, sorted?.key === column.key ? (sorted.descending ? " ▾" : " ▴") : ""))
          : h("span", { title: column.hint }, column.title),
      ),
    ),
  );
  const table = h("div", { class: "table " + className, role: "table", "aria-label": label, "aria-colcount": columns.length }, head, scroller);

  const heightOf = () => parseFloat(getComputedStyle(table).getPropertyValue("--row")) || 36;

  function draw(refocus = true) {
    const height = heightOf();
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - BEYOND);
    const last = Math.min(total, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + BEYOND);
    const focused = refocus && body.contains(document.activeElement) ? Number(document.activeElement.dataset.row) : null;
    const rows = [];
    const waiting = want(Array.from({ length: Math.max(0, last - first) }, (_, i) => first + i));
    body.setAttribute("aria-busy", waiting ? "true" : "false");
    waiting?.then(() => table.isConnected && draw(), () => {});
    for (let i = first; i < last; i++) {
      const { href, cells, name, className: kind = "" } = makeRow(i);
      const inside = columns.map((column, place) => {
        return h("span", { role: "cell", class: "cell " + column.key, "data-title": column.short ?? column.title }, cells[place]);
      });
      const attributes = { class: ("row " + kind).trim(), role: "row", "aria-rowindex": i + 2, style: { transform: `translateY(${i * height}px)` } };
      const row = h("div", attributes, inside);
      const target = inside[0];
      const anchor = href
        ? h("a", { href, class: "open", "data-row": i, tabindex: i === current ? 0 : -1, "aria-label": name }, [...target.childNodes])
        : h("span", { class: "open", "data-row": i, tabindex: i === current ? 0 : -1 }, [...target.childNodes]);
      target.replaceChildren(anchor);
      rows.push(row);
    }
    body.replaceChildren(...rows);
    if (current < first || current >= last) body.querySelector(".open")?.setAttribute("tabindex", "0");
    if (focused !== null) body.querySelector(`[data-row="${focused}"]`)?.focus({ preventScroll: true });
  }

  function show(i) {
    current = Math.max(0, Math.min(total - 1, i));
    const height = heightOf();
    const top = current * height;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    if (top + height > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + height - scroller.clientHeight;
    draw(false);
    body.querySelector(`[data-row="${current}"]`)?.focus({ preventScroll: true });
  }

  let waiting = false;
  scroller.addEventListener("scroll", () => {
    keep({ top: scroller.scrollTop, current });
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }, { passive: true });
  body.addEventListener("focusin", (event) => {
    if (event.target.dataset.row) current = Number(event.target.dataset.row);
  });
  body.addEventListener("click", (event) => {
    // A click anywhere in a row opens it, but one that selects text does not.
    if (event.target.closest("a, button") || String(getSelection())) return;
    event.target.closest(".row")?.querySelector("a.open")?.click();
  });
  table.addEventListener("keydown", (event) => {
    if (!body.contains(event.target)) return;
    const page = Math.max(1, Math.floor(scroller.clientHeight / heightOf()) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -total, End: total };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (event.key === "ArrowUp" && current === 0 && onleave) return onleave();
    show(current + moves[event.key]);
  });
  new ResizeObserver(() => draw()).observe(scroller);

  return {
    element: table,
    /** Focus the row that was focused last, or the first. */
    enter() { if (total) show(current); },
    /** Draw the rows in sight again. */
    redraw() { draw(); },
    /** Show `number` rows. */
    fill(number, row) {
      total = number;
      makeRow = row;
      current = 0;
      table.setAttribute("aria-rowcount", number + 1);
      sizer.style.setProperty("height", `calc(${number} * var(--row))`);
      const before = found();
      if (before) current = Math.min(before.current, Math.max(0, number - 1));
      scroller.scrollTop = before ? before.top : 0;
      draw();
      if (before) requestAnimationFrame(() => { scroller.scrollTop = before.top; draw(); });
    },
  };
}
