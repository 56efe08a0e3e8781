// A text, its tokens with the share explained, and the atoms of each: typed live, or a window of the corpus.

import { h, append, count } from "./dom.js";
import { named, visible } from "./text.js";
import { ask, canAsk, carriedPrompts, standalone } from "./api.js";
import { amend, go, link } from "./state.js";
import { steeringPanel } from "./steer.js";
import { listed, READOUTS, tintChoice, tokenStrip } from "./strip.js";
import { detail } from "./detail.js";
import { notesOf } from "./notes.js";

const PAUSE_MS = 350;

export async function promptView(params, context) {
  const where = { run: context.run, site: context.site };
  const result = h("div", { class: "result", "aria-busy": "false" });
  const alert = h("p", { class: "note", role: "alert", hidden: true });
  const notes = await notesOf(context);
  let box = null;
  let text = "";
  let shown = null;
  let state = { token: params.t === undefined ? null : Number(params.t), atom: params.a === undefined ? null : Number(params.a), by: params.by ?? "" };
  let asking = null;
  // A name that there is not is asked for like others: the server says which ones there are.
  let readout = params.readout ?? "code";
  const asked = (name) => (name === "code" ? {} : { readout: name });
  const panel = steeringPanel({ where, context, params, read: () => box.value });

  function choose(name) {
    readout = name;
    state = { ...state, atom: null, by: "" };
    amend({ readout: name === "code" ? null : name, a: null, by: null });
    decompose(box?.value ?? text);
  }

  /** The choice of a readout, of those that can be asked for here, and a line on what is missing. */
  function picker(offered) {
    return h("div", { class: "readouts" },
      h("label", { class: "field" }, h("span", {}, "Readout"),
        h("select", { name: "readout", onchange: (event) => choose(event.target.value) },
          Object.entries(READOUTS).map(([name, { title }]) => h("option", { value: name, selected: name === readout, disabled: !offered.includes(name) }, title)))),
      !standalone && !offered.includes("features") && h("p", { class: "muted" }, "Features are not fitted yet. To fit them: ", h("code", {}, `itda features ${context.run}`), "."));
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
    if (!result.firstChild) result.replaceChildren(h("p", { class: "muted" }, "Waiting for the model …"));
    result.setAttribute("aria-busy", "true"); // what was shown stays until the new is here
    const wished = state.by && state.atom !== null && !standalone ? { atom: String(state.atom) } : {};
    try {
      const data = await ask("decompose", { ...where, text, ...asked(readout), ...wished }, { signal: asking.signal });
      trouble(null);
      show(data);
    } catch (error) {
      if (error.name === "AbortError") return;
      trouble(error);
      if (!shown) result.replaceChildren();
    }
    result.setAttribute("aria-busy", "false");
  }

  function show(data) {
    shown = data;
    const last = data.tokens.length - 1;
    if (state.token === null) state.token = data.at ?? last;
    state.token = Math.max(0, Math.min(last, state.token));
    const choice = state.atom !== null && !fromCorpus && !standalone && tintChoice(data, state.by, context.readouts.includes("features"), (kind) => shade(state.atom, kind, true));
    result.replaceChildren(tokenStrip(data, state, (place) => select(place), where, choice || null), detail(data, state, { shade, where, notes }));
    if (box) panel.offer(listed(data, state.token).map((place) => data.codes[state.token][0][place]), data.labels);
  }

  function select(token) {
    state.token = token;
    amend({ t: token });
    redraw(`[data-token="${token}"]`);
  }

  /** Tint by an atom, or no longer by it. */
  async function shade(atom, by, stays = false) {
    const same = state.atom === atom && (state.by ?? "") === by && !stays;
    state = { ...state, atom: same ? null : atom, by: same ? "" : by };
    amend({ a: state.atom, by: state.by });
    const focus = stays ? `[name="tint-by"][value="${by}"]` : `[data-shade="${atom}"][data-by="${by}"]`;
    if (state.by && shown.chosen?.atom !== atom) {
      if (standalone) state.by = "";
      else await decompose(box?.value ?? text);
    }
    redraw(focus);
  }

  function redraw(focus) {
    show(shown);
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
      h("p", { class: "lead" }, "Tokens ", count(data.position), " to ", count(data.position + data.tokens.length - 1), " of ", h("bdi", {}, visible(data.document)), ", with their codes from the index. ",
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
      // An atom to tint by stays: one may want to see it in another text.
      pause = setTimeout(() => { state.token = null; amend({ text: box.value, t: null }); decompose(box.value); }, PAUSE_MS);
    },
    onkeydown: (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { clearTimeout(pause); amend({ text: box.value }); decompose(box.value); }
    },
  });
  append(page, [
    h("p", { class: "lead" }, "The model reads what you type, and each token's activation is taken apart into atoms. ", !context.live && ["The model is not loaded here: start ", h("code", {}, "itda explore"), " without ", h("code", {}, "--no-model"), "."]),
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
