// Two runs, or two layers of one: which share their labels, and which atoms are in one only.

import { h, append, count, percent } from "./dom.js";
import { ask, canAsk } from "./api.js";
import { amend, go, link, parsed } from "./state.js";
import { longTable } from "./list.js";
import { focusChosen, heatMap } from "./heat.js";
import { atomColumns, atomRow, doubt } from "./atoms.js";
import { atomSource } from "./source.js";

const INDICES = [["weighted", "weighted Jaccard", "The Jaccard index of the labels, weighted by how much each atom was needed"], ["adjusted", "adjusted Jaccard", "The Jaccard index, with what random sets of these sizes would share taken out"], ["jaccard", "Jaccard", "Labels in both, as a share of labels in either"]];

/** The runs that the address names; else the chosen one and another, in the order in which they can be compared here. */
function pairOf(params, chosen, runs) {
  const wished = [params.a ?? chosen, params.b ?? runs.find((run) => run !== (params.a ?? chosen)) ?? params.a ?? chosen];
  if (params.a || params.b) return wished;
  const others = runs.filter((run) => run !== chosen);
  const pairs = [wished, ...others.flatMap((run) => [[chosen, run], [run, chosen]]), [chosen, chosen]];
  return pairs.find(([a, b]) => canAsk("compare", { a, b })) ?? wished;
}

