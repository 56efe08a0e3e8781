// The tokens of a text as buttons: each with a bar for the share explained, or all tinted by one atom.

import { h, count, percent, signed, short } from "./dom.js";
import { named, tint, tokenText } from "./text.js";
import { link } from "./state.js";

/** The readouts: what a choice is called, what its number is, what the share explained is of, and what its atoms are. */
export const READOUTS = {
  code: { title: "code: atoms that add up to the activation", number: "Coefficient", by: "explained", list: (atoms) => `${atoms}, the largest first` },
  levels: { title: "levels: broad atoms, then details", number: "Coefficient", by: "explained", list: (atoms) => `${atoms}, the largest first` },
  similarity: { title: "similarity: the nearest atoms", number: "Cosine", by: "explained by its code", list: (atoms) => `${atoms} by the cosine, the nearest first` },
  features: { title: "features: detectors that fire", number: "Score", by: "explained by its code", list: (atoms) => `${atoms} whose detectors fire, by the score in standard deviations` },
};
/** The number of the readouts that are no code, in a sentence. */
export const OTHERS = { similarity: "cosine", features: "score" };
/** What a text can be tinted by: the number of the readout, or one that every token has. */
const TINTS = { cosine: "cosine to the atom", score: "score of its detector" };

export function readoutOf(data) {
  return READOUTS[data.readout ?? "code"];
}

/** The places of a token's atoms in the order in which they are listed: of a code, the largest coefficient first. */
export function listed(data, token) {
  const [ids, values] = data.codes[token];
  const order = ids.map((_, place) => place);
  return data.readout in OTHERS ? order : order.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b);
}

/** What a text is tinted by where nothing else is chosen. */
function numberName(data) {
  return OTHERS[data.readout] ?? "coefficient";
}

/** The weight of an atom at each token; null where it has none. A massive token would outshine all others: it has none. */
export function weightsOf(data, atom, by) {
  const known = data.chosen?.atom === atom ? { cosine: data.chosen.cosine, score: data.chosen.score }[by] : null;
  return data.codes.map(([ids, values], place) => {
    if (atom === null || data.explained[place] === null) return null;
    return by ? (known?.[place] ?? null) : (values[ids.indexOf(atom)] ?? null);
  });
}

/** A choice of what a text is tinted by. */
export function tintChoice(data, by, offersScore, onchoose) {
  const kinds = [["", numberName(data)], ["cosine", TINTS.cosine], ...(offersScore ? [["score", TINTS.score]] : [])];
  return h("div", { class: "choices", role: "group", "aria-label": "Tint by" }, "Tint by ",
    kinds.map(([kind, title]) => h("label", {}, h("input", { type: "radio", name: "tint-by", value: kind, checked: kind === (by ?? ""), onchange: () => onchoose(kind) }), " " + title)));
}

export function massive(data, place) {
  return `massive, its norm ${short(data.massive[place])} times the median`;
}

/** `state`: token chosen, atom to tint by, `by`; `select(place)` is called for a token that is chosen. */
export function tokenStrip(data, state, select, where, more = null) {
  const weights = weightsOf(data, state.atom, state.by);
  const largest = Math.max(...weights.map((w) => Math.abs(w ?? 0)));
  const number = state.by ? TINTS[state.by] : numberName(data);
  const edges = new Set((data.windows ?? []).slice(1));
  const buttons = data.tokens.map((text, place) => {
    const bytes = data.bytes[place];
    const chosen = place === state.token;
    const explained = data.explained[place];
    const name = `${named(text, bytes)}, ${explained === null ? massive(data, place) : `${percent(explained)} explained`}` + (weights[place] !== null ? `, ${number} ${signed(weights[place])}` : "");
    const button = h("button", {
      type: "button", class: explained === null ? "token massive" : "token", "data-token": place, tabindex: chosen ? 0 : -1, "aria-pressed": chosen ? "true" : "false", "aria-label": name, title: name,
      style: { "--explained": (100 * (explained ?? 0)).toFixed(1) + "%" }, onclick: () => select(place),
    }, h("bdi", {}, tokenText(text, bytes, { edges: text.includes("\n") })));
    if (weights[place] !== null) tint(button, weights[place], largest);
    // The sign of a newline stays on its line; what indents the next one goes there, for the eye only.
    const shown = text.includes("\n") && !bytes ? [button, h("br"), h("span", { "aria-hidden": "true" }, text.slice(text.lastIndexOf("\n") + 1))] : button;
    return edges.has(place) ? [h("span", { class: "window-edge", title: "A new window begins here: the model does not see what is before it" }, "│"), shown] : shown;
  });
  const strip = h("div", {
    class: state.atom === null ? "strip" : "strip tinted", role: "group", "aria-label": "Tokens; arrow keys move from one to the next", dir: "auto",
    onkeydown: (event) => {
      const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -data.tokens.length, End: data.tokens.length };
      if (!(event.key in moves)) return;
      event.preventDefault();
      select(Math.max(0, Math.min(data.tokens.length - 1, (state.token ?? 0) + moves[event.key])));
    },
  }, buttons);
  const windows = edges.size > 0 && ` The text is too long to be read at once, so it was cut into ${count(edges.size + 1)} windows, as the corpus is.`;
  return h("section", { class: "card", "aria-label": "Text" }, strip, h("p", { class: "muted" }, state.atom === null ? explanation(data) : tintLine(weights, number, state, where), windows), more);
}

function explanation(data) {
  const ordinary = data.explained.filter((each) => each !== null);
  const mean = ordinary.reduce((a, b) => a + b, 0) / Math.max(1, ordinary.length);
  const apart = data.explained.length - ordinary.length;
  return [`The bar under a token is the share of its activation that ${data.readout in OTHERS ? "its code explains" : "its atoms explain"}; `, h("strong", {}, ordinary.length ? percent(mean) : "–"), " on average.",
    apart > 0 && ` A dashed frame marks massive activations (${count(apart)} ${apart === 1 ? "token" : "tokens"}), which are many times as long as the median and say little about the text. The average leaves them out.`];
}

function tintLine(weights, number, state, where) {
  const tinted = weights.filter((weight) => weight !== null).length;
  const atom = h("a", { href: link("atom", { ...where, atom: state.atom }) }, `atom ${count(state.atom)}`);
  if (!tinted) return ["No token here has ", atom, " in its code. Tint by the cosine to see how near each token is to it."];
  return [`Tinted by the ${number} of `, atom, ": blue is positive, orange and dashed is negative. ", !state.by && `${count(tinted)} of ${count(weights.length)} ${weights.length === 1 ? "token has" : "tokens have"} it.`];
}
