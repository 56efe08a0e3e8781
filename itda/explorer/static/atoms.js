// The rows of a list of atoms: columns, order, and which rows pass the filters of the address.

import { h, count, percent, short, signed } from "./dom.js";
import { named } from "./text.js";
import { link } from "./state.js";
import { matched } from "./match.js";
import { noteSigns } from "./notes.js";

/** Columns that can be sorted and filtered by their numbers: key, title, a short one for a phone, hint. */
const NUMBERS = [
  ["uses", "Uses", "uses", "Indexed tokens whose code has the atom"],
  ["strongest", "Strongest", "strongest", "The largest coefficient of the atom in the indexed tokens"],
  ["fidelity", "Fidelity", "fidelity", "Cosine of the atom to the activation that its label names"],
  ["novelty", "Novelty", "novelty", "Share of the atom's activation that the atoms before it left unexplained"],
  ["replication", "Replication", "replicates", "Share of the dictionaries made from other documents that have an atom like it. Grey: less than half, so do not take the atom for a finding"],
  ["effect_continuation", "Effect", "effect", "What the atom does when it is added at the last token of a text: by how many nats the log-probability of what follows in the atom's own prompt rises, minus the rise by random atoms"],
  ["effect_promoted", "On promoted", "on promoted", "The same for the tokens that its direction promotes"],
];
/** The numbers that the list filters by: key, name in the form, whether there is an upper limit, attributes. */
export const FILTERED = [
  ["uses", "Uses", true, { min: 0, step: 1 }],
  ["fidelity", "Fidelity", true, { min: 0, max: 1, step: "any" }],
  ["replication", "Replication", false, { min: 0, max: 1, step: "any" }],
  ["effect_continuation", "Effect", false, { step: "any" }],
];

/** What the columns of a list of atoms look like; `uses` and others are there only where they are known. */
export function atomColumns(data) {
  return [
    { key: "atom", title: "Atom", hint: "Number, in the order in which atoms were added", sort: true },
    { key: "prompt", title: "Its own prompt", hint: "The text around the token whose activation the atom is, or is nearest to. That token is marked" },
    ...NUMBERS.filter(([key]) => data[key]).map(([key, title, brief, hint]) => ({ key, title, short: brief, hint, sort: true })),
  ];
}

const SHOWN = {
  uses: (value, data) => [count(value), h("span", { class: "muted" }, " " + percent(value / data.tokens))],
  strongest: (value) => short(value),
  fidelity: (value) => value.toFixed(3),
  novelty: (value) => percent(value),
  replication: (value, data, row) => (data.replicates[row] ? percent(value) : [percent(value), h("span", { class: "muted" }, " not again")]),
  effect_continuation: nats,
  effect_promoted: nats,
};

/** A change of a log-probability; for atoms that were not measured it is null, or NaN where it came packed. */
function nats(value) {
  return Number.isFinite(value) ? signed(value) : "–";
}

/** The row of a list: cells in the order of `atomColumns`. `row` is the place in the columns of `data`. */
export function atomRow(data, row, context, where = "text", notes = null) {
  const id = data.idOf(row);
  const doubtful = data.replicates && !data.replicates[row];
  const href = link("atom", { run: context.run, site: context.site, atom: id });
  const numbers = NUMBERS.filter(([key]) => data[key]).map(([key]) => SHOWN[key](data[key][row], data, row));
  if (!data.isHere(row)) return { href, name: `Atom ${id}`, className: "coming", cells: [count(id), "…", ...numbers] };
  const text = { before: data.before[row], token: data.token[row], after: data.after[row], bytes: data.bytes[row] };
  const other = where === "document" ? data.documentOf(row) : where === "note" ? notes?.text(id) ?? "" : "";
  const line = matched(text, where, data.matchOf(row), other);
  const signs = noteSigns(notes, id);
  return {
    href,
    name: `Atom ${id}, token ${named(text.token, text.bytes)}${doubtful ? ", does not replicate" : ""}`,
    className: doubtful ? "unreplicated" : "",
    cells: [count(id), signs ? h("span", { class: "with-signs" }, signs, line) : line, ...numbers],
  };
}

/** Rows that pass the filters, of those that a search found or of all, in the order asked for. */
export function chosenRows(data, params, hits) {
  const limit = (name, values) => {
    const least = params["min_" + name] === undefined ? -Infinity : Number(params["min_" + name]);
    const most = params["max_" + name] === undefined ? Infinity : Number(params["max_" + name]);
    return values && (least > -Infinity || most < Infinity) ? (row) => values[row] >= least && values[row] <= most : null;
  };
  const tests = FILTERED.map(([name]) => limit(name, data[name])).filter(Boolean);
  const some = hits ?? Array.from({ length: data.size }, (_, row) => row);
  const rows = tests.length ? some.filter((row) => tests.every((test) => test(row))) : [...some];
  const { key, descending } = sortOf(data, params);
  const values = key === "atom" ? data.idOf : (row) => (Number.isFinite(data[key][row]) ? data[key][row] : -Infinity); // what is not known comes after the least
  const way = descending ? -1 : 1;
  // Unless another order is asked for, what does not replicate comes last: it is no finding.
  const last = params.sort || !data.replicates ? () => 0 : (row) => (data.replicates[row] ? 0 : 1);
  return rows.sort((a, b) => last(a) - last(b) || way * (values(a) - values(b)) || a - b);
}

/** What a list says of its atoms that do not replicate; nothing where there is none, or where it is not known. */
export function doubt(data, rows) {
  const number = data.replicates ? rows.filter((row) => !data.replicates[row]).length : 0;
  return number ? `; ${count(number)} in grey ${number === 1 ? "does" : "do"} not replicate` : "";
}

/** The order of a list: the most used first, unless the address says otherwise. */
export function sortOf(data, params) {
  const usable = ["atom", ...NUMBERS.map(([key]) => key)].filter((key) => key === "atom" || data[key]);
  const key = usable.includes(params.sort) ? params.sort : data.uses ? "uses" : "atom";
  return { key, descending: params.order ? params.order === "down" : key !== "atom" };
}
