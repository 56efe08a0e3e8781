// Texts shaded token by token by what differs between two models there: by the energy of the difference, by how far
// their predictions are apart, or by what one atom explains.

import { h, short } from "./dom.js";
import { direction, named, tint, visible } from "./text.js";

export const SHADES = {
  kl: { title: "predictions: KL, in nats", number: (value) => `${short(value)} nats` },
  energy: { title: "activations: energy of the difference", number: (value) => `energy ${short(value)}` },
  atom: { title: "this atom: the energy that it explains", number: (value) => `explains ${short(value)}` },
};

/** What a text is shaded by, a number for each piece; null where nothing is known. */
export function shadesOf(text, kind, atom) {
  if (kind !== "atom") return text[kind];
  return text.codes.map((code, place) => (text.energy[place] === null ? null : (code.find(([each]) => each === atom)?.[1] ?? 0)));
}

/** The largest shade of some texts. */
export function largestShade(texts, kind, atom) {
  return Math.max(0, ...texts.flatMap((text) => shadesOf(text, kind, atom).map((value) => value ?? 0)));
}

/** A text with its tokens tinted; the one that it is shown for is marked. Every token tells its numbers. */
export function shadedText(text, kind, largest, atom) {
  const values = shadesOf(text, kind, atom);
  const pieces = text.tokens.map((token, place) => {
    const inside = linesOf(token);
    if (text.kl[place] === null && text.energy[place] === null) return inside;
    const told = Object.keys(SHADES).filter((each) => each !== "atom" || kind === "atom").map((each) => [each, shadesOf(text, each, atom)[place]]).filter(([, value]) => value !== null);
    const node = h(place === text.at ? "mark" : "span", { class: "weight", title: `${named(token)}: ${told.map(([each, value]) => SHADES[each].number(value)).join(", ")}` }, inside);
    const value = values[place];
    return value !== null && value > 0 && largest > 0 && value / largest >= 0.02 ? tint(node, value, largest) : node;
  });
  const at = text.at ?? 0;
  return h("p", { class: "passage shaded", dir: direction(text.tokens[at] ?? "", text.tokens.slice(0, at).join(""), text.tokens.slice(at + 1).join("")) }, pieces);
}

/** A choice of what texts are shaded by. */
export function shadeChoice(chosen, offered, onchoose) {
  return h("div", { class: "choices", role: "group", "aria-label": "Shade the text by" }, "Shade by ",
    offered.map((kind) => h("label", {}, h("input", { type: "radio", name: "shade", value: kind, checked: kind === chosen, onchange: () => onchoose(kind) }), " " + SHADES[kind].title)));
}

function linesOf(token) {
  return token.split("\n").flatMap((line, place) => (place ? ["\n", ...visible(line)] : visible(line)));
}
