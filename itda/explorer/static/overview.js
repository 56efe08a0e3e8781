// A run at a glance: what made it, what was measured, how it grew and is used.

import { h, append, count, percent, short } from "./dom.js";
import { visible } from "./text.js";
import { ask, canAsk } from "./api.js";
import { link } from "./state.js";
import { histogram, lines } from "./charts.js";

export async function overviewView(params, context) {
  const data = await ask("overview", { run: context.run });
  const { settings } = data;
  const facts = [
    ["Model", [data.model, data.revision && ` at ${data.revision.slice(0, 10)}`]],
    ["Corpus", [data.corpus, ` (${data.part} part), fingerprint ${data.fingerprint.slice(0, 8)}`]],
    ["Read", `${count(data.tokens)} tokens in windows of ${settings.window}, in ${short(data.seconds)} s on ${data.device}`],
    ["Mode", [settings.mode, settings.order && `, ${settings.order === "corpus" ? "in corpus order" : "documents " + settings.order}`]],
    ["Code", `at most ${settings.k} atoms per token, by ${data.sites.find((site) => site.pursuit)?.pursuit ?? "–"}`],
    settings.refine ? made(settings) : null,
    ["Versions", Object.entries(data.versions).map(([name, version]) => `${name} ${version}`).join(", ")],
  ].filter(Boolean);
  const used = data.sites.filter((site) => site.use);
  const page = append(h("div", { class: "view overview-view" }), [
    h("h1", { tabindex: -1 }, h("bdi", {}, data.run)),
    h("section", { class: "card", "aria-labelledby": "made" }, h("h2", { id: "made" }, "What made it"),
      h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))))),
    h("section", { class: "card", "aria-labelledby": "measured" }, h("h2", { id: "measured" }, "Its dictionaries"),
      h("div", { class: "scroll-x", tabindex: 0, role: "region", "aria-labelledby": "measured" }, h("table", { class: "sites" },
        h("thead", {}, h("tr", {}, SITE_COLUMNS.map(([title, , hint]) => h("th", { scope: "col", title: hint }, title)))),
        h("tbody", {}, data.sites.map((site) => h("tr", {},
          h("th", { scope: "row" }, canAsk("atoms", { run: data.run, site: site.site }) ? h("a", { href: link("atoms", { run: data.run, site: site.site }) }, site.site) : site.site),
          site.atoms === undefined ? h("td", { colspan: SITE_COLUMNS.length - 1, class: "note" }, site.trouble) : SITE_COLUMNS.slice(1).map(([, value]) => h("td", {}, value(site)))))))),
      data.sites.some((site) => site.metrics === null) && h("p", { class: "muted" }, "A dash means: not measured yet. To measure it: ", h("code", {}, "itda evaluate RUN"), "."),
      data.sites.some((site) => site.replication === null) && h("p", { class: "muted" }, "To find out which atoms come back from other documents: ", h("code", {}, "itda replicate RUN"), "."),
      data.sites.filter((site) => site.atoms !== undefined && site.trouble).slice(0, 1).map((site) => h("p", { class: "muted" }, visible(site.trouble)))),
    h("div", { class: "charts" },
      data.growth && card("Growth", "The number of atoms against the tokens read. The curve flattens when the atoms explain most new activations.",
        lines({
          series: Object.entries(data.growth.atoms).map(([name, atoms]) => ({ name, x: data.growth.tokens, y: atoms })), xTitle: "tokens", yTitle: "atoms",
          label: "Growth: " + Object.entries(data.growth.atoms).map(([name, atoms]) => `${name} ${count(atoms.at(-1))} atoms`).join(", ") + ` after ${count(data.growth.tokens.at(-1))} tokens`,
        })),
      used.length > 0 && card("Use of the atoms", "How often each atom is used, from the most used to the least.",
        lines({
          series: used.map((site) => ({ name: site.site, x: site.use.by_rank[0], y: site.use.by_rank[1] })), xTitle: "rank", yTitle: "uses", logarithmic: true,
          label: "Uses by rank: " + used.map((site) => `${site.site} from ${count(site.use.by_rank[1][0])} to ${count(site.use.by_rank[1].at(-1))}`).join(", "),
        })),
      used.map((site) => card(`Explained, ${site.site}`, "How many tokens have how large a share of their activation explained." + (site.use.massive ? ` ${count(site.use.massive)} massive ones are left out.` : ""),
        histogram({ counts: site.use.explained.counts, edges: site.use.explained.edges, unit: "tokens", label: `Histogram of the share explained in ${site.site}` })))),
  ]);
  return { page, title: `Overview of ${data.run}` };
}

function made({ recipe, refine, min_fidelity }) {
  if (recipe === 2) return ["Atoms", `recipe 2: centres of groups of activations, after ${refine} rounds`];
  return ["Refined", `${refine} passes, fidelity at least ${min_fidelity}`];
}

const SITE_COLUMNS = [
  ["Site", null, "Where in the model"],
  ["Atoms", (site) => count(site.atoms), "Atoms in the dictionary"],
  ["Width", (site) => site.d_model, "d_model"],
  ["Threshold", (site) => short(site.threshold), "An activation became an atom if the atoms before it left more than this share of its energy unexplained"],
  ["fvu", (site) => measured(site, "fvu"), "Fraction of variance unexplained, on held-out tokens, massive ones left out"],
  ["CE loss score", (site) => measured(site, "ce_loss_score"), "How well the model predicts with reconstructions in the place of activations. 1: as well as with the activations; 0: as badly as with zeros"],
  ["l0", (site) => measured(site, "l0"), "Atoms per token"],
  ["Massive", (site) => (site.massive ? count(site.massive.tokens) : "–"), "Tokens read in training whose norm is over 10 times the median. They say little about the text, and no other figure counts them"],
  ["Effect", (site) => (site.effects && site.effects.measures.added.beyond_control !== null ? percent(site.effects.measures.added.beyond_control) : "–"), "Share of the often used atoms that, when added, make what follows in their own prompt, or what their direction promotes, likelier than random atoms do"],
  ["Replicates", (site) => (site.replication ? percent(site.replication.in_half) : "–"), "Share of atoms found in at least half of the dictionaries made from other documents. Do not take the other atoms for findings"],
  ["Unused", (site) => (site.use ? percent(site.use.unused / site.atoms) : "–"), "Share of atoms that no indexed token uses"],
];

function measured(site, name) {
  const value = site.metrics?.[name];
  return value === null || value === undefined ? "–" : value.toFixed(value >= 10 ? 1 : 3);
}

function card(title, note, chart) {
  return h("section", { class: "card" }, h("h2", {}, title), h("p", { class: "muted" }, note), chart);
}
