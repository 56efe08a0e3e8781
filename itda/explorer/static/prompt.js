// A text, its tokens with the share explained, and the atoms of each: typed live, or a window of the corpus.

import { h, append, count, percent, short, signed } from "./dom.js";
import { chip, keyword, named, tint, tokenText, visible } from "./text.js";
import { ask, canAsk, carriedPrompts, standalone } from "./api.js";
import { amend, go, link } from "./state.js";
import { meter } from "./charts.js";
import { steeringPanel } from "./steer.js";

const SHOWN_OF_TEXT = 24;
const PAUSE_MS = 350;

/** The readouts: what a choice is called, what its number is, what the share explained is of, and what its atoms are. */
const READOUTS = {
  code: { title: "code: atoms that add up to it", number: "Coefficient", by: "explained", list: (atoms) => `${atoms}, in pick order` },
  levels: { title: "levels: broad atoms, then details", number: "Coefficient", by: "explained", list: (atoms) => `${atoms}, the broad ones first` },
  similarity: { title: "similarity: the nearest atoms", number: "Cosine", by: "explained by its code", list: (atoms) => `${atoms} by the cosine, the nearest first` },
  features: { title: "features: detectors that fire", number: "Score", by: "explained by its code", list: (atoms) => `${atoms} whose detectors fire, by the score in standard deviations` },
};
/** The number of the readouts that are no code, in a sentence. */
const OTHERS = { similarity: "cosine", features: "score" };

function readoutOf(data) {
  return READOUTS[data.readout ?? "code"];
}

export async function promptView(params, context) {
  const where = { run: context.run, site: context.site };
  const result = h("div", { class: "result", "aria-busy": "false" });
  const alert = h("p", { class: "note", role: "alert", hidden: true });
  let box = null;
  let text = "";
  let state = { token: params.t === undefined ? null : Number(params.t), atom: params.a === undefined ? null : Number(params.a) };
  let asking = null;
  // A name that there is not is asked for like others: the server says which ones there are.
  let readout = params.readout ?? "code";
  const asked = (name) => (name === "code" ? {} : { readout: name });
  const panel = steeringPanel({ where, context, params, read: () => box.value });

  function choose(name) {
    readout = name;
    state.atom = null;
    amend({ readout: name === "code" ? null : name, a: null });
    decompose(box?.value ?? text);
  }

  /** The choice of a readout, of those that can be asked for here, and a line on what is missing. */
  function picker(offered) {
    return h("div", { class: "readouts" },
      h("label", { class: "field" }, h("span", {}, "Readout"),
        h("select", { name: "readout", onchange: (event) => choose(event.target.value) },
          Object.entries(READOUTS).map(([name, { title }]) => h("option", { value: name, selected: name === readout, disabled: !offered.includes(name) }, title)))),
      !standalone && !offered.includes("features") && h("p", { class: "muted" }, "Features are not fitted yet: ", h("code", {}, `itda features ${context.run}`), " does."));
  }

  function trouble(error) {
    alert.textContent = error ? error.message : "";
    alert.hidden = !error;
  }

  async function decompose(text) {
    asking?.abort();
    asking = new AbortController();
    if (!text.trim()) {
      trouble(null);
      result.replaceChildren();
      panel.offer(null);
      return;
    }
    result.setAttribute("aria-busy", "true");
    try {
      const data = await ask("decompose", { ...where, text, ...asked(readout) }, { signal: asking.signal });
      trouble(null);
      show(data);
    } catch (error) {
      if (error.name === "AbortError") return;
      trouble(error);
      result.replaceChildren();
    }
    result.setAttribute("aria-busy", "false");
  }

  function show(data) {
    const last = data.tokens.length - 1;
    if (state.token === null) state.token = data.at ?? last;
    state.token = Math.max(0, Math.min(last, state.token));
    result.replaceChildren(tokenStrip(data, state, select, where), detail(data, state, shade, where));
    if (box) panel.offer(data.codes[state.token][0], data.labels);
  }

  function select(data, token, focus) {
    state.token = token;
    amend({ t: token });
    redraw(data, focus ? `[data-token="${token}"]` : null);
  }

  function shade(data, atom) {
    state.atom = state.atom === atom ? null : atom;
    amend({ a: state.atom });
    redraw(data, `[data-shade="${atom}"]`);
  }

  function redraw(data, focus) {
    show(data);
    if (focus) result.querySelector(focus)?.focus({ preventScroll: true });
  }

  const fromCorpus = params.token !== undefined;
  const page = append(h("div", { class: "view prompt-view" }), [
    h("h1", { tabindex: -1 }, fromCorpus ? "A window of the corpus" : "A prompt, taken apart", " ", h("span", { class: "site" }, context.site)),
  ]);

  if (fromCorpus) {
    const data = await ask("window", { ...where, token: params.token });
    text = data.tokens.join("");
    append(page, [
      h("p", { class: "lead" }, "Tokens ", count(data.position), " to ", count(data.position + data.tokens.length - 1), " of ", h("bdi", {}, visible(data.document)), ", with the codes of the index. ",
        context.live && h("a", { href: link("prompt", { ...where, text }) }, "Edit it as a prompt")),
      result,
    ]);
    return { page, title: `Token ${params.token}`, shown: () => show(data) };
  }

  if (standalone) {
    const prompts = carriedPrompts().filter(([run, site]) => run === context.run && site === context.site);
    text = params.text ?? prompts[0]?.[2] ?? "";
    append(page, [
      h("p", { class: "lead" }, prompts.length ? "This page stands alone: these prompts were taken apart when it was made." : "This page carries no prompts for this site."),
      prompts.length > 0 && h("label", { class: "field" }, h("span", {}, "Prompt"),
        h("select", { name: "prompt", onchange: (event) => go("prompt", { ...where, text: event.target.value, ...asked(readout) }) },
          prompts.map(([, , each]) => h("option", { value: each, selected: each === text }, named(each.slice(0, 80)))))),
      prompts.length > 0 && picker(Object.keys(READOUTS).filter((name) => canAsk("decompose", { ...where, text, ...asked(name) }))),
      alert,
      result,
      panel.element,
    ]);
    return { page, title: "Prompts", shown: () => decompose(text) };
  }

  let pause = 0;
  box = h("textarea", {
    name: "text", id: "text", rows: 3, spellcheck: "false", value: params.text ?? "", dir: "auto", disabled: !context.live,
    placeholder: "Type or paste text",
    oninput: () => {
      clearTimeout(pause);
      pause = setTimeout(() => { state = { token: null, atom: null }; amend({ text: box.value, t: null, a: null }); decompose(box.value); }, PAUSE_MS);
    },
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { clearTimeout(pause); amend({ text: box.value }); decompose(box.value); }
    },
  });
  append(page, [
    h("p", { class: "lead" }, "The model runs on what you type; each token's activation is taken apart into atoms. ", !context.live && ["The model is not loaded here: start ", h("code", {}, "itda explore"), " without ", h("code", {}, "--no-model"), "."]),
    h("form", { class: "prompt-form", onsubmit: (event) => { event.preventDefault(); clearTimeout(pause); amend({ text: box.value }); decompose(box.value); } },
      h("label", { class: "field", for: "text" }, "Text"), box),
    context.live && picker(context.readouts),
    alert,
    result,
    panel.element,
  ]);
  panel.offer(null);
  return { page, title: "Prompt", shown: () => { panel.shown(); return decompose(box.value); } };
}

