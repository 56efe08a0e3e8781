// Two fingerprints, or one with itself: which layers are alike, and which tokens are new to one layer and not to another.

import { h, append, count, percent } from "./dom.js";
import { keyword, named, passage, visible } from "./text.js";
import { ask } from "./api.js";
import { amend, go, link, parsed } from "./state.js";
import { longTable } from "./list.js";
import { focusChosen, heatMap, shortSite } from "./heat.js";

const PARTS = ["only_a", "only_b"];

/** The two that an address names, else the first two, or the only one with itself. */
function sidesOf(params, known) {
  const names = known.map((each) => each.name);
  const a = params.a ?? names[0];
  const b = params.b ?? names.find((name) => name !== a) ?? a;
  for (const name of [a, b]) if (!names.includes(name)) throw new Error(`There is no fingerprint ${name} here. There is ${names.join(", ")}.`);
  const rungs = known.find((each) => each.name === a).rungs;
  const rung = params.rung === "all" || rungs[params.rung] !== undefined ? String(params.rung) : String(Math.floor((rungs.length - 1) / 2));
  return { a, b, rungs, rung };
}

/** The sites that an address names, else the middle one of a and what is most like it in b. */
function sitesOf(params, data, alone) {
  const [sitesA, sitesB] = data.sites;
  const i = sitesA.includes(params.site_a) ? sitesA.indexOf(params.site_a) : Math.floor(sitesA.length / 2);
  const j = sitesB.includes(params.site_b) ? sitesB.indexOf(params.site_b) : data.matrix[i].indexOf(bestOf(data, i, alone));
  return { a: sitesA[i], b: sitesB[j] };
}

/** The largest value of a row; of one compared with itself, without the site itself. */
function bestOf(data, i, alone) {
  const others = data.matrix[i].filter((_, j) => !alone || j !== i);
  return others.length ? Math.max(...others) : data.matrix[i][0];
}

