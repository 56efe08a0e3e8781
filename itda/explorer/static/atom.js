// One atom: where it is from, where it is used, what it does.

import { h, append, count, percent, short, signed } from "./dom.js";
import { chip, keyword, named, passage, tint, visible } from "./text.js";
import { ask, canAsk, standalone } from "./api.js";
import { link } from "./state.js";
import { histogram, meter, ranks } from "./charts.js";
import { steeringPanel } from "./steer.js";
import { useLine } from "./uses.js";
import { elsewhereCard } from "./elsewhere.js";
import { savePicture } from "./picture.js";
import { copyText } from "./save.js";
import { tintedCard } from "./tinted.js";
import { notesCard, notesOf } from "./notes.js";

export async function atomView(params, context) {
  const query = { run: context.run, site: context.site, atom: params.atom ?? "0" };
  const [data, notes] = await Promise.all([ask("atom", query), notesOf(context)]);
  const { label, uses } = data;
  const name = named(label.token, label.bytes);
  const near = (step) => {
    const other = data.atom + step;
    const known = other >= 0 && other < data.atoms && canAsk("atom", { ...query, atom: String(other) });
    return known && h("a", { class: "button", rel: step < 0 ? "prev" : "next", href: link("atom", { ...query, atom: other }) }, step < 0 ? "← previous" : "next →");
  };
  const panel = steeringPanel({ where: { run: context.run, site: context.site }, context, params, atom: data.atom, start: label.before + label.token });
  const own = h("bdi", { class: "atom-name" });
  const showName = () => own.replaceChildren(notes.of(data.atom).star ? " ★ " : " ", notes.of(data.atom).name);
  showName();
  const page = append(h("article", { class: "view atom-view" }), [
    h("header", { class: data.replication && !data.replication.replicates ? "atom-head unreplicated" : "atom-head" },
      h("h1", { tabindex: -1 }, `Atom ${count(data.atom)} `, chip(label.token, label.bytes), own),
      h("nav", { class: "steps", "aria-label": "Neighbouring atoms" }, near(-1), near(1))),
    tools(data, context, notes),
    h("p", { class: "summary" }, summary(data)),
    replication(data.replication),
    h("section", { class: "card", "aria-labelledby": "own" },
      h("h2", { id: "own" }, "Its own prompt"),
      passage(label.before, label.token, label.after, label.bytes),
      h("p", { class: "muted source" }, "token ", count(label.position), " of ", h("bdi", {}, visible(label.document)))),
    panel.element,
    activationsCard(data),
    h("div", { class: "columns" },
      h("div", { class: "main-column" }, usesSection(data, context), context.live && tintedCard(data.atom, context)),
      h("div", { class: "side-column" },
        notesCard(notes, data.atom, showName),
        effects(query),
        measured(data.effects),
        uses && uses.histogram && chartCard("Coefficients", `The atom's coefficient at each token that uses it. Half of them are larger than ${short(uses.median)}, without the sign.`,
          histogram({ ...uses.histogram, unit: "uses", tone: "signed", label: `Histogram of the coefficients of ${count(uses.uses)} uses, from ${short(uses.histogram.edges[0])} to ${short(uses.histogram.edges.at(-1))}` })),
        uses && uses.uses > 0 && chartCard("Pick order", "At which step of the pursuit the atom is picked. 1 is the first step.",
          ranks({ counts: uses.steps, unit: "uses", name: "step", label: `Histogram of pick order: ${percent(uses.steps[0] / Math.max(1, uses.uses))} of uses at the first step` })),
        nearestCard(data, context),
        elsewhereCard(query, context))),
  ]);
  return { page, title: `Atom ${data.atom} ${name}`, shown: panel.shown };
}

/** Buttons that copy or save what is seen. */
function tools(data, context, notes) {
  const status = h("span", { class: "muted", role: "status" });
  const run = context.runs.find((each) => each.run === context.run) ?? {};
  const { label } = data;
  const cited = `Atom ${data.atom} (${named(label.token, label.bytes)}, token ${label.position} of ${label.document}) of ${context.site} of ${run.model}, in the dictionary ${context.run}, made with itda from ${run.corpus}.`;
  const copy = async (text, what) => { status.textContent = (await copyText(text)) ? `${what} copied.` : `The browser does not allow copying: ${text}`; };
  const about = () => ({ run: context.run, site: context.site, name: notes.of(data.atom).name });
  const save = async (kind) => { try { await savePicture(data, about(), kind); } catch (error) { status.textContent = error.message; } };
  const button = (text, act) => h("button", { type: "button", onclick: act }, text);
  return h("div", { class: "tools", role: "group", "aria-label": "Copy or save" },
    button("Copy link", () => copy(location.href, "Link")), button("Copy citation", () => copy(cited, "Citation")), button("Save as SVG", () => save("svg")), button("Save as PNG", () => save("png")), status);
}