/** The text: a button for each token, with a bar for the share explained, or tinted by one atom's coefficients. */
function tokenStrip(data, state, select, where) {
  // A massive token would outshine all others: it is not tinted.
  const weights = data.codes.map(([ids, values], place) => (state.atom === null || data.explained[place] === null ? null : (values[ids.indexOf(state.atom)] ?? null)));
  const largest = Math.max(...weights.map((w) => Math.abs(w ?? 0)));
  const { number } = readoutOf(data);
  const buttons = data.tokens.map((text, place) => {
    const bytes = data.bytes[place];
    const chosen = place === state.token;
    const explained = data.explained[place];
    const name = `${named(text, bytes)}, ${explained === null ? massive(data, place) : `${percent(explained)} explained`}` + (weights[place] !== null ? `, ${number.toLowerCase()} ${signed(weights[place])}` : "");
    const button = h("button", {
      type: "button", class: explained === null ? "token massive" : "token", "data-token": place, tabindex: chosen ? 0 : -1, "aria-pressed": chosen ? "true" : "false", "aria-label": name, title: name,
      style: { "--explained": (100 * (explained ?? 0)).toFixed(1) + "%" }, onclick: () => select(data, place, true),
    }, h("bdi", {}, tokenText(text, bytes, { edges: text.includes("\n") })));
    if (weights[place] !== null) tint(button, weights[place], largest);
    // The sign of a newline stays on its line; what indents the next one goes there, for the eye only.
    return text.includes("\n") && !bytes ? [button, h("br"), h("span", { "aria-hidden": "true" }, text.slice(text.lastIndexOf("\n") + 1))] : button;
  });
  const strip = h("div", {
    class: "strip", role: "group", "aria-label": "Tokens; arrow keys move from one to the next", dir: "auto",
    onkeydown: (event) => {
      const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -data.tokens.length, End: data.tokens.length };
      if (!(event.key in moves)) return;
      event.preventDefault();
      select(data, Math.max(0, Math.min(data.tokens.length - 1, state.token + moves[event.key])), true);
    },
  }, buttons);
  const ordinary = data.explained.filter((each) => each !== null);
  const mean = ordinary.reduce((a, b) => a + b, 0) / Math.max(1, ordinary.length);
  const apart = data.explained.length - ordinary.length;
  const legend = state.atom === null
    ? [`The bar under a token is the share of its activation that ${data.readout in OTHERS ? "its code explains" : "its atoms explain"}; `, h("strong", {}, ordinary.length ? percent(mean) : "–"), " on average.",
      apart > 0 && ` A dashed frame marks what is massive and left out of that: a norm many times the median, which says little of the text (${count(apart)} ${apart === 1 ? "token" : "tokens"}).`]
    : [`Tinted by the ${OTHERS[data.readout] ?? "coefficient"} of `, h("a", { href: link("atom", { ...where, atom: state.atom }) }, `atom ${count(state.atom)}`), ": blue is positive, orange and dashed is negative."];
  return h("section", { class: "card", "aria-label": "Text" }, strip, h("p", { class: "muted" }, legend));
}

