// Help on every page: what the view shows, the keys, and what the words mean.

import { h } from "./dom.js";

const VIEWS = {
  start: "What the run is, how good its dictionary is, and ten atoms worth seeing. The page says by which rule they were chosen.",
  atoms: "All atoms of a site. Search by text, token, document, note or a regular expression; write #973 to find atom 973. Filters can be combined, and are kept in the address.",
  atom: "One atom: its own prompt, the tokens that use it, the next tokens that it promotes, the atoms like it, and your notes.",
  prompt: "A text, token by token. Choose a token to see its atoms; Show tints the text by one atom.",
  corpus: "Search in the text that was indexed, and see the strongest atom at each place that is found.",
  compare: "Two sites, by how many labels their dictionaries share.",
  overview: "What made the run, what was measured, how the dictionaries grew.",
};
const KEYS = [["/", "go to the search box"], ["↓", "from the search box into the list; ↑ goes back"], ["Enter", "open what is chosen"], ["[ and ]", "the atom before and after"], ["← →", "from token to token"], ["?", "this help"]];
const WORDS = [
  ["Activation", "The vector that the model computes at one token, at one site."],
  ["Site", "Where in the model: a layer and a stream, such as layer_4 or layer_3.mlp_out."],
  ["Stream", "Which of a layer's activations: resid_post (its output), mlp_out or attn_out."],
  ["Atom", "A direction of the dictionary: an activation at one token of one document, or the centre of a group of activations."],
  ["Own prompt", "The text around the token whose activation the atom is, or is nearest to. That token is marked."],
  ["Code", "The few atoms, with their coefficients, whose sum stands for an activation."],
  ["Coefficient", "How much of an atom a code has. It can be negative."],
  ["Share", "How much of an activation's energy an atom explains: its coefficient's square, as a part of the squares of all."],
  ["Explained", "The share of an activation's energy that its whole code explains."],
  ["Picked", "At which step the pursuit picked the atom. 1 is the first step."],
  ["Pursuit", "The way to find a code: pick the atom that fits best, subtract it, repeat."],
  ["Index", "What itda index made: which tokens of a corpus use which atom."],
  ["Uses", "How many tokens of the index have the atom in their code."],
  ["Fidelity", "The cosine of an atom to the activation that its label names. 1: the atom is that activation."],
  ["Novelty", "How much of the atom's activation the atoms before it left unexplained."],
  ["Replication", "The share of dictionaries made from other documents that have an atom like it. Less than half: do not take the atom for a finding."],
  ["Similarity", "The cosine of an activation to an atom: how near it is, whether its code has the atom or not."],
  ["Feature", "A detector fitted for an atom; its score is in standard deviations."],
  ["Massive", "An activation many times as long as the median. It says little about the text, and averages leave it out."],
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
