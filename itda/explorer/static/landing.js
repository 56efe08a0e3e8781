// The first page of a run: what it is, how good, ten atoms worth seeing, prompts to try.

import { h, append, count, percent } from "./dom.js";
import { keyword, visible } from "./text.js";
import { ask, canAsk, carriedPrompts, standalone } from "./api.js";
import { go, link } from "./state.js";
import { useLine } from "./uses.js";
import { notesOf, noteSigns } from "./notes.js";

export async function startView(params, context) {
  const where = { run: context.run, site: context.site };
  const [data, notes] = await Promise.all([ask("start", where), notesOf(context)]);
  const page = append(h("div", { class: "view start-view" }), [
    h("h1", { tabindex: -1 }, h("bdi", {}, context.run), " ", h("span", { class: "site" }, context.site)),
    h("p", { class: "lead" }, `${count(data.atoms)} atoms of `, h("bdi", {}, data.model), `, read in ${count(data.tokens)} tokens of `, h("bdi", {}, data.corpus), ` (${data.part} part). ${data.centres ? "An atom is the centre of a group of activations; its label is the prompt of the activation nearest to it" : "An atom is an activation of the model at one token of one document, and has that prompt for a label"}. What the model computes at any token is written as a sum of at most ${data.k} atoms.`),
    h("div", { class: "columns" },
      bestCard(data, where, notes),
      h("div", { class: "side-column" }, goodCard(data, context), promptsCard(data, context, where), nextCard(where))),
  ]);
  return { page, title: `${context.run}, ${context.site}` };
}

function bestCard(data, where, notes) {
  const criteria = [data.best[0]?.uses !== null && "used often, but not everywhere", data.replication && "found again in other documents", "unlike each other"].filter(Boolean).join(", ");
  return h("section", { class: "card best", "aria-labelledby": "best" },
    h("h2", { id: "best" }, `${data.best.length === 10 ? "Ten" : count(data.best.length)} atoms worth seeing`),
    h("p", { class: "muted" }, `Chosen by a rule: ${criteria}. Below each atom are the tokens that use it most, with its coefficient there.`),
    data.trouble && h("p", { class: "note" }, visible(data.trouble)),
    h("ol", {}, data.best.map((one) => bestAtom(one, where, notes))));
}

function bestAtom(one, where, notes) {
  const [before, token, after] = one.text;
  const known = canAsk("atom", { ...where, atom: String(one.atom) });
  const line = [h("span", { class: "best-number" }, count(one.atom)), keyword(before, token, after, one.bytes)];
  const largest = Math.max(0, ...one.examples.map((each) => Math.abs(each.coefficient)));
  const told = [one.uses !== null && `used by ${count(one.uses)} of ${count(one.tokens)} tokens`, one.replication !== null && `found in ${percent(one.replication)} of the dictionaries made from other documents`].filter(Boolean).join("; ");
  return h("li", {},
    known ? h("a", { class: "best-atom", href: link("atom", { ...where, atom: one.atom }), "aria-label": `Atom ${one.atom}` }, line) : h("span", { class: "best-atom" }, line),
    noteSigns(notes, one.atom),
    told && h("p", { class: "muted" }, told),
    h("ol", { class: "examples" }, one.examples.map((each) => useLine(each, largest, where))));
}

function goodCard(data, { run }) {
  const { measured, replication, explained } = data;
  const facts = [
    explained !== null && ["Explained", `${percent(explained)} of a token's activation, on average`],
    measured?.fvu !== undefined && measured?.fvu !== null && ["Left over", `${percent(measured.fvu)} of the variance (fvu), on held-out text`],
    measured?.ce_loss_score !== undefined && measured?.ce_loss_score !== null && ["Predictions", `the CE loss score is ${measured.ce_loss_score.toFixed(3)}; 1 is as good as without the dictionary`],
    replication && ["Replication", `${percent(replication.in_half)} of the atoms come back from other documents`],
  ].filter(Boolean);
  return h("section", { class: "card", "aria-labelledby": "good" }, h("h2", { id: "good" }, "How good it is"),
    data.verdict.slice(0, 1).map((line) => h("p", {}, line)),
    facts.length > 0 && h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    !measured && h("p", { class: "muted" }, "Not measured yet. To measure it: ", h("code", {}, "itda evaluate RUN"), "."),
    !replication && h("p", { class: "muted" }, "To find out whether atoms come back from other documents: ", h("code", {}, "itda replicate RUN"), "."));
}

function promptsCard(data, context, where) {
  const texts = standalone ? carriedPrompts().filter(([run, site]) => run === context.run && site === context.site).map(([, , text]) => text) : data.prompts;
  if (!texts.length || (!standalone && !context.live)) return null;
  const box = h("textarea", { rows: 2, spellcheck: "false", dir: "auto", placeholder: "Type or paste text" });
  return h("section", { class: "card", "aria-labelledby": "try" }, h("h2", { id: "try" }, "Take a prompt apart"),
    !standalone && h("form", { class: "prompt-form", onsubmit: (event) => { event.preventDefault(); if (box.value.trim()) go("prompt", { ...where, text: box.value }); } },
      h("label", { class: "field" }, h("span", {}, "Your text"), box), h("div", {}, h("button", {}, "Take apart"))),
    h("p", { class: "muted" }, standalone ? "This page carries:" : "Or one of these:"),
    h("ul", { class: "prompts" }, texts.map((text) => h("li", {}, h("a", { href: link("prompt", { ...where, text }) }, h("bdi", {}, visible(text.length > 90 ? "…" + text.slice(-88) : text)))))));
}

function nextCard(where) {
  const ways = [["atoms", "All atoms", standalone ? "search, filter and sort those that this page carries" : "search, filter, sort, and keep notes"], ["corpus", "The corpus", standalone ? "not in this page; `itda explore RUN` searches it" : "find a text, and the atoms there"], ["overview", "Overview", "what made the run, and what was measured"], ["compare", "Compare", "two layers or two runs"]].filter(Boolean);
  return h("section", { class: "card", "aria-labelledby": "next" }, h("h2", { id: "next" }, "Where to go"),
    h("ul", { class: "prompts" }, ways.map(([view, title, what]) => h("li", {}, h("a", { href: link(view, where) }, title), h("span", { class: "muted" }, ": " + what)))));
}