function summary(data) {
  const { uses } = data;
  const parts = [];
  if (uses) {
    parts.push(h("strong", {}, uses.uses === 0 ? "Used by none" : `Used by ${count(uses.uses)}`), ` of ${count(uses.tokens)} tokens`, uses.uses > 0 && ` (${percent(uses.uses / uses.tokens)})`);
    if (uses.negative) parts.push(`, with a negative coefficient in ${percent(uses.negative / uses.uses)} of them`);
    parts.push(". ");
  }
  if (data.novelty !== null && data.novelty !== undefined) parts.push(`When it was added, the atoms before it left ${percent(data.novelty)} of its activation unexplained. `);
  if (data.fidelity !== null && data.fidelity !== undefined) parts.push(`Its cosine to the activation that its label names (its fidelity) is ${data.fidelity.toFixed(3)}.`);
  return parts;
}

/** How often the atom came back, and a word of warning where it did not. */
function replication(found) {
  if (!found) return null;
  const times = found.cosines.filter((cosine) => cosine >= found.cosine - 5e-7).length;
  return h("p", { class: found.replicates ? "summary" : "summary note" },
    h("strong", {}, found.replicates ? "Replicates: " : "Does not replicate: "),
    `of ${found.draws} dictionaries made from other documents, ${times} ${times === 1 ? "has" : "have"} an atom like it, with a cosine of at least ${found.cosine} (the nearest in each: ${found.cosines.map((cosine) => cosine.toFixed(2)).join(", ")}). `,
    !found.replicates && "What it shows may be an accident of the documents that were read, so do not take it for a finding. ",
    found.tokens > 0 && `Of the tokens whose strongest atom it is, ${percent(found.strongest)} have a strongest atom of the same direction there, too. `,
    h("span", { class: "muted" }, `For comparison: an average atom comes back in ${percent(found.mean)} of the dictionaries, an average activation in ${percent(found.chance)}.`));
}

function usesSection(data, context) {
  const { uses } = data;
  if (!uses) return h("section", { class: "card" }, h("h2", {}, "Where it is used"), h("p", { class: "note" }, data.trouble));
  if (uses.uses === 0) return h("section", { class: "card" }, h("h2", {}, "Where it is used"), h("p", {}, `No token of ${uses.corpus} uses it.`));
  const largest = Math.max(...uses.histogram.edges.map(Math.abs));
  const [top, ...others] = uses.groups;
  const bands = others.filter((group) => group.kind === "band" && group.examples.length);
  const negative = others.find((group) => group.kind === "negative");
  return h("section", { class: "card uses", "aria-labelledby": "uses" },
    h("h2", { id: "uses" }, "Where it is used"),
    h("p", { class: "muted legend-line" },
      "The two numbers are the atom's coefficient at the marked token, and the share of that token's activation that the atom explains. Tokens in ",
      tint(h("span", { class: "weight" }, "blue"), 1, 1), " have the atom with a positive coefficient, tokens in ",
      tint(h("span", { class: "weight" }, "orange, dashed"), -1, 1), " with a negative one."),
    top && top.kind === "top" && [h("h3", {}, "Strongest"), examples(top, largest, context)],
    (negative ?? (top.kind === "negative" ? top : null)) && [h("h3", {}, "Most negative"), examples(negative ?? top, largest, context)],
    bands.length > 0 && h("h3", {}, "From strong to weak"),
    bands.map((group) =>
      h("div", { class: "band" },
        h("h4", {}, bandName(group), h("span", { class: "muted" }, `  ${short(group.range[0])} to ${short(group.range[1])}, ${count(group.uses)} uses`)),
        examples(group, largest, context))),
  );
}

function bandName(group) {
  const [low, high] = group.quantiles.map((q) => Math.round(100 * q));
  return high === 100 ? `Strongest ${100 - low}%` : low === 0 ? `Weakest ${high}%` : `${low}–${high}% by strength`;
}

function examples(group, largest, context) {
  return h("ol", { class: "examples" }, group.examples.map((one) => useLine(one, largest, context)));
}

/** The nearest activations of other documents: what they share with the atom's own prompt is what it means. */
function activationsCard(data) {
  if (!data.activations?.length) return null;
  return h("section", { class: "card", "aria-labelledby": "activations" },
    h("h2", { id: "activations" }, "Nearest activations in other documents"),
    h("p", { class: "muted" }, "The nearest activation of each document, by its cosine to the atom. What these texts share with the atom's own prompt is what the atom means."),
    h("ol", { class: "examples" }, data.activations.map((one) =>
      h("li", {}, h("span", { class: "example", title: `token ${one.position} of ${one.document}` },
        h("span", { class: "coefficient", title: "cosine" }, one.cosine.toFixed(3)), meter(one.cosine, 1),
        keyword(one.before.slice(-120), one.token, one.after.slice(0, 48), one.bytes))))));
}

