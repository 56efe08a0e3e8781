// Elements from plain data. Text is always text: nothing here, or anywhere in the explorer, parses a string as markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "rect", "path", "line", "text", "title", "circle", "tspan"]);

/** An element with attributes, listeners (on...) and children. Attributes that are null or false are left out. */
export function h(tag, attributes, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [property, v] of Object.entries(value)) element.style.setProperty(property, v);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

/** Children, however deeply listed; null and false are nothing. */
export function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** Numbers as people read them. */
export function count(value) {
  return value.toLocaleString("en-US");
}

export function percent(share) {
  if (share === 0) return "0%";
  const value = 100 * share;
  if (value >= 99.95 && share < 1) return value.toFixed(2) + "%";
  return (value >= 10 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : value.toPrecision(1)) + "%";
}

export function signed(value) {
  return (value < 0 ? "−" : "+") + short(Math.abs(value));
}

export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return count(Math.round(value));
  return value.toPrecision(3);
}
