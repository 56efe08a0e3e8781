// The view of all atoms: go to one by its number, search, filter, sort.

import { h, append, count } from "./dom.js";
import { standalone } from "./api.js";
import { amend, go, parsed } from "./state.js";
import { longTable } from "./list.js";
import { atomColumns, atomRow, chosenRows, doubt, FILTERED, sortOf } from "./atoms.js";
import { atomSource } from "./source.js";
import { notesOf } from "./notes.js";
import { notedChoice, notedTest, notesMenu } from "./noted.js";
import { csvOf, saveFile } from "./save.js";

const PLACES = [["text", "in the prompt"], ["token", "in the token"], ["exact", "is the whole token"], ["document", "in the document's name"], ["note", "in your notes"]];
const PAUSE_MS = standalone ? 0 : 120;
const NUMBER = /^#\s*([\d,]+)$/;

/** The view. */
export async function atomsView(params, context) {
  const [data, notes] = await Promise.all([atomSource(context), notesOf(context)]);
  const status = h("p", { class: "status", role: "status" });
  const place = h("div", { "aria-busy": "true" });
  let current = { ...params };
  let [list, drawnSort, fills, pause] = [null, "", 0, 0];
  let rows = [];

  function update(changes) {
    amend(changes);
    current = parsed(location.hash).params;
    place.setAttribute("aria-busy", "true");
    fills += 1; // what is being looked for is not wanted any more
    clearTimeout(pause);
    if ("q" in changes) pause = setTimeout(fill, PAUSE_MS);
    else fill();
  }

  async function fill() {
    const mine = ++fills;
    try {
      const found = await hits(data, current, notes);
      if (mine === fills) show(found);
    } catch (error) {
      if (mine === fills) status.textContent = error.message;
    }
    if (mine === fills) place.setAttribute("aria-busy", "false");
  }

  function show(found) {
    const sorted = sortOf(data, current);
    const mine = notedTest(notes, current.mine);
    rows = chosenRows(data, current, found).filter((row) => !mine || mine(data.idOf(row)));
    if (list === null || drawnSort !== sorted.key + sorted.descending) makeList(sorted);
    list.fill(rows.length, (i) => atomRow(data, rows[i], context, current.in, notes));
    const whole = data.ids ? `${count(data.size)} atoms of ${count(data.atoms)} that this page carries` : `${count(data.atoms)} atoms`;
    status.textContent = (rows.length === data.size ? whole : `${count(rows.length)} of ${whole}`) + doubt(data, rows);
    place.classList.toggle("empty", rows.length === 0);
  }

  function makeList(sorted) {
    const focused = document.activeElement?.dataset?.sort;
    list = longTable({
      label: `Atoms of ${context.site}`, className: "atoms", columns: atomColumns(data), sorted,
      want: (places) => data.want(places.map((i) => rows[i])),
      onleave: () => document.querySelector('input[name="q"]').focus(),
      onsort: (key) => {
        const now = sortOf(data, current);
        update({ sort: key, order: (now.key === key ? !now.descending : key !== "atom") ? "down" : "up" });
      },
    });
    drawnSort = sorted.key + sorted.descending;
    place.replaceChildren(list.element);
    if (focused) place.querySelector(`[data-sort="${focused}"]`)?.focus();
  }

  const page = append(h("div", { class: "view list-view" }), [
    h("div", { class: "title-line" },
      h("h1", { tabindex: -1 }, "Atoms of ", h("span", { class: "site" }, context.site)),
      numberBox(data, context, status)),
    h("p", { class: "lead" }, "Each atom is labelled by one token of the corpus: the one whose activation the atom is, or is nearest to. The list shows that token, marked, in its text: the atom's own prompt."),
    data.trouble && h("p", { class: "note" }, data.trouble),
    filterForm(data, params, context, update, () => list?.enter(), notes),
    h("div", { class: "list-line" }, status, h("div", { class: "note-line" },
      h("button", { type: "button", onclick: () => saveTable(data, rows, context, notes, status) }, "Save as CSV"), notesMenu(notes, context, () => { fills += 1; fill(); }))),
    place,
    h("p", { class: "nothing", role: "status" }, "No atom matches. Search for a shorter text, or clear the filters."),
  ]);
  return { page, title: `Atoms of ${context.site}`, shown: fill };
}

