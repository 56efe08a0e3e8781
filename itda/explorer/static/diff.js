// What changed between two models: a verdict, the atoms of the difference in one ranking, the layers that moved; one of
// the atoms with its texts; and any text that is typed, shaded by what differs.

import { h, append, count, percent, short } from "./dom.js";
import { chip, keyword, named, visible } from "./text.js";
import { ask, canAsk, standalone } from "./api.js";
import { amend, go, link } from "./state.js";
import { shortSite } from "./heat.js";
import { largestShade, shadeChoice, shadedText } from "./shades.js";

const PAUSE_AFTER_TYPING_MS = 450;
const STRONGEST_OF_TEXT = 12;
const OPPOSITES = { promoted: "Promoted", suppressed: "Suppressed" };

/** The diff that an address names, else the first. */
function diffOf(params, context) {
  const found = context.diffs.find((each) => each.name === (params.diff ?? context.diffs[0].name));
  if (!found) throw new Error(`There is no diff ${params.diff} here. There is ${context.diffs.map((each) => each.name).join(", ")}.`);
  return found;
}

function picker(context, chosen, view) {
  if (context.diffs.length < 2) return null;
  return h("div", { class: "filters" }, h("label", { class: "field" }, h("span", {}, "Diff"),
    h("select", { name: "diff", onchange: (event) => go(view, { diff: event.target.value }) }, context.diffs.map((each) => h("option", { value: each.name, selected: each.name === chosen }, `${each.name}: ${each.base} → ${each.changed}`)))));
}

export async function diffView(params, context) {
  const { name } = diffOf(params, context);
  const data = await ask("diff", { diff: name }, { keepIt: true });
  const [first, ...others] = data.verdict;
  const page = append(h("div", { class: "view diff-view" }), [
    h("h1", { tabindex: -1 }, "What changed: ", h("bdi", {}, visible(data.base)), " → ", h("bdi", {}, visible(data.changed))),
    picker(context, name, "diff"),
    h("p", { class: "summary" }, h("strong", {}, visible(first))),
    others.map((each) => h("p", { class: "summary" }, visible(each))),
    h("p", { class: "muted" }, facts(data)),
    !data.unchanged && data.by !== null && atomsCard(data, name),
    !data.unchanged && layersCard(data, name, params.site),
  ]);
  return { page, title: `${data.base} → ${data.changed}` };
}

function facts(data) {
  const left = [data.first_left_out > 0 && `${count(data.first_left_out)} first tokens`, data.massive > 0 && `up to ${count(data.massive)} massive activations at a layer`].filter(Boolean);
  return [
    `${count(data.tokens)} tokens of ${count(data.documents)} documents of `, h("bdi", {}, visible(data.corpus)), ". ",
    data.kl !== null && !data.unchanged && `The predictions of the two models are ${short(data.kl)} nats per token apart${data.control_kl.length ? `; those of the control and the base, ${data.control_kl.map(short).join(", ")}` : ""}. `,
    data.roles && ["In conversations: ", Object.entries(data.roles).filter(([, each]) => each.kl !== null).map(([role, each]) => `${role} ${short(each.kl)} (${count(each.tokens)} tokens)`).join(", "), ". "],
    left.length > 0 && `Left out: ${left.join(" and ")}.`,
  ];
}