export async function fingerprintsView(params, context) {
  const known = context.fingerprints;
  const { a, b, rungs, rung: firstRung } = sidesOf(params, known);
  const alone = a === b;
  const called = (site, name) => (alone ? site : `${site} of ${name}`);
  const select = (name, title, chosen) =>
    h("label", { class: "field" }, h("span", {}, title), h("select", { name, onchange: (event) => go("fingerprints", { a, b, [name]: event.target.value, rung: params.rung }) },
      known.map((each) => h("option", { value: each.name, selected: each.name === chosen }, each.name))));
  const filters = h("div", { class: "filters" }, select("a", "Fingerprint a", a), select("b", "Fingerprint b", b));
  const page = append(h("div", { class: "view compare-view" }), [
    h("h1", { tabindex: -1 }, "Fingerprints"),
    h("p", { class: "lead" }, "A token's novelty at a layer says how unlike its activation there is to all activations before it. Two layers are alike if the same tokens are equally new to both."),
    filters,
  ]);
  const data = await ask("alike", { a, b }, { keepIt: true });
  const [sitesA, sitesB] = data.sites;
  let rung = firstRung;
  let pair = sitesOf(params, data, alone);
  let part = PARTS.includes(params.part) ? params.part : "only_a";
  const map = h("div", { class: "map" });
  const lists = h("section", { class: "card lists", "aria-live": "polite" });
  const sure = (i) => alone || sitesB.length < 2 || data.lead.sure[i];

  function drawMap() {
    map.replaceChildren(
      heatMap({
        rows: sitesA, columns: sitesB, values: data.matrix, sides: alone ? [a, a] : [`a: ${a}`, `b: ${b}`],
        isBest: (i, j) => data.matrix[i][j] === bestOf(data, i, alone) && !(alone && i === j && sitesB.length > 1),
        label: `Similarity of the layers of ${a}, in rows, and of ${b}, in columns`,
        describe: (i, j) => describe(data, i, j, alone),
        rowNote: (i) => !sure(i) && h("abbr", { title: "Not sure: other documents could make another layer the most similar" }, "?"),
        chosen: [pair.a, pair.b],
        onchoose: (siteA, siteB) => { pair = { a: siteA, b: siteB }; amend({ a, b, site_a: siteA, site_b: siteB }); drawMap(); focusChosen(map); drawLists(); },
      }),
      h("p", { class: "muted" }, alone ? "Layers of one model with each other; " : "Layers of a in rows, of b in columns; ", alone ? "in each row the most similar other layer is bold. " : "in each row the most similar layer is bold. ? marks a row in which other documents could make another layer the most similar. ",
        `The number (${data.index}) compares each token's two novelties: the sum of the smaller ones, divided by the sum of the larger ones. Choose a cell to see at which tokens the two layers differ.`));
  }

  async function drawLists() {
    const title = h("h2", {}, `${called(pair.a, a)} and ${called(pair.b, b)}`);
    lists.replaceChildren(title, h("p", { class: "muted" }, "…"));
    const asked = [pair, rung];
    try {
      const found = await ask("novel", { a, b, site_a: pair.a, site_b: pair.b, rung }, { keepIt: true });
      if (asked[0] === pair && asked[1] === rung) fillLists(title, found);
    } catch (error) {
      lists.replaceChildren(title, h("p", { class: "note", role: "alert" }, error.message));
    }
  }

  function fillLists(title, found) {
    const { counts } = found;
    const where = [called(pair.a, a), called(pair.b, b)];
    const all = found.threshold === null;
    const name = (key, place) => `${all ? `More novel at ${place}` : `Novel at ${place} alone`} (${count(counts[key])})`;
    const names = { only_a: name("only_a", where[0]), only_b: name("only_b", where[1]) };
    const buttons = PARTS.map((key) =>
      h("button", { type: "button", class: "tab", "aria-pressed": key === part ? "true" : "false", "data-part": key, onclick: () => { part = key; amend({ part }); fillLists(title, found); lists.querySelector(`[data-part="${key}"]`).focus(); } }, names[key]));
    const entries = found[part];
    const left = counts[part] - entries.token.length;
    const place = h("div", {});
    lists.replaceChildren();
    append(lists, [
      title,
      h("p", { class: "muted" }, all ? `${count(counts.both)} of ${count(counts.tokens)} tokens are equally novel at both. The others are listed` : `At the threshold ${found.threshold}, ${count(counts.both)} of ${count(counts.tokens)} tokens are novel at both. Those that are novel at only one are listed`,
        ", the largest difference of novelty first", left > 0 && `: the first ${count(found.most)}`, "."),
      found.trouble && h("p", { class: "note" }, "No text: ", visible(found.trouble)),
      h("div", { class: "tabs", role: "group", "aria-label": "Which tokens" }, buttons),
      place]);
    if (!entries.token.length) {
      place.replaceChildren(h("p", {}, "None."));
      return;
    }
    const list = longTable({ label: names[part], columns: novelColumns(where, alone ? [shortSite(pair.a), shortSite(pair.b)] : ["a", "b"]), sorted: null, onsort: () => {}, className: "atoms novel" });
    place.append(list.element);
    list.fill(entries.token.length, (i) => novelRow(entries, i, { a, b, site_a: pair.a, site_b: pair.b, rung, part }));
  }

  filters.append(h("label", { class: "field" }, h("span", {}, "Threshold of the lists"),
    h("select", { name: "rung", onchange: (event) => { rung = event.target.value; amend({ rung }); drawLists(); } }, [...rungs.map((value, i) => [String(i), value]), ["all", "none: all that differ"]].map(([value, shown]) => h("option", { value, selected: value === rung }, shown)))));
  append(page, [h("p", { class: "muted" }, facts(data, known, a, b)), map, lists]);
  drawMap();
  return { page, title: alone ? `Fingerprint ${a}` : `Fingerprints ${a} and ${b}`, shown: drawLists };
}

function describe(data, i, j, alone) {
  const low = data.intervals[0][i][j];
  const high = data.intervals[1][i][j];
  const best = data.matrix[i][j] === bestOf(data, i, alone) && !(alone && i === j);
  return `${data.sites[0][i]} of a and ${data.sites[1][j]} of b: ${data.matrix[i][j].toFixed(3)}` +
    (low === null ? "" : `, with other documents ${low.toFixed(3)} to ${high.toFixed(3)}`) + (best ? ", the most similar of its row" : "");
}

function facts(data, known, a, b) {
  const model = (name) => known.find((each) => each.name === name).model;
  const [shareA, shareB] = data.shares;
  const whole = shareA === 1 && shareB === 1;
  return [
    a === b ? h("bdi", {}, String(model(a))) : [h("bdi", {}, String(model(a))), " and ", h("bdi", {}, String(model(b)))],
    `: ${count(data.tokens)} tokens of ${count(data.documents)} documents were read${a === b ? "" : " by both"}`,
    whole ? ". " : ` (${percent(shareA)} of those of a, ${percent(shareB)} of those of b). `,
    data.matched_by === "end offset" && "Their tokenizers differ: tokens are matched by where they end. ",
    a !== b && data.kind === "noise floor" && "Both are of one model, so what differs is noise. ",
    a !== b && data.kind === "repetition" && "The same model, read again. ",
    data.differences.length > 0 && `They differ in ${data.differences.join("; ")}.`,
  ];
}

