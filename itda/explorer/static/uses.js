// One use of an atom: the tokens around it, tinted where the atom is used, and a link to its window of the corpus.

import { h, percent, signed } from "./dom.js";
import { direction, named, tint, tokenText, wholeCharacter } from "./text.js";
import { canAsk } from "./api.js";
import { link } from "./state.js";
import { meter } from "./charts.js";

export function useLine(one, largest, { run, site }) {
  const weights = new Map(one.weights);
  const piece = (text, place) => {
    const bytes = one.bytes[place];
    const counted = place === one.at || weights.has(place);
    const inside = bytes && !counted ? wholeCharacter(text, bytes) : tokenText(text, bytes, place === one.at ? { edges: true } : undefined);
    const node = h(place === one.at ? "mark" : "span", {}, h("bdi", {}, inside));
    if (!weights.has(place)) return place === one.at ? node : inside;
    node.classList.add("weight");
    node.setAttribute("title", `${named(text, bytes)}: coefficient ${signed(weights.get(place))}`);
    return tint(node, weights.get(place), largest);
  };
  const pieces = one.tokens.map(piece);
  const before = one.tokens.slice(0, one.at).join("");
  const href = link("prompt", { run, site, token: one.token, t: null });
  const where = `token ${one.position} of ${one.document}; explained ${percent(one.explained)}, ${percent(one.share)} by this atom; picked at step ${one.step + 1}`;
  const inner = [
    h("span", { class: "coefficient", title: "coefficient" }, signed(one.coefficient)),
    h("span", { class: "use-share muted", title: "share of the activation" }, percent(one.share)),
    meter(one.coefficient, largest),
    h("span", { class: "kwic", dir: direction(one.tokens[one.at], before, one.tokens.slice(one.at + 1).join("")) },
      h("span", { class: "before" }, h("bdi", {}, one.cut[0] && "…", pieces.slice(0, one.at))),
      pieces[one.at],
      h("span", { class: "after" }, h("bdi", {}, pieces.slice(one.at + 1), one.cut[1] && "…"))),
  ];
  return h("li", {}, canAsk("window", { run, site, token: String(one.token) })
    ? h("a", { href, class: "example use", title: where }, inner)
    : h("span", { class: "example use", title: where }, inner));
}