function atomsCard(data, name) {
  const score = (atom) => (data.by === "kl" ? atom.effect : atom.energy);
  const most = Math.max(0, ...data.atoms.map(score));
  const model = (atom) => atom.changed ?? atom.base;
  const told = data.atoms.some((atom) => model(atom));
  const judged = data.atoms.some((atom) => atom.finding !== null);
  const columns = [["id", ""], ["layer", "Layer"], judged && ["verdict", "Finding"], ["", data.by === "kl" ? "Nats per token" : "Share of energy"], ["", "Text, the token marked"], told && ["promotes", "Promotes"]].filter(Boolean);
  return h("section", { class: "card scroll-x", "aria-labelledby": "list" },
    h("h2", { id: "list" }, "The atoms of the difference"),
    h("p", { class: "muted" }, data.by === "kl"
      ? `Directions in which the models differ. Each is shown at a token where it is strong. They are sorted by how much of the difference of the predictions (the KL divergence, in nats per token) each accounts for${data.controls.length ? "; only divergence above the control's counts. × says how far an atom stands out: what it accounts for above twice the control's divergence, divided by what the control's strongest atom accounts for above twice this model's. More than 3× is a finding" : ""}.`
      : "Directions in which the models differ, sorted by the energy that they explain. Each is shown at a token where it is strong."),
    data.atoms.length === 0 ? h("p", {}, "None.") :
    h("table", { class: "codes changes" },
      h("thead", {}, h("tr", {}, columns.map(([kind, title]) => h("th", { scope: "col", class: kind || null }, title || h("span", { class: "unseen" }, "Rank"))))),
      h("tbody", {}, data.atoms.map((atom) =>
        h("tr", { class: atom.finding === true ? "found" : null },
          h("td", { class: "id" }, h("a", { href: link("change", { diff: name, site: atom.site, atom: atom.atom }), "aria-label": `${atom.rank}: ${named(atom.token)}` }, String(atom.rank))),
          h("td", { class: "layer" }, shortSite(atom.site)),
          judged && h("td", { class: "verdict" }, atom.finding ? "finding" : h("span", { class: "muted" }, "no"), atom.times !== null && h("span", { class: "muted" }, ` ${short(atom.times)}×`)),
          h("td", { class: "weight-cell" }, h("span", { class: "number" }, data.by === "kl" ? short(atom.effect) : percent(atom.energy)), bar(score(atom), most)),
          h("td", { class: "prompt-cell" }, keyword(atom.before, atom.token, atom.after)),
          told && h("td", { class: "promotes" }, (model(atom)?.promoted ?? []).slice(0, 4).map(([token]) => [chip(token), " "])))))));
}

/** A share of the largest as a bar. */
function bar(value, most) {
  return h("span", { class: "share", "aria-hidden": "true", style: { "--share": (most > 0 ? (100 * value) / most : 0).toFixed(1) + "%" } });
}

