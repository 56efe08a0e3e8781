// What a reader writes of atoms: a star, a name, a note, lists. It is kept in the run; a page that stands alone shows it.

import { h } from "./dom.js";
import { ask, canAsk, standalone } from "./api.js";

const NOTHING = { name: "", note: "", star: false, lists: [] };
const ALONE = "This page stands alone. Notes are kept in the run: open it with `itda explore` to write some.";

/** The notes of a site as they are now, and ways to change them. */
export async function notesOf({ run, site }) {
  const where = { run, site };
  const empty = { atoms: {}, lists: [], last: null, lost: 0 };
  const store = { ...(canAsk("notes", where) ? await ask("notes", where) : empty) };
  if (standalone) store.readonly = ALONE;
  const took = (answer) => Object.assign(store, answer);
  return Object.assign(store, {
    of: (atom) => store.atoms[atom] ?? NOTHING,
    /** Texts to search in, as the server has them. */
    text: (atom) => { const { name, note, lists } = store.of(atom); return [name, note, ...lists].filter(Boolean).join("\n"); },
    change: async (atom, changes, was) => took(await ask("note", { ...where, atom: String(atom), changes: JSON.stringify(changes), was: JSON.stringify(was ?? {}) })),
    undo: async () => took(await ask("undo_note", { ...where, id: store.last.id })),
    add: async (notes) => took(await ask("import_notes", { ...where, notes: JSON.stringify(notes) })),
    again: async () => took(await ask("notes", where)),
  });
}

/** The signs of what is written of an atom, for a row of a list; null where nothing is. */
export function noteSigns(notes, atom) {
  const { name, note, star, lists } = notes?.of(atom) ?? NOTHING;
  if (!name && !note && !star && !lists.length) return null;
  const told = [star && "starred", note && "has a note", lists.length && "in " + lists.join(", ")].filter(Boolean).join("; ");
  return h("span", { class: "noted", title: told || null }, star && h("span", { class: "star", role: "img", "aria-label": "starred" }, "★"), (name || note) && h("bdi", { class: "atom-name" }, name || "✎"));
}

/** The card of an atom's page. */
export function notesCard(notes, atom, onchange) {
  const status = h("p", { class: "muted", role: "status" });
  const frame = h("div", {});
  const seen = () => ({ name: notes.of(atom).name, note: notes.of(atom).note });
  let was = seen();

  async function save(changes, focus) {
    status.textContent = "Saving …";
    try {
      await notes.change(atom, changes, was);
      was = seen();
      draw();
      status.textContent = "Saved in the run.";
      if (focus) frame.querySelector(focus)?.focus();
      onchange?.();
    } catch (error) {
      status.textContent = error.message;
      await notes.again().catch(() => {});
      was = seen(); // who saves once more has seen what it is now
    }
  }

  async function undo() {
    try {
      await notes.undo();
      was = seen();
      draw();
      status.textContent = "Undone.";
      onchange?.();
    } catch (error) {
      status.textContent = error.message;
    }
  }

  function field(name, title, tag, more) {
    const box = h(tag, { name: "own_" + name, value: notes.of(atom)[name], disabled: Boolean(notes.readonly), dir: "auto", onchange: () => save({ [name]: box.value }), ...more,
      onkeydown: (event) => { if (event.key === "Enter" && (tag === "input" || event.ctrlKey || event.metaKey)) { event.preventDefault(); box.blur(); } } });
    return h("label", { class: "field" }, h("span", {}, title), box);
  }

  function draw() {
    const { star, lists } = notes.of(atom);
    const adding = h("input", { name: "own_list", list: "known-lists", maxlength: 100, placeholder: "add to a list", "aria-label": "Add to a list", dir: "auto", disabled: Boolean(notes.readonly),
      onchange: () => adding.value.trim() && save({ lists: { [adding.value.trim()]: true } }, '[name="own_list"]') });
    frame.replaceChildren(
      h("div", { class: "note-line" },
        h("button", { type: "button", class: "star-button", "aria-pressed": star ? "true" : "false", disabled: Boolean(notes.readonly), onclick: () => save({ star: !star }, ".star-button") }, star ? "★ starred" : "☆ star"),
        notes.last && !notes.readonly && h("button", { type: "button", title: `Take back: ${notes.last.what} of atom ${notes.last.atom}`, onclick: undo }, "Undo")),
      field("name", "Name", "input", { maxlength: 200 }),
      field("note", "Note", "textarea", { rows: 3, maxlength: 10000 }),
      h("div", { class: "own-lists" }, lists.map((each) =>
        h("span", { class: "own-list" }, h("bdi", {}, each), !notes.readonly && h("button", { type: "button", "aria-label": `Remove from the list ${each}`, onclick: () => save({ lists: { [each]: false } }, '[name="own_list"]') }, "×"))),
        adding, h("datalist", { id: "known-lists" }, notes.lists.map((each) => h("option", { value: each })))));
  }

  draw();
  return h("section", { class: "card own-notes", "aria-labelledby": "own-notes" }, h("h2", { id: "own-notes" }, "Your notes"),
    notes.readonly && h("p", { class: "muted" }, notes.readonly), frame, status);
}
