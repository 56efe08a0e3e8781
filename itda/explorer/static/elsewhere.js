// Where else an atom is: the same label in other layers and runs, and what is nearest to it in other runs.

import { h, count } from "./dom.js";
import { keyword } from "./text.js";
import { ask, canAsk } from "./api.js";
import { link } from "./state.js";

/** A card that fills itself; nothing where there is no other dictionary. */
export function elsewhereCard(query, context) {
  if (context.runs.length < 2 && context.sites.length < 2) return null;
  const card = (...inside) => h("section", { class: "card", "aria-labelledby": "elsewhere" }, h("h2", { id: "elsewhere" }, "Elsewhere"), ...inside);
  if (!canAsk("elsewhere", query)) return card(h("p", { class: "muted" }, "This page stands alone and does not carry where else the atom is: ", h("code", {}, "itda explore RUN"), " shows it."));
  const place = h("div", { "aria-live": "polite" }, h("p", { class: "muted" }, "…"));
  ask("elsewhere", query).then((data) => place.replaceChildren(...content(data, context)), (error) => place.replaceChildren(h("p", { class: "note" }, error.message)));
  return card(place);
}

function content(data, context) {
  const named = (run, site) => (run === context.run ? site : `${run}, ${site}`);
  const grey = (doubtful) => (doubtful ? { class: "unreplicated", title: "does not replicate" } : {});
  return [
    h("h3", {}, "The same label"),
    data.same.length
      ? h("ul", { class: "same" }, data.same.map((one) => h("li", grey(one.unreplicated), h("a", { href: link("atom", { run: one.run, site: one.site, atom: one.atom }) }, `${named(one.run, one.site)}: atom ${count(one.atom)}`))))
      : h("p", { class: "muted" }, "No other dictionary here has an atom of this token."),
    ...data.near.flatMap((other) => [
      h("h3", {}, "Nearest in ", h("bdi", {}, other.run)),
      h("ol", { class: "nearest-elsewhere" }, other.atoms.map(({ atom, cosine, text, unreplicated }) =>
        h("li", grey(unreplicated), h("a", { href: link("atom", { run: other.run, site: other.site, atom }), title: `atom ${count(atom)} of ${other.run}` }, h("span", { class: "number" }, cosine.toFixed(3)), keyword(text[0].slice(-40), text[1], text[2].slice(0, 16)))))),
    ]),
  ];
}