function layersCard(data, name, asked) {
  const most = Math.max(...data.sites.map((site) => site.relative_norm?.["0.99"] ?? 0));
  const size = (value) => (value === undefined || value === null ? "–" : percent(value));
  const chosen = data.sites.find((site) => site.site === asked) ?? data.sites.at(-1);
  const place = h("div", { class: "lists-of-layer" });
  const fill = (site) => place.replaceChildren(...lists(site));
  fill(chosen);
  const titles = ["Layer", "Moved", "99%", "Noise", "Mean", "Labels [95%]", "Only base", "Only changed", "Needs", "Use"];
  return h("section", { class: "card", "aria-labelledby": "layers" },
    h("h2", { id: "layers" }, "The layers that moved"),
    h("p", { class: "muted" }, "Moved: the size of the difference as a share of the activation's size: the median over tokens, and the 99th percentile. Noise: the same median for the base against itself, read in another way. Mean: the share of the difference that all tokens have in common. Labels: 1 if the same tokens are new to both models."),
    h("div", { class: "scroll-x", tabindex: 0, role: "region", "aria-label": "Table of the layers" }, h("table", { class: "sites" },
      h("thead", {}, h("tr", {}, titles.map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, data.sites.map((site) => {
        const noise = Object.values(site.noise).map((each) => each["0.5"]);
        const [low, high] = site.labels.interval;
        return h("tr", {},
          h("th", { scope: "row" }, shortSite(site.site)),
          h("td", {}, size(site.relative_norm?.["0.5"]), " ", bar(site.relative_norm?.["0.5"] ?? 0, most)),
          h("td", {}, size(site.relative_norm?.["0.99"]), " ", bar(site.relative_norm?.["0.99"] ?? 0, most)),
          h("td", {}, noise.length ? size(Math.max(...noise)) : "–"),
          h("td", {}, size(site.difference?.mean_share)),
          h("td", {}, site.labels.index.toFixed(3), low !== null && ` [${low.toFixed(2)}, ${high.toFixed(2)}]`),
          h("td", {}, count(site.labels.only_base)), h("td", {}, count(site.labels.only_changed)),
          h("td", {}, count(site.transported.only_changed)),
          h("td", {}, site.usage ? `${count(site.usage.found)} of ${count(site.usage.tested)}` : "–"));
      })))),
    h("div", { class: "filters" }, h("label", { class: "field" }, h("span", {}, "Lists of layer"),
      h("select", { name: "site", onchange: (event) => { amend({ diff: name, site: event.target.value }); fill(data.sites.find((site) => site.site === event.target.value)); } },
        data.sites.map((site) => h("option", { value: site.site, selected: site === chosen }, shortSite(site.site)))))),
    place);
}

/** What a layer shows apart from the atoms of its difference. */
function lists(site) {
  return [
    tokens(`Only the changed model needs (${count(site.transported.only_changed)})`, "Atoms of the changed model that the base's dictionary, carried over to it, does not explain. Sorted by the share of later tokens that they explain.", site.transported.atoms, (each) => percent(each.explained)),
    tokens(`New to the changed model alone (${count(site.labels.only_changed)})`, "Sorted by how much newer the token is to the changed model.", site.labels.new_to_changed, (each) => "+" + each.margin.toFixed(2)),
    tokens(`New to the base alone (${count(site.labels.only_base)})`, "Sorted by how much newer the token is to the base.", site.labels.new_to_base, (each) => "+" + (-each.margin).toFixed(2)),
    site.usage && tokens(`Used more or less often (${count(site.usage.found)})`, `Atoms of the base, and how often the base and the changed model use them. ${count(site.usage.tested)} were tested.`, site.usage.atoms, (each) => `${percent(each.frequency[0])} → ${percent(each.frequency[1])}`, "pair-of"),
  ].filter(Boolean);
}

function tokens(title, note, found, number, kind = "two") {
  return h("div", { class: "tokens" }, h("h3", {}, title), h("p", { class: "muted" }, note),
    found.length === 0 ? h("p", {}, "None.") : h("ol", { class: "examples" }, found.slice(0, 6).map((each) =>
      h("li", {}, h("span", { class: "example " + kind, title: `token ${each.position} of ${each.document}` }, h("span", { class: "coefficient" }, number(each)), keyword(each.before.slice(-60), each.token, each.after.slice(0, 30)))))));
}

/** One atom of the difference. */
export async function changeView(params, context) {
  const { name } = diffOf(params, context);
  const data = await ask("diff_atom", { diff: name, site: params.site ?? "", atom: params.atom ?? "0" }, { keepIt: true });
  const texts = h("div", { class: "shaded-texts" });
  const known = data.texts.some((text) => text.kl.some((value) => value !== null));
  const offered = ["atom", "energy", ...(known ? ["kl"] : [])];
  let kind = offered.includes(params.by) ? params.by : "atom";
  const choice = h("div", {}, shadeChoice(kind, offered, (each) => { kind = each; amend({ by: each }); draw(); }));
  function draw() {
    const largest = largestShade(data.texts, kind, data.atom);
    texts.replaceChildren(...data.texts.map((text) => h("figure", {}, shadedText(text, kind, largest, data.atom), h("figcaption", { class: "muted source" }, "token ", count(text.position), " of ", h("bdi", {}, visible(text.document))))));
  }
  draw();
  const both = ["base", "changed"].filter((model) => data[model]);
  const page = append(h("article", { class: "view change-view" }), [
    h("header", { class: "atom-head" },
      h("h1", { tabindex: -1 }, data.rank === null ? "An atom of the difference " : `Change ${data.rank} `, chip(data.token), " ", h("span", { class: "site" }, data.site)),
      h("nav", { class: "steps", "aria-label": "Back" }, h("a", { class: "button", href: link("diff", { diff: name }) }, "← what changed"))),
    h("p", { class: "summary" }, data.finding !== null && h("strong", {}, data.finding ? "A finding" : "No finding", data.times ? `: it stands out ${short(data.times)} times as far as any atom of the control. ` : ". "),
      data.effect !== null && [h("strong", {}, `${short(data.effect)} nats per token`), data.share !== null && ` (${percent(data.share)} of all)`, ", "],
      `${percent(data.energy)} of the energy of the difference, in `, h("strong", {}, `${count(data.users)} tokens`), ` of ${count(data.documents)} documents.`,
      data.by_role && ` Of these tokens: ${Object.entries(data.by_role).map(([role, share]) => `${role} ${percent(share)}`).join(", ")}.`),
    h("div", { class: "columns" },
      h("section", { class: "card", "aria-labelledby": "places" }, h("h2", { id: "places" }, "Where it fires"),
        h("p", { class: "muted" }, "Its own text comes first, then one text of each other document. The token where the atom is strong is marked."), choice, texts),
      h("div", { class: "side-column" }, both.map((model) =>
        h("section", { class: "card" }, h("h2", {}, `Next tokens, in the ${model === "base" ? "base" : "changed model"}`), h("p", { class: "muted" }, "Logits of the direction, if only the final norm and the unembedding come after it."),
          h("div", { class: "pair" }, Object.entries(OPPOSITES).map(([key, title]) => h("table", { class: "effects" }, h("caption", {}, title), h("tbody", {}, data[model][key].map(([token, value]) => h("tr", {}, h("th", { scope: "row" }, chip(token)), h("td", {}, value.toFixed(2).replace("-", "−")))))))))))),
  ]);
  return { page, title: `Change ${named(data.token)}` };
}

/** Any text, read by both models. */
export async function bothView(params, context) {
  const { name, sites, live } = diffOf(params, context);
  let site = sites.includes(params.site) ? params.site : sites.at(-1);
  let kind = ["kl", "energy"].includes(params.by) ? params.by : "energy";
  let [asking, pause, data] = [null, 0, null];
  const alert = h("p", { class: "note", role: "alert", hidden: true });
  const result = h("div", { class: "result", "aria-live": "polite", "aria-busy": "false" });
  const box = h("textarea", { name: "text", id: "text", rows: 3, spellcheck: "false", value: params.text ?? "", dir: "auto", disabled: !live, placeholder: "Type or paste text",
    oninput: () => { clearTimeout(pause); pause = setTimeout(read, PAUSE_AFTER_TYPING_MS); },
    onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { clearTimeout(pause); read(); } } });

  async function read() {
    amend({ diff: name, text: box.value, site });
    asking?.abort();
    asking = new AbortController();
    alert.hidden = true;
    if (!box.value.trim()) { result.replaceChildren(); return; }
    result.setAttribute("aria-busy", "true");
    try {
      data = await ask("diff_text", { diff: name, site, text: box.value }, { signal: asking.signal });
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      alert.textContent = error.message;
      alert.hidden = false;
      result.replaceChildren();
    }
    result.setAttribute("aria-busy", "false");
  }

  function draw() {
    const offered = data.kl.some((value) => value !== null) ? ["energy", "kl"] : ["energy"];
    if (!offered.includes(kind)) kind = "energy";
    result.replaceChildren(h("section", { class: "card", "aria-label": "The text, shaded" },
      shadeChoice(kind, offered, (each) => { kind = each; amend({ by: each }); draw(); result.querySelector(`input[value="${each}"]`).focus(); }),
      shadedText(data, kind, largestShade([data], kind), null),
      h("p", { class: "muted" }, "Energy: at 1 the difference is as large as the activations themselves. Tokens that are left out, such as the first, have no shade.")), strongest(data, name, site));
  }

  const page = append(h("div", { class: "view both-view" }), [
    h("h1", { tabindex: -1 }, "A text, read by both models"),
    picker(context, name, "both"),
    h("p", { class: "lead" }, "Both models read what you type. Each token is shaded by how far the two models are apart there. ",
      !live && (standalone ? "This page stands alone and has no models." : ["The models are not loaded here, or the diff has no atoms of their difference. To load them, start ", h("code", {}, "itda explore"), " without ", h("code", {}, "--no-model"), "."])),
    h("form", { class: "prompt-form", onsubmit: (event) => { event.preventDefault(); read(); } }, h("label", { class: "field", for: "text" }, "Text"), box),
    live && h("div", { class: "filters" }, h("label", { class: "field" }, h("span", {}, "Layer"), h("select", { name: "site", onchange: (event) => { site = event.target.value; read(); } }, sites.map((each) => h("option", { value: each, selected: each === site }, shortSite(each)))))),
    alert, result,
  ]);
  return { page, title: "A text", shown: () => { if (live && box.value.trim()) read(); } };
}