function chartCard(title, note, chart) {
  return h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "muted" }, note), chart);
}

function nearestCard(data, context) {
  if (!data.nearest.length) return null;
  return h("section", { class: "card" }, h("h2", {}, "Nearest atoms"), h("p", { class: "muted" }, "By the cosine between atoms.", data.nearest.some((each) => each.unreplicated) && " Those in grey do not replicate."),
    h("ol", { class: "nearest" }, data.nearest.map(({ atom, cosine, text, unreplicated }) => {
      const inner = [h("span", { class: "number" }, cosine.toFixed(3)), keyword(text[0].slice(-40), text[1], text[2].slice(0, 16))];
      const known = canAsk("atom", { run: context.run, site: context.site, atom: String(atom) });
      const title = `atom ${count(atom)}${unreplicated ? ", does not replicate" : ""}`;
      return h("li", { class: unreplicated ? "unreplicated" : null }, known ? h("a", { href: link("atom", { run: context.run, site: context.site, atom }), title }, inner) : h("span", { title: `${title}, not in this file` }, inner));
    })));
}

const CHANGES = [["added_continuation", "added: what follows it"], ["added_promoted", "added: promoted tokens"], ["ablated_continuation", "ablated: what follows it"], ["ablated_promoted", "ablated: promoted tokens"]];

/** What `itda effects` measured: the atom added and ablated, beside its controls. */
function measured(found) {
  if (!found) return null;
  const value = (each) => (each === null ? "–" : signed(each));
  const rows = CHANGES.map(([key, name]) => {
    const { effect, control, low, high, p, beyond_control } = found.measures[key];
    const title = effect === null ? "not measured" : `effect minus control: ${value(low)} to ${value(high)} (95% interval); p ${short(p)}`;
    return h("tr", { title }, h("th", { scope: "row" }, name), h("td", {}, value(effect)), h("td", {}, value(control)), h("td", {}, effect === null ? "–" : beyond_control ? "yes" : "no"));
  });
  return h("section", { class: "card", "aria-labelledby": "measured" }, h("h2", { id: "measured" }, "What it does"),
    h("p", { class: "muted" }, `How the log-probability of a next token changes, in nats, when the atom is added (strength ${short(found.strength)}, ${count(found.contexts.added)} texts) or ablated (${count(found.contexts.ablated)} tokens that use it). Control: the same with other atoms. Beyond: further than 95% of the controls. `,
      found.continuation !== null && ["What follows it in its own prompt is ", chip(found.continuation), "."]),
    h("table", { class: "effects measured" }, h("thead", {}, h("tr", {}, h("td", {}), ...["effect", "control", "beyond"].map((each) => h("th", { scope: "col" }, each)))), h("tbody", {}, rows)));
}

/** The next tokens that the atom promotes and suppresses. They come later than the rest: the model has to be loaded. */
function effects(query) {
  const place = h("div", { "aria-live": "polite" }, h("p", { class: "muted" }, "Waiting for the model …"));
  const note = h("p", { class: "muted" });
  let data = null;
  let kind = "relative";
  const choice = (value, text) =>
    h("label", {}, h("input", { type: "radio", name: "effects", value, checked: value === kind, onchange: () => { kind = value; draw(); } }), " " + text);
  function draw() {
    note.textContent = kind === "relative"
      ? "The tokens that the atom's direction makes more and less likely, if only the final norm and the unembedding come after it: its logits minus those of the average atom."
      : "The tokens that the atom's direction makes more and less likely, if only the final norm and the unembedding come after it: log-probability in nats.";
    const column = (title, rows) =>
      h("table", { class: "effects" }, h("caption", {}, title), h("tbody", {}, rows.map(([token, value, bytes]) => h("tr", {}, h("th", { scope: "row" }, chip(token, bytes)), h("td", {}, kind === "relative" ? signed(value) : value.toFixed(2).replace("-", "−"))))));
    place.replaceChildren(h("div", { class: "pair" }, column("Promoted", data[kind].promoted), column("Suppressed", data[kind].suppressed)));
  }
  const section = h("section", { class: "card", "aria-labelledby": "effects" }, h("h2", { id: "effects" }, "Next tokens"), note,
    h("div", { class: "choices", role: "group", "aria-label": "What to compare with" }, choice("relative", "compared with the average atom"), choice("plain", "alone")), place);
  if (!canAsk("logits", query)) return standalone ? null : section;
  ask("logits", query).then((answer) => { data = answer; draw(); }, (error) => place.replaceChildren(h("p", { class: "note" }, error.message)));
  return section;
}
