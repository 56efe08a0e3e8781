// The steering panel: a prompt that the model goes on with, untouched and steered by an atom side by side, and by a
// control. What is chosen is in the address; each change after the first text is written anew, in the place of the last.

import { h, append, count, percent, short } from "./dom.js";
import { chip, named, textLines } from "./text.js";
import { ask, standalone, streamed } from "./api.js";
import { amend, link } from "./state.js";

const WAYS = ["untouched", "steered", "control"];
const SLIDER = 16;
const USUAL = { strength: 8, length: 40 };
const SOON_MS = 400;
/** What this page calls itself, so that the server ends its last text when it asks for another. */
const CLIENT = Math.random().toString(36).slice(2);

/**
 * The panel of one atom, or, if `atom` is null, of the atoms that are offered to it.
 *
 * `where` has the run and the site, `params` what the address says. Without `read`, which returns the prompt, the panel
 * has a field for it, in which `start` stands first.
 */
export function steeringPanel({ where, context, params, atom = null, start = "", read = null }) {
  const why = standalone ? "This page stands alone: open the run with `itda explore` to steer the model." : context.live ? null : "The model is not loaded here: start `itda explore` without --no-model to steer it.";
  const element = h("section", { class: "card steer", "aria-labelledby": "steer" }, h("h2", { id: "steer" }, atom === null ? "Steer by an atom" : "Steer by this atom"));
  if (why) return { element: append(element, [h("p", { class: "muted" }, why)]), shown() {}, offer() {} };

  const done = {};
  const texts = {};
  let running = null;
  let soon = 0;
  // An address with a strength is that of a text which somebody saw: it is written at once.
  let live = params.strength !== undefined;
  let strengthShown = "";
  let begun = null;
  let next = null;

  const own = read ? null : h("textarea", { id: "steer-prompt", name: "prompt", rows: 3, spellcheck: "false", dir: "auto", value: params.prompt ?? start, oninput: later, onkeydown: atOnce });
  const choice = atom === null ? h("select", { name: "steer", onchange: later }) : null;
  const slider = h("input", { type: "range", id: "steer-strength", name: "slider", min: -SLIDER, max: SLIDER, step: 0.5, oninput: () => { strength.value = slider.value; said(); later(); } });
  const strength = h("input", { type: "number", name: "strength", step: "any", "aria-label": "Strength, as a number", value: params.strength ?? USUAL.strength, oninput: () => { slider.value = strength.value; said(); later(); } });
  const length = h("input", { type: "number", name: "length", min: 1, step: 1, value: params.length ?? USUAL.length, oninput: later });
  const seed = h("input", { type: "number", name: "seed", min: 0, step: 1, value: params.seed ?? "", placeholder: "none", oninput: later });
  const control = h("input", { type: "checkbox", name: "control", checked: params.control === "1", onchange: () => { draw(); if (live) write(false); } });
  const button = h("button", { type: "button", class: "write", onclick: () => (running ? stop("Stopped.") : write(true)) }, "Write");
  const status = h("p", { class: "status", role: "status" });
  const alert = h("p", { class: "note", role: "alert", hidden: true });
  const places = Object.fromEntries(WAYS.map((way) => [way, {
    title: h("h3", {}),
    text: h("div", { class: "written", dir: "auto", "data-way": way, "aria-live": way === "steered" ? "polite" : null, "aria-busy": "false" }),
  }]));
  const columns = h("div", { class: "ways", hidden: true }, WAYS.map((way) => h("div", {}, places[way].title, places[way].text)));
  const changes = h("div", { class: "next" });
  slider.value = strength.value;

  const form = h("form", { class: "steer-form", onsubmit: (event) => event.preventDefault() },
    own && [h("label", { class: "field", for: "steer-prompt" }, "Prompt"), own],
    h("div", { class: "steer-choices" },
      choice && h("label", { class: "field" }, h("span", {}, "Atom, of the chosen token"), choice),
      h("div", { class: "field steer-strength" }, h("label", { for: "steer-strength" }, "Strength, in typical coefficients"), h("span", {}, slider, strength)),
      h("label", { class: "field" }, h("span", {}, "Length, in tokens"), length),
      h("label", { class: "field" }, h("span", {}, "Seed"), seed),
      h("label", { class: "check" }, control, " Control"),
      button));
  append(element, [
    h("p", { class: "muted" }, "The model continues a prompt, with the atom added at each token. Strength 1 adds as much of the atom as an activation that uses it usually has; a negative strength takes as much away. Without a seed, the likeliest token is taken each time. The control is a random atom that is used equally often, added with the same length."),
    form, alert, status, columns, changes]);
  said();

  /** What the slider's number means, for those who hear it. */
  function said() {
    slider.setAttribute("aria-valuetext", `${strength.value} typical coefficients`);
  }

  function atOnce(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write(true);
  }

  function later() {
    clearTimeout(soon);
    if (live) soon = setTimeout(() => write(false), SOON_MS);
  }

  function trouble(error) {
    alert.textContent = error ? error.message : "";
    alert.hidden = !error;
  }

  function question() {
    const asked = { ...where, atom: String(atom ?? choice.value), prompt: read ? read() : own.value, strength: strength.value, tokens: length.value || String(USUAL.length) };
    return seed.value === "" ? asked : { ...asked, seed: seed.value };
  }

  function remember() {
    if (!live) return;
    amend({
      ...(own ? { prompt: own.value } : { steer: choice.value }),
      strength: strength.value, length: length.value === String(USUAL.length) ? null : length.value, seed: seed.value, control: control.checked ? 1 : null,
    });
  }

  /** What a text depends on: one that is there already is not written again. */
  function keyOf(way, { strength, atom, site, ...rest }) {
    return JSON.stringify(way === "untouched" ? rest : { ...rest, strength, atom, site });
  }

  async function write(anew) {
    clearTimeout(soon);
    live = true;
    const asked = question();
    remember();
    const wanted = WAYS.filter((way) => way !== "control" || control.checked);
    const ways = wanted.filter((way) => anew || done[way] !== keyOf(way, asked));
    if (!ways.length) return running && stop("Stopped.");
    stop("");
    const mine = (running = new AbortController());
    trouble(null);
    button.textContent = "Stop";
    strengthShown = asked.strength;
    status.textContent = "Writing …";
    for (const way of ways) {
      delete done[way];
      texts[way] = { text: "", whole: false };
      places[way].text.setAttribute("aria-busy", "true");
    }
    if (ways.includes("steered")) next = null;
    draw();
    const started = performance.now();
    try {
      await streamed("steer", { ...asked, ways: ways.join(","), client: CLIENT }, mine.signal, (values) => mine === running && take(values, asked));
      if (mine !== running) return;
      if (!ways.every((way) => texts[way].whole)) throw new Error("The text ended early: press Write to try again.");
      status.textContent = `Done in ${((performance.now() - started) / 1000).toFixed(1)} s.`;
    } catch (error) {
      if (mine !== running) return;
      status.textContent = "";
      trouble(error);
    }
    rested();
  }

  function take(values, asked) {
    if (values.control) begun = values;
    if (values.next_token) next = values.next_token;
    if (values.way) {
      texts[values.way] = values;
      if (values.whole) {
        done[values.way] = keyOf(values.way, asked);
        places[values.way].text.setAttribute("aria-busy", "false");
      }
    }
    draw();
  }

  function stop(word) {
    clearTimeout(soon);
    const it = running;
    running = null;
    it?.abort();
    if (it) status.textContent = word;
    rested();
  }

  function rested() {
    running = null;
    button.textContent = "Write";
    for (const way of WAYS) places[way].text.setAttribute("aria-busy", "false");
  }

  function draw() {
    columns.hidden = !texts.steered;
    if (columns.hidden) return;
    for (const way of WAYS) {
      const { title, text } = places[way];
      title.parentElement.hidden = way === "control" && !control.checked;
      title.replaceChildren(...titleOf(way));
      text.replaceChildren(...append(h("div", {}), body(way)).childNodes);
    }
    changes.replaceChildren(...(next ? nextToken(next, begun, control.checked) : []));
  }

  function titleOf(way) {
    if (way === "untouched") return ["Untouched"];
    if (way === "steered") return [`Steered, strength ${strengthShown.replace("-", "−")}`];
    if (!begun) return ["Control"];
    return ["Control: ", h("a", { href: link("atom", { ...where, atom: begun.control.atom }) }, `atom ${count(begun.control.atom)}`), " ", chip(begun.control.label[1])];
  }

  /** A text so far; what it has in common with the untouched one is grey. */
  function body(way) {
    const { text = "", whole = false } = texts[way] ?? {};
    if (!text) return [h("span", { class: "muted" }, whole ? "Nothing: the model ended the text." : running ? "…" : "")];
    if (way === "untouched") return textLines(text);
    const other = texts.untouched?.text ?? "";
    let same = 0;
    while (same < Math.min(text.length, other.length) && text[same] === other[same]) same += 1;
    return [h("span", { class: "same" }, textLines(text.slice(0, same))), textLines(text.slice(same))];
  }

  addEventListener("hashchange", () => stop(""), { once: true });
  element.addEventListener("keydown", (event) => event.key === "Escape" && running && stop("Stopped."));

  return {
    element,
    /** What can only be done once the page is there. */
    shown() {
      ask("steering", where, { keepIt: true }).then((limits) => { length.max = limits.most_tokens; }, (error) => {
        stop("");
        element.replaceChildren(element.firstChild, h("p", { class: "muted" }, error.message));
      });
      if (live && own) write(false);
    },
    /** Atoms to choose from, with their labels: the one that was steered by stays the chosen one. */
    offer(atoms, labels) {
      element.hidden = !atoms?.length;
      if (element.hidden) return stop("");
      const chosen = Number(live ? choice.value || params.steer || atoms[0] : atoms[0]);
      const all = atoms.includes(chosen) ? atoms : [chosen, ...atoms];
      choice.replaceChildren(...all.map((each) => h("option", { value: each, selected: each === chosen }, labels[each] ? `${count(each)}  ${named(labels[each][1])}` : count(each))));
      if (live) write(false);
    },
  };
}