export async function compareView(params, context) {
  const runs = context.runs.filter((run) => !run.trouble).map((run) => run.run);
  const [a, b] = pairOf(params, context.run, runs);
  const select = (name, title, chosen) =>
    h("label", { class: "field" }, h("span", {}, title), h("select", { name, onchange: (event) => go("compare", { ...parsed(location.hash).params, a, b, site_a: null, site_b: null, [name]: event.target.value }) },
      runs.filter((run) => (name === "a" ? canAsk("compare", { a: run, b }) : canAsk("compare", { a, b: run })) || run === chosen).map((run) => h("option", { value: run, selected: run === chosen }, run))));
  const page = append(h("div", { class: "view compare-view" }), [
    h("h1", { tabindex: -1 }, "Compare"),
    h("p", { class: "lead" }, "Atoms are labelled by the token that they come from, so two dictionaries of the same text can be compared. The more labels they share, the more alike is what they represent."),
    h("div", { class: "filters" }, select("a", "Run a", a), select("b", "Run b", b)),
  ]);
  const data = await ask("compare", { a, b }, { keepIt: true });
  const [sitesA, sitesB] = data.sites;
  let index = INDICES.some(([key]) => key === params.index) ? params.index : "weighted";
  let pair = {
    a: sitesA.includes(params.site_a) ? params.site_a : sitesA.includes(context.site) ? context.site : sitesA[0],
    b: sitesB.includes(params.site_b) ? params.site_b : sitesB.includes(context.site) ? context.site : sitesB[0],
  };
  if (a === b && pair.a === pair.b && params.site_b === undefined && sitesB.length > 1) pair.b = sitesB.find((site) => site !== pair.a);
  let part = ["both", "only_a", "only_b"].includes(params.part) ? params.part : "both";
  const map = h("div", { class: "map" });
  const lists = h("section", { class: "card lists", "aria-live": "polite" });

  function drawMap() {
    const title = INDICES.find(([key]) => key === index);
    const values = data.matrices[index];
    const best = values.map((row) => Math.max(...row));
    map.replaceChildren(
      heatMap({
        rows: sitesA, columns: sitesB, values, sides: ["a: " + a, "b: " + b], isBest: (i, j) => values[i][j] === best[i],
        label: `${title[1]} of the sites of a, in rows, and of b, in columns`,
        describe: (i, j) => `${sitesA[i]} of a and ${sitesB[j]} of b: ${values[i][j].toFixed(3)}${values[i][j] === best[i] ? ", the most similar of its row" : ""}`,
        chosen: [pair.a, pair.b],
        onchoose: (siteA, siteB) => { pair = { a: siteA, b: siteB }; amend({ a, b, site_a: siteA, site_b: siteB }); drawMap(); focusChosen(map); drawLists(); },
      }),
      h("p", { class: "muted" }, "Sites of a in rows, of b in columns; bold is the most similar of its row. ", title[2], ". Choose a cell to see its labels."));
  }

  async function drawLists() {
    lists.replaceChildren(h("h2", {}, `${pair.a} of a and ${pair.b} of b`), h("p", { class: "muted" }, "…"));
    const asked = pair;
    try {
      const [labels, left, right] = await Promise.all([
        ask("labels", { a, b, site_a: pair.a, site_b: pair.b }, { keepIt: true }),
        atomSource({ run: a, site: pair.a }),
        atomSource({ run: b, site: pair.b }),
      ]);
      if (asked === pair) fillLists(labels, left, right);
    } catch (error) {
      lists.replaceChildren(h("h2", {}, `${pair.a} of a and ${pair.b} of b`), h("p", { class: "note", role: "alert" }, error.message));
    }
  }

  function fillLists(labels, left, right) {
    const names = { both: `In both (${count(labels.counts.both)})`, only_a: `Only in a (${count(labels.counts.only_a)})`, only_b: `Only in b (${count(labels.counts.only_b)})` };
    const place = h("div", {});
    const buttons = Object.entries(names).map(([key, text]) =>
      h("button", { type: "button", class: "tab", "aria-pressed": key === part ? "true" : "false", "data-part": key, onclick: () => { part = key; amend({ part }); fillLists(labels, left, right); lists.querySelector(`[data-part="${key}"]`).focus(); } }, text));
    const total = labels.counts.both + labels.counts.only_a + labels.counts.only_b;
    lists.replaceChildren(
      h("h2", {}, `${pair.a} of a and ${pair.b} of b`),
      h("p", { class: "muted" }, `Of all labels, ${percent(total ? labels.counts.both / total : 1)} are in both dictionaries. Atoms that were needed most come first.`),
      h("div", { class: "tabs", role: "group", "aria-label": "Which labels" }, buttons),
      place);
    const isB = part === "only_b";
    const entries = labels[part];
    const data = isB ? right : left;
    const columns = atomColumns(data).map((column) => ({ ...column, sort: false }));
    const whose = isB ? ["b", b, pair.b] : ["a", a, pair.a];
    const inB = part === "both" ? new Map(entries) : null;
    if (inB) columns.push({ key: "other", title: "In b", hint: `The atom of b, ${b}, with the same label` });
    const listed = entries.map((entry) => (part === "both" ? entry[0] : entry)).map(data.rowOf).filter((row) => row !== undefined);
    const list = longTable({ label: names[part], columns, sorted: null, onsort: () => {}, className: "atoms", want: (places) => data.want(places.map((i) => listed[i])) });
    const warning = doubt(data, listed);
    place.append(list.element);
    if (warning) place.before(h("p", { class: "muted" }, `${count(listed.length)} atoms${warning}. They come last.`));
    place.before(h("p", { class: "muted" }, `The atoms' numbers, their uses and everything else in this list are those of ${whose[0]}: `, h("bdi", {}, whose[1]), `, ${whose[2]}.`));
    const other = (row) => { const id = inB.get(data.idOf(row)); return h("a", { href: link("atom", { run: b, site: pair.b, atom: id }), tabindex: -1, "aria-label": `Atom ${id} of b` }, count(id)); };
    list.fill(listed.length, (i) => {
      const row = atomRow(data, listed[i], { run: isB ? b : a, site: isB ? pair.b : pair.a });
      return inB ? { ...row, cells: [...row.cells, other(listed[i])] } : row;
    });
    if (!listed.length) place.replaceChildren(h("p", {}, entries.length ? "This page does not carry these atoms." : "None."));
  }

  const choice = h("label", { class: "field" }, h("span", {}, "Similarity index"),
    h("select", { name: "index", onchange: (event) => { index = event.target.value; amend({ index }); drawMap(); } }, INDICES.map(([key, title]) => h("option", { value: key, selected: key === index }, title))));
  page.querySelector(".filters").append(choice);
  append(page, [
    h("p", { class: "muted" }, `${count(data.tokens)} tokens were read by both. `, data.differences.length > 0 && `They differ in ${data.differences.join("; ")}. `, data.kind === "noise floor" && "Both are of one model, so what differs is noise."),
    map, lists,
  ]);
  drawMap();
  return { page, title: `Compare ${a} and ${b}`, shown: drawLists };
}
