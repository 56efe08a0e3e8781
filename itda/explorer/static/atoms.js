// The list of atoms: search, filter, sort.

import { h, append, count, percent, short, signed } from "./dom.js";
import { keyword, named } from "./text.js";
import { ask } from "./api.js";
import { amend, link, parsed } from "./state.js";
import { longTable } from "./list.js";

/** What the columns of a list of atoms look like; `use` and others are there only where they are known. */
export function atomColumns(data) {
  return [
    { key: "atom", title: "Atom", hint: "Number, in the order in which atoms were added", sort: true },
    { key: "prompt", title: "Its own prompt", hint: "The text in which the atom's activation was read, its token marked" },
    data.uses && { key: "uses", title: "Uses", hint: "Indexed tokens whose code has the atom", sort: true },
    data.strongest && { key: "strongest", title: "Strongest", hint: "The largest coefficient of the atom in the indexed tokens", sort: true },
    data.fidelity && { key: "fidelity", title: "Fidelity", hint: "Cosine of the atom to the activation that its label names", sort: true },
    data.novelty && { key: "novelty", title: "Novelty", hint: "Share of the atom's activation that the atoms before it left unexplained", sort: true },
    data.replication && { key: "replication", title: "Replication", hint: "Share of the draws of other documents in which the atom came back; grey: in fewer than half, so it is no finding", sort: true },
    data.effect_continuation && { key: "effect_continuation", title: "Effect", hint: "Added to the last token of a text: by how many nats the log-probability of what follows the atom's own token in its prompt rises more than by random atoms", sort: true },
    data.effect_promoted && { key: "effect_promoted", title: "On promoted", hint: "The same for the tokens that its direction promotes", sort: true },
  ].filter(Boolean);
}

/** The row of a list: cells in the order of `atomColumns`. `row` is the place in the columns of `data`. */
export function atomRow(data, row, context) {
  const id = data.ids ? data.ids[row] : row;
  const bytes = data.bytes[row];
  return {
    href: link("atom", { run: context.run, site: context.site, atom: id }),
    name: `Atom ${id}, token ${named(data.token[row], bytes)}${data.replicates && !data.replicates[row] ? ", does not replicate" : ""}`,
    className: data.replicates && !data.replicates[row] ? "unreplicated" : "",
    cells: [
      count(id),
      keyword(data.before[row], data.token[row], data.after[row], bytes),
      data.uses && [count(data.uses[row]), h("span", { class: "muted" }, " " + percent(data.uses[row] / data.tokens))],
      data.strongest && short(data.strongest[row]),
      data.fidelity && data.fidelity[row].toFixed(3),
      data.novelty && percent(data.novelty[row]),
      data.replication && (data.replicates[row] ? percent(data.replication[row]) : [percent(data.replication[row]), h("span", { class: "muted" }, " not again")]),
      data.effect_continuation && nats(data.effect_continuation[row]),
      data.effect_promoted && nats(data.effect_promoted[row]),
    ].filter((cell) => cell !== null && cell !== undefined),
  };
}

function nats(value) {
  return value === null ? "–" : signed(value);
}

const searched = new WeakMap();

function lowered(data, where) {
  if (!searched.has(data)) searched.set(data, {});
  const known = searched.get(data);
  if (!known[where]) {
    known[where] = data.token.map((token, row) => {
      if (where === "token") return token.toLowerCase();
      if (where === "document") return data.documents[data.document[row]].toLowerCase();
      return (data.before[row] + token + data.after[row]).toLowerCase();
    });
  }
  return known[where];
}

/** Rows that a search finds, in the order asked for. */
export function chosenRows(data, params) {
  const query = (params.q ?? "").toLowerCase();
  const where = params.in ?? "text";
  const texts = query ? lowered(data, where) : null;
  const limit = (name, values) => {
    const least = params["min_" + name] === undefined ? -Infinity : Number(params["min_" + name]);
    const most = params["max_" + name] === undefined ? Infinity : Number(params["max_" + name]);
    return values && (least > -Infinity || most < Infinity) ? (row) => values[row] >= least && values[row] <= most : null;
  };
  const tests = [
    texts && ((row) => texts[row].includes(query)),
    limit("uses", data.uses),
    limit("fidelity", data.fidelity),
    limit("replication", data.replication),
  ].filter(Boolean);
  const rows = [];
  for (let row = 0; row < data.token.length; row++) if (tests.every((test) => test(row))) rows.push(row);
  const { key, descending } = sortOf(data, params);
  const ids = data.ids ?? null;
  const values = key === "atom" ? (ids ? (row) => ids[row] : (row) => row) : (row) => data[key][row] ?? -Infinity; // what is not known comes after the least
  const way = descending ? -1 : 1;
  // Unless another order is asked for, what does not replicate comes last: it is no finding.
  const last = params.sort || !data.replicates ? () => 0 : (row) => (data.replicates[row] ? 0 : 1);
  return rows.sort((a, b) => last(a) - last(b) || way * (values(a) - values(b)) || a - b);
}