/** The rows that the address's search finds; null where there is none. `#973` finds the atom of that number. */
async function hits(data, params, notes) {
  const number = NUMBER.exec((params.q ?? "").trim());
  if (number) {
    await data.search(null);
    const row = data.rowOf(Number(number[1].replaceAll(",", "")));
    return row === undefined ? [] : [row];
  }
  return data.search(params.q ? { q: params.q, where: params.in ?? "text", regex: Boolean(params.regex) } : null, notes.text);
}

function numberBox(data, context, status) {
  const box = h("input", { name: "number", type: "number", min: 0, max: data.atoms - 1, inputmode: "numeric", "aria-label": "Atom number", placeholder: "number" });
  return h("form", { class: "go", novalidate: true, onsubmit: (event) => { event.preventDefault(); openNumber(data, context, box.value, status); } },
    h("span", { class: "muted", "aria-hidden": "true" }, "Atom"), box, h("button", {}, "Go"));
}

function openNumber(data, context, text, status) {
  const atom = Number(text);
  if (text === "" || !Number.isInteger(atom) || data.rowOf(atom) === undefined) {
    status.textContent = data.ids && atom < data.atoms ? `This page does not carry atom ${text}.` : `There is no atom ${text}. Give a number from 0 to ${count(data.atoms - 1)}.`;
    return;
  }
  go("atom", { run: context.run, site: context.site, atom });
}

const MOST_SAVED = 10_000;

/** Save the rows of the list, in its order, as a table; texts that are not here yet are asked for. */
async function saveTable(data, rows, context, notes, status) {
  const some = rows.slice(0, MOST_SAVED);
  const said = status.textContent;
  status.textContent = "Reading the texts …";
  try {
    await data.want(some);
    const numbers = atomColumns(data).map(({ key }) => key).filter((key) => !["atom", "prompt"].includes(key));
    const rowOf = (row) => {
      const { name, note, star, lists } = notes.of(data.idOf(row));
      return [data.idOf(row), data.before[row], data.token[row], data.after[row], data.documentOf(row), ...numbers.map((key) => data[key][row]), name, note, star ? 1 : "", lists.join("; ")];
    };
    saveFile(`${context.run}-${context.site}-atoms.csv`, "text/csv", csvOf([["atom", "before", "token", "after", "document", ...numbers, "name", "note", "star", "lists"], ...some.map(rowOf)]));
    status.textContent = said + (some.length < rows.length ? `; the first ${count(some.length)} were saved` : "");
  } catch (error) {
    status.textContent = error.message;
  }
}

function filterForm(data, params, context, update, enterList, notes) {
  const field = (name, text, attributes) =>
    h("label", { class: "field" }, h("span", {}, text), h("input", { name, value: params[name] ?? "", ...attributes, oninput: (event) => update({ [name]: event.target.value }) }));
  const numbers = FILTERED.filter(([name]) => data[name]).flatMap(([name, title, both, limits]) => [
    field("min_" + name, title + " from", { type: "number", inputmode: "decimal", ...limits }),
    both && field("max_" + name, "to", { type: "number", inputmode: "decimal", "aria-label": title + " to", ...limits }),
  ]);
  const isSet = Object.keys(params).some((name) => /^(min|max)_/.test(name));
  const search = field("q", "Search", {
    type: "search", placeholder: "text, or #973 for a number", autocomplete: "off", spellcheck: "false", class: "wide", dir: "auto",
    onkeydown: (event) => {
      const number = NUMBER.exec(event.target.value.trim());
      if (event.key === "ArrowDown") { event.preventDefault(); enterList(); }
      if (event.key === "Enter" && number && data.rowOf(Number(number[1].replaceAll(",", ""))) !== undefined) go("atom", { run: context.run, site: context.site, atom: number[1].replaceAll(",", "") });
    },
  });
  return h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    search,
    h("label", { class: "field" }, h("span", {}, "Where"),
      h("select", { name: "in", onchange: (event) => update({ in: event.target.value === "text" ? "" : event.target.value }) },
        PLACES.map(([value, text]) => h("option", { value, selected: (params.in ?? "text") === value }, text)))),
    !standalone && h("label", { class: "check", title: "Search by a regular expression (RE2). It tells capital from small letters, unless it begins with (?i)" },
      h("input", { type: "checkbox", name: "regex", checked: Boolean(params.regex), onchange: (event) => update({ regex: event.target.checked ? "1" : "" }) }), " regex"),
    notedChoice(notes, params.mine, update),
    h("details", { class: "more", open: isSet || innerWidth > 900 }, h("summary", {}, "Filters"), h("div", { class: "filters" }, numbers)));
}
