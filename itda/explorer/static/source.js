// The atoms of a dictionary as a list is drawn from them: numbers of all, texts of those in sight, and a search.
// With a server texts come as they are needed and the server searches; an exported page has all that it carries.

import { ask, standalone } from "./api.js";

const AT_ONCE = 200; // rows whose texts are asked for in one question
const NUMBERS = ["uses", "strongest", "fidelity", "novelty", "replication", "effect_continuation", "effect_promoted"];
const sources = new Map();

/** The source of a site's atoms; the same one for as long as the page is open. */
export async function atomSource({ run, site }) {
  const key = JSON.stringify([run, site]);
  if (!sources.has(key)) {
    const made = standalone ? carriedSource({ run, site }) : servedSource({ run, site });
    sources.set(key, made);
    made.catch(() => sources.delete(key));
  }
  return sources.get(key);
}

/** What all sources have: the place of an atom among the rows, and whether a row's text is here. */
function completed(data) {
  const places = data.ids ? new Map(data.ids.map((id, row) => [id, row])) : null;
  data.size = data.ids ? data.ids.length : data.atoms;
  data.idOf = (row) => (data.ids ? data.ids[row] : row);
  data.rowOf = (id) => (places ? places.get(id) : id < data.size ? id : undefined);
  data.isHere = (row) => data.token[row] !== undefined;
  return data;
}

async function carriedSource(where) {
  const carried = await ask("atoms", where);
  const data = completed({ ...carried, documentOf: (row) => carried.documents[carried.document[row]] });
  let looked = null;
  data.want = () => null;
  data.search = async (search, notes) => {
    looked = search && { search, notes };
    return search && data.token.map((_, row) => row).filter((row) => placeOf(data, row, search, notes) !== null);
  };
  data.matchOf = (row) => looked && placeOf(data, row, looked.search, looked.notes);
  return data;
}

/** Where a plain text is found in a row: [start, end], or null. */
function placeOf(data, row, { q, where }, notes) {
  const texts = { text: () => data.before[row] + data.token[row] + data.after[row], token: () => data.token[row], exact: () => data.token[row], document: () => data.documentOf(row), note: () => notes?.(data.idOf(row)) ?? "" };
  const text = texts[where in texts ? where : "text"]();
  if (where === "exact") return text.trim().toLowerCase() === q.trim().toLowerCase() ? [0, text.length] : null;
  const start = text.toLowerCase().indexOf(q.toLowerCase());
  return start < 0 ? null : [start, start + q.length];
}

async function servedSource(where) {
  const { packed, replicates, ...rest } = await ask("columns", where);
  const data = completed({ ...rest, before: [], token: [], after: [], bytes: [], document: [], documentOf: (row) => data.document[row] });
  for (const name of NUMBERS) data[name] = packed[name] ? unpacked(packed[name]) : null;
  data.replicates = replicates ? unpacked(replicates) : null;
  let asked = {};
  let matches = [];
  let coming = new Map();
  data.search = async (search) => {
    const now = search ? { q: search.q, in: search.where, ...(search.regex ? { regex: "1" } : {}) } : {};
    if (JSON.stringify(now) !== JSON.stringify(asked)) [asked, matches, coming] = [now, [], new Map()];
    return search && (await ask("search", { ...where, ...now })).atoms;
  };
  data.want = (rows) => {
    const missing = rows.filter((row) => !coming.has(row));
    for (let i = 0; i < missing.length; i += AT_ONCE) fetchRows(missing.slice(i, i + AT_ONCE));
    const waiting = rows.map((row) => coming.get(row)).filter((each) => each !== true);
    return waiting.length ? Promise.all(waiting) : null;
  };
  data.matchOf = (row) => matches[row] ?? null;

  function fetchRows(rows) {
    const [mine, found] = [coming, matches];
    const arrived = ask("rows", { ...where, ...asked, atoms: rows.join(",") }).then((texts) => {
      rows.forEach((row, i) => {
        for (const name of ["before", "token", "after", "bytes", "document"]) data[name][row] = texts[name][i];
        found[row] = texts.match?.[i] ?? null;
        mine.set(row, true);
      });
    }).catch((error) => {
      rows.forEach((row) => mine.delete(row));
      throw error;
    });
    rows.forEach((row) => mine.set(row, arrived));
  }
  return data;
}

function unpacked(text) {
  return new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}
