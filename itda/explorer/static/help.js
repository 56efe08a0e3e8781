// Help on every page: what the view shows, the keys, and what the words mean.

import { h } from "./dom.js";

const VIEWS = {
  start: "What the run is, how good its dictionary is, and ten atoms chosen by a rule that is said there.",
  atoms: "All atoms of a site. Search by text, token, document, note or a regular expression; write #973 to find an atom by its number. Filters combine, and the address keeps them.",
  atom: "One atom: its own prompt, the tokens that use it, the next tokens that it promotes, the atoms like it, and your notes.",
  prompt: "A text, token by token. Choose a token to see its atoms; Show tints the text by one atom.",
  corpus: "Search in the text that was indexed, and see which atom is the strongest where it is found.",
  compare: "Two sites, by how many labels their dictionaries share.",
  overview: "What made the run, what was measured, how the dictionaries grew.",
};
const KEYS = [["/", "go to the search box"], ["↓", "from the search box into the list; ↑ goes back"], ["Enter", "open what is chosen"], ["[ and ]", "the atom before and after"], ["← →", "from token to token"], ["?", "this help"]];
const WORDS = [
  ["Activation", "The vector that the model computes at one token, at one site."],
  ["Site", "Where in the model: a layer, and which of its streams."],
  ["Atom", "A direction of the dictionary. It was an activation, at one token of one document, or is near to one."],
  ["Own prompt", "The text in which the activation was read, up to the marked token and a little after."],
  ["Code", "The few atoms, with their coefficients, whose sum stands for an activation."],
  ["Coefficient", "How much of an atom a code has. It can be negative."],
  ["Share", "How much of an activation's energy an atom explains: its coefficient's square, as a part of all."],
  ["Explained", "The share of an activation's energy that its whole code explains."],
  ["Picked", "At which step the pursuit chose the atom: the first took most of what was left."],
  ["Uses", "Tokens of the index whose code has the atom."],
  ["Fidelity", "The cosine of a refined atom to the activation that its label names."],
  ["Novelty", "How much of the atom's activation the atoms before it left unexplained."],
  ["Replication", "In how many draws of other documents the atom came back. In fewer than half: no finding."],
  ["Similarity", "The cosine of an activation to an atom: how near it is, whether its code has the atom or not."],
  ["Feature", "A detector fitted for an atom; its score is in standard deviations."],
  ["Massive", "A token whose norm is many times the median. It says little of the text and is left out of averages."],
];

/** The button of the header; `view()` is the name of the view that is shown. */
export function helpButton(view) {
  const dialog = h("dialog", { class: "help", "aria-labelledby": "help-title" });
  const open = () => {
    const words = WORDS.map(([word, meaning]) => h("div", {}, h("dt", {}, word), h("dd", {}, meaning)));
    dialog.replaceChildren(
      h("div", { class: "title-line" }, h("h2", { id: "help-title" }, "Help"), h("button", { type: "button", onclick: () => dialog.close() }, "Close")),
      VIEWS[view()] && h("p", {}, h("strong", {}, "This page. "), VIEWS[view()]),
      h("h3", {}, "Keys"), h("dl", { class: "keys" }, KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))),
      h("h3", {}, "Words"), h("dl", {}, words));
    dialog.showModal();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "?" && !dialog.open && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) open();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return [h("button", { type: "button", class: "theme", "aria-haspopup": "dialog", onclick: open }, "Help"), dialog];
}
