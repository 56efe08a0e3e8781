// The frame around the views: which run, which site, which view; and what happens between an address and a page.

import { h, append } from "./dom.js";
import { ask, standalone } from "./api.js";
import { go, link, parsed } from "./state.js";
import { atomsView } from "./browse.js";
import { atomView } from "./atom.js";
import { promptView } from "./prompt.js";
import { compareView } from "./compare.js";
import { overviewView } from "./overview.js";
import { fingerprintsView, tokenView } from "./fingerprints.js";
import { startView } from "./landing.js";
import { corpusView } from "./corpus.js";
import { helpButton } from "./help.js";
import { bothView, changeView, diffView } from "./diff.js";

const VIEWS = { start: startView, corpus: corpusView, overview: overviewView, atoms: atomsView, atom: atomView, prompt: promptView, compare: compareView };
const OF_FINGERPRINTS = { fingerprints: fingerprintsView, token: tokenView };
const NAVIGATION = [["start", "Start"], ["atoms", "Atoms"], ["prompt", "Prompt"], ["corpus", "Corpus"], ["compare", "Compare"], ["overview", "Overview"]];
const OF_DIFFS = { diff: diffView, change: changeView, both: bothView };
const DIFF_NAVIGATION = [["diff", "What changed"], ["both", "A text"]];
const PARENTS = { atom: "atoms", token: "fingerprints", change: "diff" };
const THEMES = ["auto", "light", "dark"];

let known = null;
let visit = 0;

function context(params) {
  const run = known.runs.find((each) => each.run === params.run) ?? known.runs.find((each) => !each.trouble) ?? known.runs[0] ?? { run: null, sites: [] };
  const sites = run.sites.map((each) => each.site);
  const site = sites.includes(params.site) ? params.site : sites[Math.floor(sites.length / 2)];
  const readouts = run.sites.find((each) => each.site === site)?.readouts ?? ["code"];
  return { readouts, runs: known.runs, fingerprints: known.fingerprints ?? [], diffs: known.diffs ?? [], live: known.live, run: run.run, site, sites, trouble: run.trouble };
}

/** The views of what there is here: runs, fingerprints, diffs. */
function viewsHere(here) {
  return { ...(here.runs.length ? VIEWS : {}), ...(here.fingerprints.length ? OF_FINGERPRINTS : {}), ...(here.diffs.length ? OF_DIFFS : {}) };
}

async function render({ focus = true } = {}) {
  const mine = ++visit;
  const main = document.getElementById("main");
  main.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => mine === visit && main.replaceChildren(h("p", { class: "view muted" }, "Loading …")), 200);
  let made;
  try {
    known ??= await ask("runs");
    // What a view changes of the address is added to it, so it has to have the view's name.
    if (/^(#\/?)?$/.test(location.hash) && !known.runs.length) history.replaceState(history.state, "", link(known.diffs?.length ? "diff" : "fingerprints", {}));
    const { view, params } = parsed(location.hash);
    const here = context(params);
    const views = viewsHere(here);
    drawFrame(view, here);
    if (!(view in OF_FINGERPRINTS || view in OF_DIFFS)) {
      if (here.trouble) throw new Error(here.trouble);
      if (params.run && params.run !== here.run) throw new Error(`There is no run ${params.run} here. Choose one above.`);
      if (params.site && params.site !== here.site && view !== "compare") throw new Error(`${here.run} has no ${params.site}. Choose a site above.`);
    }
    if (!(view in views)) throw new Error(`There is no page ${view}. Choose one above.`);
    made = await views[view](params, here);
  } catch (error) {
    made = { page: h("div", { class: "view" }, h("h1", { tabindex: -1 }, "This page cannot be shown"), h("p", { class: "note", role: "alert" }, error.message)), title: "This page cannot be shown" };
  }
  clearTimeout(slow);
  if (mine !== visit) return;
  main.replaceChildren(made.page);
  main.setAttribute("aria-busy", "false");
  document.title = made.title + " · itda";
  made.shown?.();
  if (focus) {
    main.querySelector("h1")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function drawFrame(view, here) {
  const where = { run: here.run, site: here.site };
  const select = (name, title, values, chosen, change) =>
    h("label", { class: "pick" }, h("span", {}, title), h("select", { name, onchange: (event) => change(event.target.value) }, values.map((value) => h("option", { value, selected: value === chosen }, value))));
  const stay = view === "atom" ? "atoms" : view in VIEWS ? view : "atoms";
  const { text, readout, q, regex } = parsed(location.hash).params;
  const keptText = stay === "prompt" ? { text, readout } : stay === "corpus" ? { q, regex } : {};
  const picks = here.runs.length === 0 || view in OF_FINGERPRINTS || view in OF_DIFFS ? [] : [
    select("run", "Run", here.runs.map((each) => each.run), here.run, (run) => go(stay === "compare" ? "atoms" : stay, { run, ...keptText })),
    here.sites.length ? select("site", "Site", here.sites, here.site, (site) => go(stay === "compare" || stay === "overview" ? "atoms" : stay, { run: here.run, site, ...keptText })) : "",
  ];
  document.getElementById("picks").replaceChildren(...picks);
  const shown = [...(here.runs.length ? NAVIGATION : []), ...(here.fingerprints.length ? [["fingerprints", "Fingerprints"]] : []), ...(here.diffs.length ? DIFF_NAVIGATION : [])];
  document.getElementById("views").replaceChildren(
    ...shown.map(([name, title]) => h("a", { href: link(name, name in VIEWS ? where : name in OF_DIFFS ? diffState() : fingerprintState()), "aria-current": name === (PARENTS[view] ?? view) ? "page" : null }, title)),
  );
}

/** What an address says of fingerprints, to go back to. */
function fingerprintState() {
  const { a, b, site_a, site_b, rung, part, t } = parsed(location.hash).params;
  return t === undefined ? {} : { a, b, site_a, site_b, rung, part };
}

/** Which diff an address is of, to stay with it. */
function diffState() {
  return { diff: parsed(location.hash).params.diff };
}

function themeButton() {
  const stored = () => { try { return localStorage.getItem("itda-theme") ?? "auto"; } catch { return "auto"; } };
  const button = h("button", { type: "button", class: "theme" });
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}. Change.`);
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(stored()) + 1) % THEMES.length];
    try { localStorage.setItem("itda-theme", next); } catch { /* a page without storage forgets it */ }
    apply(next);
  });
  apply(stored());
  return button;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  if (event.key === "/") {
    const search = document.querySelector('input[type="search"]');
    if (search) { event.preventDefault(); search.focus(); }
  }
  if (event.key === "[") document.querySelector('a[rel="prev"]')?.click();
  if (event.key === "]") document.querySelector('a[rel="next"]')?.click();
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the state, so it cannot be a place in the page
  document.getElementById("main").focus();
});
append(document.getElementById("theme"), [helpButton(() => parsed(location.hash).view), themeButton()]);
addEventListener("hashchange", () => render());
render({ focus: false });