/** How the next token changes: what is promoted and suppressed, and how much it is in all beside that of the controls. */
function nextToken({ steered, control, kls }, begun, withControl) {
  const sorted = [...kls].sort((a, b) => a - b);
  const median = (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
  const beyond = kls.filter((kl) => kl < steered.kl).length;
  const among = `${kls.length} ${kls.length === 1 ? "control" : "controls"}: ${short(sorted[0])} to ${short(sorted.at(-1))}, median ${short(median)}`;
  const table = (title, rows) =>
    h("table", { class: "effects" }, h("caption", {}, title), h("tbody", {}, rows.map(({ token, bytes, before, after }) => h("tr", {}, h("th", { scope: "row" }, chip(token, bytes)), h("td", {}, `${percent(before)} → ${percent(after)}`)))));
  const both = (name, change) => h("div", {}, h("h4", {}, `${name}: KL ${short(change.kl)} nats`), h("div", { class: "pair" }, table("Promoted", change.promoted), table("Suppressed", change.suppressed)));
  return [
    h("h3", {}, "The next token after the prompt"),
    h("p", { class: "muted" }, `The prediction changes by ${short(steered.kl)} nats, KL(untouched ‖ steered). With ${among}. The atom changes it more than ${beyond} of them. `,
      `The added vector has the length ${short(begun.push)}, ${short(begun.push / begun.norm)} times that of the median activation of the prompt. Strength 1 is a length of ${short(begun.unit)}, measured in ${begun.source}.`),
    range(steered.kl, kls, `KL of the next token: steered ${short(steered.kl)} nats; ${among}`),
    h("div", { class: "ways" }, both("Steered", steered), withControl && both(`Control, atom ${count(begun.control.atom)}`, control)),
  ];
}

/** A line from 0 to the largest KL, with a mark for each control and a dot for the steered one. */
function range(own, kls, label) {
  const most = Math.max(own, ...kls) || 1;
  const x = (value) => 8 + (value / most) * 304;
  const svg = h("svg", { viewBox: "0 0 320 22", role: "img", "aria-label": label },
    h("line", { x1: 8, x2: 312, y1: 11, y2: 11, class: "axis" }),
    kls.map((kl) => h("rect", { x: x(kl) - 1, y: 3, width: 2, height: 16, class: "of-control" }, h("title", {}, `a control: ${short(kl)}`))),
    h("circle", { cx: x(own), cy: 11, r: 5, class: "bar positive" }, h("title", {}, `steered: ${short(own)}`)));
  return h("figure", { class: "range" }, svg, h("figcaption", { class: "muted" }, h("span", { class: "dot" }, "●"), " steered, ", h("span", {}, "❙"), " controls"));
}
