// Where data comes from: the server, or what an exported page carries. Both have the same answers to the same questions.

const embedded = document.getElementById("data");
const carried = embedded ? JSON.parse(embedded.textContent) : null;
const answers = new Map();
/** Questions with a text, which is too long for an address, and those that change something. */
const POSTED = ["decompose", "diff_text", "note", "undo_note", "import_notes"];

/** Whether this page stands alone, without a server. */
export const standalone = carried !== null;

function keyOf(name, query) {
  return name + "?" + new URLSearchParams(Object.entries(query).sort(([a], [b]) => (a < b ? -1 : 1))).toString();
}

/** Whether a question has an answer here: always with a server, else if the page carries it. */
export function canAsk(name, query) {
  return !standalone || keyOf(name, query) in carried.answers;
}

/** The prompts that an exported page carries: [run, site, text]. */
export function carriedPrompts() {
  return standalone ? carried.prompts : [];
}

/** An answer. Throws an Error whose message is a sentence for the reader. Lists are kept, as they are large. */
export async function ask(name, query = {}, { keepIt = false, signal = undefined } = {}) {
  const key = keyOf(name, query);
  if (standalone) {
    if (key in carried.answers) return carried.answers[key];
    throw new Error("This page stands alone and does not carry that. Open the run with `itda explore` to see it.");
  }
  if (answers.has(key)) return answers.get(key);
  const promise = fetched(name, query, signal);
  if (keepIt) {
    answers.set(key, promise);
    promise.catch(() => answers.delete(key));
  }
  return promise;
}

async function fetched(name, query, signal) {
  let response;
  try {
    response =
      POSTED.includes(name)
        ? await fetch("/api/" + name, {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(query),
            signal,
          })
        : await fetch("/api/" + name + "?" + new URLSearchParams(query), { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: start `itda explore` again.");
  }
  const value = await response.json().catch(() => ({ error: "The server's answer cannot be read: try again." }));
  if (!response.ok || value.error) throw new Error(value.error ?? "The server answered " + response.status + ".");
  return value;
}

/** An answer that comes in pieces, each of which `take` is called with. Throws an Error with a sentence for the reader. */
export async function streamed(name, query, signal, take) {
  try {
    const response = await fetch("/api/" + name, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(query), signal });
    if (!response.ok) throw new Refusal((await response.json()).error);
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const values = JSON.parse(event.slice("data: ".length));
        if (values.error) throw new Refusal(values.error);
        take(values);
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Refusal) throw error;
    throw new Error("The server does not answer: start `itda explore` again.");
  }
}

/** An error that the server tells in a sentence. */
class Refusal extends Error {}