/** The atoms of the difference that explain most of a text. */
function strongest(data, name, site) {
  const sums = new Map();
  for (const code of data.codes) for (const [atom, energy] of code) sums.set(atom, (sums.get(atom) ?? 0) + energy);
  const sorted = [...sums].sort((a, b) => b[1] - a[1]).slice(0, STRONGEST_OF_TEXT);
  if (!sorted.length) return h("p", {}, "The models are alike on this text.");
  return h("section", { class: "card", "aria-labelledby": "strongest" }, h("h2", { id: "strongest" }, "Atoms of the difference in this text"),
    h("table", { class: "codes changes" },
      h("thead", {}, h("tr", {}, [["weight-cell", "Energy explained"], ["id", "Atom"], ["prompt-cell", "The atom's own text"]].map(([kind, title]) => h("th", { scope: "col", class: kind }, title)))),
      h("tbody", {}, sorted.map(([atom, energy]) => {
        const { text, page } = data.atoms[atom];
        const query = { diff: name, site, atom: String(atom) };
        return h("tr", {},
          h("td", { class: "weight-cell" }, h("span", { class: "number" }, short(energy)), bar(energy, sorted[0][1])),
          h("td", { class: "id" }, page && canAsk("diff_atom", query) ? h("a", { href: link("change", query) }, count(atom)) : count(atom)),
          h("td", { class: "prompt-cell" }, keyword(...text)));
      }))));
}
