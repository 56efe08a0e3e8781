// The address is the state: #/view?name=value. What is typed or chosen within a view replaces the address; going to
// another view adds to the history.

/** The view and its parameters in an address. */
export function parsed(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { view: path || "start", params: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address of a view. Parameters that are null or empty are left out. */
export function link(view, params) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, String(value));
  }
  const text = query.toString();
  return "#/" + view + (text ? "?" + text : "");
}

/** Change parameters of the view that is shown, without leaving it. */
export function amend(changes) {
  const { view, params } = parsed(location.hash);
  const hash = link(view, { ...params, ...changes });
  if (hash !== location.hash) history.replaceState(history.state, "", hash);
}

export function go(view, params) {
  location.hash = link(view, params);
}

const kept = new Map();

/** Something to find again when the same address is shown again, such as how far a list was scrolled. */
export function keep(value) {
  kept.set(location.hash, value);
}

export function found() {
  return kept.get(location.hash);
}
