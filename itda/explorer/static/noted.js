// Notes above a list of atoms: which of them to show, and exporting, importing and undoing.

import { h, count } from "./dom.js";
import { ask, standalone } from "./api.js";
import { saveFile } from "./save.js";

const AT_ONCE = 200; // entries of an import in one question

/** Whether an atom is one of those asked for: "star", "any" or "list:NAME"; null for no such question. */
export function notedTest(notes, mine) {
  if (!mine || !notes) return null;
  if (mine === "star") return (atom) => notes.of(atom).star;
  if (mine.startsWith("list:")) return (atom) => notes.of(atom).lists.includes(mine.slice(5));
  return (atom) => atom in notes.atoms;
}

/** A choice of atoms by their notes. */
export function notedChoice(notes, mine, update) {
  const choices = [["", "all atoms"], ["any", "with notes"], ["star", "starred"], ...notes.lists.map((name) => ["list:" + name, "list: " + name])];
  return h("label", { class: "field" }, h("span", {}, "Yours"),
    h("select", { name: "mine", onchange: (event) => update({ mine: event.target.value }) }, choices.map(([value, text]) => h("option", { value, selected: value === (mine ?? "") }, text))));
}

/** Exporting, importing, undoing; `onchange` is called when notes have changed. */
export function notesMenu(notes, context, onchange) {
  const status = h("p", { class: "muted", role: "status" });
  const act = (doing) => async (event) => {
    try {
      status.textContent = (await doing(event)) ?? "";
    } catch (error) {
      status.textContent = error.message;
    }
  };
  const file = h("input", { type: "file", accept: ".json,application/json", "aria-label": "A file of notes to import", onchange: act(async (event) => {
    const [chosen] = event.target.files;
    event.target.value = "";
    if (!chosen) return;
    const said = await importNotes(notes, JSON.parse(await chosen.text()));
    onchange();
    return said;
  }) });
  const written = count(Object.keys(notes.atoms).length);
  return h("details", { class: "notes-menu" }, h("summary", {}, `Notes (${written})`),
    h("div", { class: "note-line" },
      !standalone && h("button", { type: "button", onclick: act(async () => {
        const all = await ask("export_notes", { run: context.run });
        saveFile(`${context.run}-notes.json`, "application/json", JSON.stringify(all, null, 1));
      }) }, "Export as JSON"),
      !notes.readonly && h("label", { class: "field" }, h("span", {}, "Import"), file),
      !notes.readonly && h("button", { type: "button", disabled: !notes.last, onclick: act(async () => { await notes.undo(); onchange(); return "Undone."; }) }, "Undo the last change")),
    notes.readonly && h("p", { class: "muted" }, notes.readonly),
    notes.lost > 0 && h("p", { class: "muted" }, `${count(notes.lost)} ${notes.lost === 1 ? "note is" : "notes are"} about atoms that this dictionary does not have.`),
    status);
}

async function importNotes(notes, file) {
  const entries = Array.isArray(file?.atoms) ? file.atoms : [null];
  let [imported, skipped] = [0, 0];
  for (let i = 0; i < Math.max(1, entries.length); i += AT_ONCE) {
    const found = await notes.add({ format: file?.format, format_version: file?.format_version, atoms: entries.slice(i, i + AT_ONCE) });
    imported += found.imported;
    skipped += found.skipped;
  }
  return `${count(imported)} imported` + (skipped ? `; ${count(skipped)} skipped: no atom here has their label.` : ".");
}
