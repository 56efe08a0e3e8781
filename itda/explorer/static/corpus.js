// Search in the text of the index, with the strongest atom of each place.

import { h, append, count, percent } from "./dom.js";
import { keyword, visible } from "./text.js";
import { ask, standalone } from "./api.js";
import { amend, link, parsed } from "./state.js";

const PAUSE_MS = 250;

export async function corpusView(params, context) {
  const where = { run: context.run, site: context.site };
  const status = h("p", { class: "status", role: "status" });
  const places = h("ol", { class: "places", "aria-busy": "false" });
  let [pause, asked] = [0, 0];

  async function search() {
    const { q, regex } = parsed(location.hash).params;
    const mine = ++asked;
    if (!q) {
      status.textContent = "";
      return places.replaceChildren();
    }
    places.setAttribute("aria-busy", "true");
    try {
      const found = await ask("corpus", { ...where, q, ...(regex ? { regex } : {}) });
      if (mine === asked) show(found);
    } catch (error) {
      if (mine === asked) { status.textContent = error.message; places.replaceChildren(); }
    }
    if (mine === asked) places.setAttribute("aria-busy", "false");
  }

  function show(found) {
    const few = found.places.length < found.windows ? `; the first ${count(found.places.length)} are shown` : "";
    const part = found.searched < 1 ? ` in the first ${percent(found.searched)} of the corpus (the search stops after two seconds)` : "";
    status.textContent = (found.windows ? `${count(found.windows)} ${found.windows === 1 ? "window has" : "windows have"} it` : "It was not found") + part + few + ".";
    places.replaceChildren(...found.places.map(place));
  }

  const place = (one) => h("li", {},
    h("a", { class: "place", href: link("prompt", { ...where, token: one.token }), title: one.document },
      h("span", { class: "kwic" }, h("span", { class: "before" }, h("bdi", {}, visible(one.before))), h("mark", {}, h("bdi", {}, visible(one.match, { edges: true }))), h("span", { class: "after" }, h("bdi", {}, visible(one.after))))),
    one.atom === null ? h("span", { class: "muted" }, "no atom") : h("a", { class: "place-atom", href: link("atom", { ...where, atom: one.atom }), title: `The strongest atom there: ${one.atom}` }, h("span", { class: "muted" }, count(one.atom)), keyword(one.label[0].slice(-24), one.label[1], one.label[2].slice(0, 12))));

  const later = (changes) => { amend(changes); clearTimeout(pause); pause = setTimeout(search, PAUSE_MS); };
  const page = append(h("div", { class: "view corpus-view" }), [
    h("h1", { tabindex: -1 }, "The corpus ", h("span", { class: "site" }, context.site)),
    h("p", { class: "lead" }, "Search in the text that was indexed. Each result opens its window with the atoms of each token. Beside it is the strongest atom at the last token of what was found."),
    standalone && h("p", { class: "note" }, "This page stands alone and does not carry the corpus: ", h("code", {}, "itda explore RUN"), " searches it."),
    !standalone && h("form", { class: "filters", role: "search", onsubmit: (event) => { event.preventDefault(); clearTimeout(pause); search(); } },
      h("label", { class: "field" }, h("span", {}, "Search the corpus"), h("input", { name: "q", type: "search", class: "wide", value: params.q ?? "", dir: "auto", autocomplete: "off", spellcheck: "false", oninput: (event) => later({ q: event.target.value }),
        onkeydown: (event) => { if (event.key === "ArrowDown") { event.preventDefault(); places.querySelector("a")?.focus(); } } })),
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "regex", checked: Boolean(params.regex), onchange: (event) => later({ regex: event.target.checked ? "1" : "" }) }), " regex")),
    status, places,
  ]);
  return { page, title: "The corpus", shown: search };
}