/** Columns of a list of tokens: `where` names the two sites, `brief` does so in a word. */
function novelColumns(where, brief) {
  return [
    { key: "more", title: "By", hint: "Novelty at the first layer minus novelty at the second" },
    { key: "prompt", title: "Token in its text" },
    { key: "novelty a", title: `Novelty ${brief[0]}`, hint: `Novelty at ${where[0]}: 1 for an activation orthogonal to all before it, 0 for one that was there before` },
    { key: "novelty b", title: `Novelty ${brief[1]}`, hint: `Novelty at ${where[1]}` },
  ];
}

function novelRow(entries, i, state) {
  const text = entries.text?.[i];
  const place = [h("bdi", {}, visible(entries.documents[entries.document[i]])), `, token ${count(entries.position[i])}, to character ${count(entries.end[i])}`];
  const more = signedShare(entries.more[i]);
  return {
    href: link("token", { ...state, t: entries.token[i] }),
    name: text ? `${named(text[1])}, more novel by ${more}` : `Token ${entries.position[i]} of ${entries.documents[entries.document[i]]}, more novel by ${more}`,
    cells: [more, text ? keyword(...text) : place, entries.novelty[0][i].toFixed(3), entries.novelty[1][i].toFixed(3)],
  };
}

function signedShare(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
}

/** One token: its text, and how novel it is at each layer of both. */
export async function tokenView(params, context) {
  const { a, b, rungs } = sidesOf(params, context.fingerprints);
  const data = await ask("novelty", { a, b, token: params.t ?? "0" }, { keepIt: true });
  const alone = a === b;
  const back = { ...params, t: null };
  const text = data.a.passage?.[1];
  const same = data.b.passage && String(data.a.passage) === String(data.b.passage);
  const sides = alone ? [["a", a, data.a]] : [["a", `a: ${a}`, data.a], ["b", `b: ${b}`, data.b]];
  const page = append(h("article", { class: "view token-view" }), [
    h("header", { class: "atom-head" },
      h("h1", { tabindex: -1 }, text === undefined ? `Token ${count(data.position)}` : ["Token ", h("bdi", { class: "chip" }, visible(text, { edges: true }))]),
      h("nav", { class: "steps", "aria-label": "Back" }, h("a", { class: "button", href: link("fingerprints", back) }, "← the layers compared"))),
    h("section", { class: "card", "aria-labelledby": "read" },
      h("h2", { id: "read" }, "Where it is read"),
      data.a.passage ? [passage(...data.a.passage), !same && [h("p", { class: "muted" }, "As b cuts it into tokens:"), passage(...data.b.passage)]] : h("p", { class: "note" }, "No text: ", visible(data.trouble)),
      h("p", { class: "muted source" }, "token ", count(data.position), ", to character ", count(data.end), ", of ", h("bdi", {}, visible(data.document)))),
    h("section", { class: "card", "aria-labelledby": "novel" },
      h("h2", { id: "novel" }, "How novel it is at each layer"),
      h("p", { class: "muted" }, `0: the same activation was there before. 1: it is orthogonal to all before it. A ● stands for each threshold (${rungs.join(", ")}) at which the token is novel: all tokens that were novel there before are further away than that.`),
      h("div", { class: "columns-of-two" }, sides.map(([side, title, values]) => noveltyTable(title, values, rungs, params["site_" + side])))),
  ]);
  return { page, title: `Token ${named(text ?? String(data.position))}` };
}

function noveltyTable(title, values, rungs, chosen) {
  return h("table", { class: "codes novelties" },
    h("caption", {}, h("bdi", {}, title)),
    h("thead", {}, h("tr", {}, ["Layer", "Novelty", "Novel at"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, values.sites.map((site) => h("tr", { class: site.site === chosen ? "chosen" : null },
      h("th", { scope: "row" }, shortSite(site.site)),
      h("td", {}, site.novelty === null ? h("span", { class: "muted" }, "massive, left out") : [h("span", { class: "number" }, site.novelty.toFixed(3)), " ", h("span", { class: "share", "aria-hidden": "true", style: { "--share": (100 * site.novelty).toFixed(1) + "%" } })]),
      h("td", {}, thresholds(rungs.filter((_, i) => site.is_atom[i]), site.is_atom))))));
}

/** A dot for each threshold; read aloud, the thresholds at which the token is novel. */
function thresholds(novel, flags) {
  const said = novel.length ? novel.join(", ") : "none";
  return h("span", { class: "dots", title: said }, h("span", { "aria-hidden": "true" }, flags.map((flag) => (flag ? "●" : "○")).join("")), h("span", { class: "unseen" }, said));
}
