// Tokens and prompts made readable: whitespace and control characters as signs, bytes in hexadecimal, each token in its
// own direction. Corpus text comes in as strings and leaves as text nodes.

import { h } from "./dom.js";

const SIGNS = { "\n": "⏎", "\t": "⇥", "\r": "␍" };
// Control characters, and those without width that could hide or reorder text.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]/;
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/;
const LETTER = /\p{L}/u;

/** Text on one line as nodes: signs are marked, so that they are not taken for the text's own characters. */
export function visible(text, { edges = false } = {}) {
  const nodes = [];
  let plain = "";
  const sign = (shown, name) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(h("span", { class: "sign", title: name }, shown));
  };
  const characters = [...text];
  const first = characters.findIndex((c) => c !== " ");
  const start = first < 0 ? characters.length : first;
  characters.forEach((c, place) => {
    if (c in SIGNS) sign(SIGNS[c], { "\n": "newline", "\t": "tab", "\r": "carriage return" }[c]);
    else if (c === " " && edges && (place < start || place === characters.length - 1)) sign("␣", "space");
    else if (c === "\u00a0") sign("⍽", "no-break space");
    else if (HIDDEN.test(c)) sign("⟨" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩", "U+" + c.codePointAt(0).toString(16));
    else plain += c;
  });
  if (plain) nodes.push(plain);
  return nodes;
}

/** What a token is called where only a string will do. */
export function named(text, bytes) {
  if (bytes) return "⟨" + bytes + "⟩";
  return visible(text, { edges: true }).map((node) => (typeof node === "string" ? node : node.textContent)).join("");
}

/** The inside of a token: its bytes where it is no whole character, else its text. */
export function tokenText(text, bytes, options) {
  if (bytes) return [h("span", { class: "sign", title: "a part of a character, in bytes" }, "⟨" + bytes + "⟩")];
  if (text === "") return [h("span", { class: "sign", title: "a token without text" }, "∅")];
  return visible(text, options);
}

/** A character that is cut into tokens, in text that is there for context: shown once, at the token that begins it. */
export function wholeCharacter(text, bytes) {
  return bytes.split(" ").some((byte) => parseInt(byte, 16) >= 0xc2) ? visible(text) : [];
}

/** A token on its own. */
export function chip(text, bytes) {
  return h("bdi", { class: "chip" }, tokenText(text, bytes, { edges: true }));
}

/** Which way a line of text runs. */
export function direction(token, before, after = "") {
  for (const text of [token, before.slice(-40), after]) {
    if (RIGHT_TO_LEFT.test(text)) return "rtl";
    if (LETTER.test(text)) return "ltr";
  }
  return "ltr";
}

/** A prompt on one line with its token in the middle: three cells of a grid. */
export function keyword(before, token, after, bytes) {
  return h(
    "span",
    { class: "kwic", dir: direction(token, before, after) },
    h("span", { class: "before" }, h("bdi", {}, visible(before))),
    h("mark", {}, h("bdi", {}, tokenText(token, bytes, { edges: true }))),
    h("span", { class: "after" }, h("bdi", {}, visible(after))),
  );
}

/** A whole prompt with its token marked, lines as they are. */
export function passage(before, token, after, bytes) {
  const mark = h("mark", {}, h("bdi", {}, tokenText(token, bytes, { edges: true })), token.includes("\n") && "\n");
  return withMarkInSight(
    h(
      "p",
      { class: "passage", dir: direction(token, before, after), tabindex: 0 }, // it may have to be scrolled
      textLines(before),
      mark,
      textLines(after),
    ),
    mark,
  );
}

/** A text that is scrolled, as soon as it has a place on the page, so far that the token marked in it is seen. */
function withMarkInSight(text, mark) {
  const placed = new ResizeObserver(() => {
    placed.disconnect();
    const [frame, marked] = [text.getBoundingClientRect(), mark.getBoundingClientRect()];
    if (marked.bottom > frame.bottom) text.scrollTop += marked.bottom - frame.bottom + frame.height / 4;
  });
  placed.observe(text);
  return text;
}

/** A text as nodes, its lines as they are. */
export function textLines(text) {
  return text.split("\n").flatMap((line, place) => (place ? ["\n", ...visible(line)] : visible(line)));
}

/** The tint of a signed weight: blue for positive, orange for negative, stronger for larger; a line says which, too. */
export function tint(element, weight, largest) {
  const strength = largest > 0 ? Math.min(1, Math.abs(weight) / largest) : 0;
  element.classList.add(weight < 0 ? "negative" : "positive");
  element.style.setProperty("--strength", (0.15 + 0.85 * strength).toFixed(3));
  return element;
}
