// A text of the reader's on the page of an atom, tinted by that atom.

import { h } from "./dom.js";
import { ask } from "./api.js";
import { go, link } from "./state.js";
import { tintChoice, tokenStrip } from "./strip.js";

const PAUSE_MS = 350;
let typed = ""; // kept from one atom to the next

export function tintedCard(atom, context) {
  const where = { run: context.run, site: context.site };
  const offersScore = context.readouts.includes("features");
  const result = h("div", { class: "result", "aria-live": "polite" });
  const alert = h("p", { class: "note", role: "alert", hidden: true });
  const whole = h("p", { class: "muted" });
  let [pause, asking, data] = [0, null, null];
  let by = offersScore ? "score" : "cosine";

  const box = h("textarea", { name: "own_text", rows: 2, spellcheck: "false", dir: "auto", placeholder: "Type or paste text", value: typed,
    oninput: () => { typed = box.value; clearTimeout(pause); pause = setTimeout(read, PAUSE_MS); } });

  async function read() {
    asking?.abort();
    asking = new AbortController();
    if (!box.value.trim()) return result.replaceChildren();
    result.setAttribute("aria-busy", "true");
    try {
      data = await ask("decompose", { ...where, text: box.value, atom: String(atom) }, { signal: asking.signal });
      alert.hidden = true;
      draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      alert.textContent = error.message;
      alert.hidden = false;
    }
    result.setAttribute("aria-busy", "false");
  }

  function draw() {
    const address = (place) => ({ ...where, text: typed, a: atom, by, t: place });
    result.replaceChildren(
      tintChoice(data, by, offersScore, (kind) => { by = kind; draw(); result.querySelector(`[value="${kind}"]`)?.focus(); }),
      tokenStrip(data, { token: null, atom, by }, (place) => go("prompt", address(place)), where));
    whole.replaceChildren(h("a", { href: link("prompt", address(null)) }, "Take it apart into all its atoms"));
  }

  if (typed) read();
  return h("section", { class: "card tinted-card", "aria-labelledby": "own-text" }, h("h2", { id: "own-text" }, "In your own text"),
    h("p", { class: "muted" }, "The model reads it, and each token is tinted by this atom."),
    h("label", { class: "field prompt-form" }, h("span", {}, "Text to tint"), box), alert, result, whole);
}