function detail(data, state, shade, where) {
  const [ids, values] = data.codes[state.token];
  const largest = Math.max(0, ...values.map(Math.abs));
  const text = data.tokens[state.token];
  const { number, by, list } = readoutOf(data);
  const atoms = list(`${ids.length} ${ids.length === 1 ? "atom" : "atoms"}`);
  const table = h("table", { class: "codes" },
    h("caption", {}, chip(text, data.bytes[state.token]), " ", data.explained[state.token] === null ? [massive(data, state.token), `; ${atoms}`] : [h("strong", {}, percent(data.explained[state.token])), ` ${by}; ${atoms}`]),
    h("thead", {}, h("tr", {}, [number, "Atom", "The atom's own prompt", "Show"].map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, ids.map((atom, place) => row(data, atom, [h("span", { class: "number" }, signed(values[place])), meter(values[place], largest)], state, shade, where))));
  const sums = new Map();
  data.codes.forEach(([atoms, weights], token) => data.explained[token] !== null && atoms.forEach((atom, place) => {
    const sum = sums.get(atom) ?? { weight: 0, tokens: 0 };
    sums.set(atom, { weight: sum.weight + Math.abs(weights[place]), tokens: sum.tokens + 1 });
  }));
  const strongest = [...sums].sort((a, b) => b[1].weight - a[1].weight).slice(0, SHOWN_OF_TEXT);
  const most = strongest[0]?.[1].weight ?? 0;
  const whole = h("details", { class: "card", open: false },
    h("summary", {}, `Atoms of the whole text, ${count(sums.size)} in all`),
    h("table", { class: "codes" },
      h("caption", {}, `By the sum of the sizes of their ${OTHERS[data.readout] ?? "coefficient"}s`),
      h("thead", {}, h("tr", {}, ["Sum, tokens", "Atom", "The atom's own prompt", "Show"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, strongest.map(([atom, { weight, tokens }]) => row(data, atom, [h("span", { class: "number" }, short(weight)), h("span", { class: "muted" }, ` × ${tokens}`), meter(weight, most)], state, shade, where)))));
  const doubt = ids.some((atom) => data.unreplicated.includes(atom)) && h("p", { class: "muted" }, "Grey, with a question mark: the atom does not replicate, so it is no finding.");
  return h("div", {}, h("section", { class: "card", "aria-label": "The chosen token" }, table, doubt), whole);
}

function massive(data, place) {
  return `massive, its norm ${short(data.massive[place])} times the median`;
}

function row(data, atom, first, state, shade, where) {
  const [before, token, after] = data.labels[atom];
  const known = canAsk("atom", { ...where, atom: String(atom) });
  const shown = state.atom === atom;
  const doubtful = data.unreplicated.includes(atom);
  return h("tr", { class: doubtful ? "unreplicated" : null, title: doubtful ? "does not replicate: no finding" : null },
    h("td", { class: "weight-cell" }, first),
    h("td", { class: "id" }, doubtful && h("span", { title: "does not replicate" }, "?"), known ? h("a", { href: link("atom", { ...where, atom }) }, count(atom)) : count(atom)),
    h("td", { class: "prompt-cell" }, keyword(before, token, after)),
    h("td", {}, h("button", { type: "button", class: "shade", "data-shade": atom, "aria-pressed": shown ? "true" : "false", "aria-label": `Show where atom ${atom} is used`, title: "Tint the text by this atom", onclick: () => shade(data, atom) }, shown ? "●" : "○")));
}