/** What a list says of its atoms that do not replicate; nothing where there is none, or where it is not known. */
export function doubt(data, rows) {
  const number = data.replicates ? rows.filter((row) => !data.replicates[row]).length : 0;
  return number ? `; ${count(number)} in grey ${number === 1 ? "does" : "do"} not replicate: no ${number === 1 ? "finding" : "findings"}` : "";
}

/** The order of a list: the most used first, unless the address says otherwise. */
export function sortOf(data, params) {
  const usable = ["atom", "uses", "strongest", "fidelity", "novelty", "replication", "effect_continuation", "effect_promoted"].filter((key) => key === "atom" || data[key]);
  const key = usable.includes(params.sort) ? params.sort : data.uses ? "uses" : "atom";
  return { key, descending: params.order ? params.order === "down" : key !== "atom" };
}

/** The view. */
export async function atomsView(params, context) {
  const data = await ask("atoms", { run: context.run, site: context.site }, { keepIt: true });
  const status = h("p", { class: "status", role: "status" });
  const place = h("div", {});
  let current = { ...params };

  function update(changes) {
    amend(changes);
    current = parsed(location.hash).params;
    fill();
  }

  let list = null;
  let drawnSort = "";
  function fill() {
    const sorted = sortOf(data, current);
    const rows = chosenRows(data, current);
    if (list === null || drawnSort !== sorted.key + sorted.descending) {
      const focused = document.activeElement?.dataset?.sort;
      list = longTable({
        label: `Atoms of ${context.site}`,
        className: "atoms",
        columns: atomColumns(data),
        sorted,
        onsort: (key) => {
          const now = sortOf(data, current);
          update({ sort: key, order: (now.key === key ? !now.descending : key !== "atom") ? "down" : "up" });
        },
      });
      drawnSort = sorted.key + sorted.descending;
      place.replaceChildren(list.element);
      if (focused) place.querySelector(`[data-sort="${focused}"]`)?.focus();
    }
    list.fill(rows.length, (i) => atomRow(data, rows[i], context));
    const whole = data.ids ? `${count(data.ids.length)} atoms of ${count(data.atoms)} that this page carries` : `${count(data.atoms)} atoms`;
    status.textContent = (rows.length === data.token.length ? whole : `${count(rows.length)} of ${whole}`) + doubt(data, rows);
    place.classList.toggle("empty", rows.length === 0);
  }

  const field = (name, text, attributes) =>
    h("label", { class: "field" }, h("span", {}, text), h("input", { name, value: params[name] ?? "", ...attributes, oninput: (event) => update({ [name]: event.target.value }) }));
  const where = h(
    "select",
    { name: "in", onchange: (event) => update({ in: event.target.value === "text" ? "" : event.target.value }) },
    [["text", "in the prompt"], ["token", "in the token"], ["document", "in the document's name"]].map(([value, text]) => h("option", { value, selected: (params.in ?? "text") === value }, text)),
  );
  const filters = h(
    "form",
    { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    field("q", "Search", { type: "search", placeholder: "text", autocomplete: "off", spellcheck: "false", class: "wide" }),
    h("label", { class: "field" }, h("span", {}, "Where"), where),
    data.uses && field("min_uses", "Uses from", { type: "number", min: 0, inputmode: "numeric" }),
    data.uses && field("max_uses", "to", { type: "number", min: 0, inputmode: "numeric" }),
    data.fidelity && field("min_fidelity", "Fidelity from", { type: "number", min: 0, max: 1, step: "any" }),
    data.fidelity && field("max_fidelity", "to", { type: "number", min: 0, max: 1, step: "any" }),
    data.replication && field("min_replication", "Replication from", { type: "number", min: 0, max: 1, step: "any" }),
  );
  const page = append(h("div", { class: "view list-view" }), [
    h("h1", { tabindex: -1 }, "Atoms of ", h("span", { class: "site" }, context.site)),
    h("p", { class: "lead" }, "Each atom is labelled by an activation of the model, read at one token of the corpus: the one that it is, or that it is near to. The token is marked in its own prompt."),
    data.trouble && h("p", { class: "note" }, data.trouble),
    filters,
    status,
    place,
    h("p", { class: "nothing", role: "status" }, "No atom fits. Search for less, or clear the fields."),
  ]);
  return { page, title: `Atoms of ${context.site}`, shown: fill };
}
