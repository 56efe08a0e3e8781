// An atom's prompt on one line with what a search found in it marked, and brought near if it is far from the token.

import { h } from "./dom.js";
import { direction, tokenText, visible } from "./text.js";

/** `where` says what was searched, `match` is [start, end] in it, `other` the text of a document's name or a note. */
export function matched({ before, token, after, bytes }, where, match, other) {
  const inText = match && where === "text";
  const line = h("span", { class: "kwic", dir: direction(token, before, after) },
    h("span", { class: "before" }, h("bdi", {}, inText ? beforeWith(before, match) : visible(before))),
    h("mark", { class: match && (where === "token" || where === "exact" || overlaps(match, before.length, token.length)) ? "hit" : null }, h("bdi", {}, tokenText(token, bytes, { edges: true }))),
    h("span", { class: "after" }, h("bdi", {}, inText ? afterWith(after, [match[0] - before.length - token.length, match[1] - before.length - token.length]) : visible(after))));
  if (!match || (where !== "document" && where !== "note")) return line;
  const start = Math.max(0, match[0] - 24);
  return h("span", { class: "found-beside" },
    h("bdi", { class: "found-in", title: other }, start > 0 && "…", visible(other.slice(start, match[0])), h("span", { class: "hit" }, visible(other.slice(...match))), visible(other.slice(match[1], match[1] + 60))), line);
}

function overlaps(match, start, length) {
  return match[0] < start + length && match[1] > start;
}

/** Characters beside the token that are surely in sight. */
function room() {
  return innerWidth < 640 ? 12 : 40;
}

function marked(text, [start, end]) {
  const [from, to] = [Math.max(0, start), Math.min(text.length, end)];
  if (from >= to) return visible(text);
  return [visible(text.slice(0, from)), h("span", { class: "hit" }, visible(text.slice(from, to))), visible(text.slice(to))];
}

function beforeWith(text, [start, end]) {
  if (start >= text.length || text.length - end < room()) return marked(text, [start, end]);
  const from = Math.max(0, start - 4);
  const kept = text.slice(from, Math.min(text.length, end + (innerWidth < 640 ? 2 : 6)));
  return [from > 0 && "…", marked(kept, [start - from, end - from]), " … ", visible(text.slice(innerWidth < 640 ? -4 : -10))];
}

function afterWith(text, [start, end]) {
  if (end <= 0 || start < room() / 2) return marked(text, [start, end]);
  const from = start - 4;
  return [visible(text.slice(0, 6)), " … ", marked(text.slice(from), [start - from, end - from])];
}
