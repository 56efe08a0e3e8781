// The atoms of one token and of a whole text, as tables.

import { h, count, percent, short, signed } from "./dom.js";
import { chip, keyword } from "./text.js";
import { canAsk } from "./api.js";
import { link } from "./state.js";
import { meter } from "./charts.js";
import { listed, massive, OTHERS, READOUTS, readoutOf } from "./strip.js";
import { noteSigns } from "./notes.js";

const SHOWN_OF_TEXT = 24;
const SHARE_HINT = "The share of the token's activation that the atom explains: its coefficient's square, divided by the sum of all squares, times the share that the code explains";

/** `tools`: shade(atom), where, notes. */
export function detail(data, state, tools) {
  const side = data.beside && Object.entries(data.beside).filter(([name]) => name in OTHERS).map(([name, rows]) => besideCard(name, rows[state.token], data.beside, state, tools));
  const own = h("section", { class: "card", "aria-label": "The chosen token" }, tokenTable(data, state, tools));
  return h("div", {}, side?.length ? h("div", { class: "columns" }, own, h("div", { class: "side-column" }, side)) : own, wholeText(data, state, tools));
}

/** The atoms of the chosen token, the largest first; of a code with their shares and when they were picked. */
function tokenTable(data, state, tools) {
  const [ids, values] = data.codes[state.token];
  const { number, by, list } = readoutOf(data);
  const explained = data.explained[state.token];
  const isCode = !(data.readout in OTHERS);
  const largest = Math.max(0, ...values.map(Math.abs));
  const squares = values.reduce((sum, value) => sum + value * value, 0);
  const order = listed(data, state.token);
  const share = (place) => (explained === null ? "–" : percent((Math.max(0, explained) * values[place] ** 2) / (squares || 1)));
  const atoms = list(`${ids.length} ${ids.length === 1 ? "atom" : "atoms"}`);
  const columns = [[number], ...(isCode ? [["Share", SHARE_HINT], ["Picked", "At which step the pursuit picked the atom: 1 is the first"]] : []), ["Atom"], ["The atom's own prompt"], ["Show", "Tint the text by this atom"]];
  const doubt = ids.some((atom) => data.unreplicated.includes(atom)) && h("p", { class: "muted" }, "Grey, with a question mark: the atom does not replicate, so do not take it for a finding.");
  return [h("table", { class: isCode ? "codes of-code" : "codes" },
    h("caption", {}, chip(data.tokens[state.token], data.bytes[state.token]), " ", explained === null ? [massive(data, state.token), `; ${atoms}`] : [h("strong", {}, percent(explained)), ` ${by}; ${atoms}`]),
    h("thead", {}, h("tr", {}, columns.map(([title, hint]) => h("th", { scope: "col", title: hint }, title)))),
    h("tbody", {}, order.map((place) => row(data, ids[place], [
      h("td", { class: "weight-cell" }, h("span", { class: "number" }, signed(values[place])), meter(values[place], largest)),
      isCode && h("td", { class: "share-cell" }, share(place)),
      isCode && h("td", { class: "pick-cell" }, place + 1),
    ], state, tools)))), doubt];
}

/** What another readout says of the token, beside its code. */
function besideCard(name, [ids, values], known, state, tools) {
  const { number } = READOUTS[name];
  const [title, none] = { similarity: ["Nearest atoms", ""], features: ["Detectors that fire", "No detector fires at this token."] }[name];
  const data = { labels: known.labels, unreplicated: known.unreplicated };
  return h("section", { class: "card beside", "aria-label": title },
    h("table", { class: "codes" }, h("caption", {}, h("strong", {}, title), h("span", { class: "muted" }, name === "similarity" ? " by the cosine to the activation" : " by the score in standard deviations")),
      h("thead", {}, h("tr", {}, [number, "Atom", "Its own prompt", "Show"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, ids.map((atom, place) => row(data, atom, [h("td", { class: "number-cell" }, values[place].toFixed(2).replace("-", "−"))], state, tools, name)))),
    ids.length === 0 && h("p", { class: "muted" }, none));
}

function wholeText(data, state, tools) {
  const sums = new Map();
  data.codes.forEach(([atoms, weights], token) => data.explained[token] !== null && atoms.forEach((atom, place) => {
    const sum = sums.get(atom) ?? { weight: 0, tokens: 0 };
    sums.set(atom, { weight: sum.weight + Math.abs(weights[place]), tokens: sum.tokens + 1 });
  }));
  const strongest = [...sums].sort((a, b) => b[1].weight - a[1].weight).slice(0, SHOWN_OF_TEXT);
  const most = strongest[0]?.[1].weight ?? 0;
  return h("details", { class: "card", open: false },
    h("summary", {}, `Atoms of the whole text, ${count(sums.size)} in all`),
    h("table", { class: "codes" },
      h("caption", {}, `Sorted by the sum of their ${OTHERS[data.readout] ?? "coefficient"}s over all tokens, without signs`),
      h("thead", {}, h("tr", {}, ["Sum, tokens", "Atom", "The atom's own prompt", "Show"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, strongest.map(([atom, { weight, tokens }]) => row(data, atom, [h("td", { class: "weight-cell" }, h("span", { class: "number" }, short(weight)), h("span", { class: "muted" }, ` × ${tokens}`), meter(weight, most))], state, tools)))));
}

function row(data, atom, first, state, { shade, where, notes }, by = null) {
  const [before, token, after] = data.labels[atom];
  const known = canAsk("atom", { ...where, atom: String(atom) });
  const tintBy = { similarity: "cosine", features: "score" }[by] ?? "";
  const shown = state.atom === atom && (state.by ?? "") === tintBy;
  const doubtful = data.unreplicated.includes(atom);
  return h("tr", { class: doubtful ? "unreplicated" : null, title: doubtful ? "does not replicate: do not take it for a finding" : null },
    first,
    h("td", { class: "id" }, doubtful && h("span", { title: "does not replicate" }, "?"), known ? h("a", { href: link("atom", { ...where, atom }) }, count(atom)) : count(atom)),
    h("td", { class: "prompt-cell" }, noteSigns(notes, atom), keyword(before, token, after)),
    h("td", { class: "shade-cell" }, h("button", { type: "button", class: "shade", "data-shade": atom, "data-by": tintBy, "aria-pressed": shown ? "true" : "false", "aria-label": `Show where atom ${atom} is used`, title: "Tint the text by this atom", onclick: () => shade(atom, tintBy) }, shown ? "●" : "○")));
}
