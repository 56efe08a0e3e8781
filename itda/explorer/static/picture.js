// An atom as a picture: SVG made of text and bars, and the same as PNG.

import { h, count, percent, signed } from "./dom.js";
import { named } from "./text.js";
import { saveFile } from "./save.js";

const [WIDTH, MARGIN, LINE] = [900, 28, 21];
const [TEXT, MUTED, ACCENT, NEGATIVE] = ["#191d22", "#545e69", "#0b57a4", "#a84a06"];
const MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
const SANS = "system-ui, 'DejaVu Sans', Arial, sans-serif";
const [PER_LINE, USES] = [88, 8];

/** Save the picture of an atom, of the data of its page, as "svg" or "png". */
export async function savePicture(data, about, kind) {
  const svg = atomPicture(data, about);
  const text = new XMLSerializer().serializeToString(svg);
  const name = `${about.run}-${about.site}-atom-${data.atom}.${kind}`;
  if (kind === "svg") return saveFile(name, "image/svg+xml", text);
  const image = new Image();
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * WIDTH, 2 * Number(svg.getAttribute("height"))];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  saveFile(name, "image/png", await new Promise((done) => canvas.toBlob(done, "image/png")));
}

function atomPicture({ atom, label, uses, replication }, { run, site, name }) {
  const shapes = [];
  let y = MARGIN + 12;
  const line = (parts, size = 14, family = SANS, step = LINE) => {
    shapes.push(h("text", { x: MARGIN, y, "font-family": family, "font-size": size, "xml:space": "preserve" },
      parts.map(([text, fill = TEXT, weight = 400]) => h("tspan", { fill, "font-weight": weight }, text))));
    y += step;
  };
  line([[`Atom ${count(atom)}`, TEXT, 700], [name ? "  " + clean(name) : "", ACCENT, 600], [`   ${run}, ${site}`, MUTED]], 20, SANS, 30);
  const told = [uses && `used by ${count(uses.uses)} of ${count(uses.tokens)} tokens (${percent(uses.uses / Math.max(1, uses.tokens))})`, replication && (replication.replicates ? "replicates" : "does not replicate")].filter(Boolean).join("; ");
  if (told) line([[told, MUTED]], 13);
  y += 6;
  for (const parts of passageLines(label)) line(parts, 14, MONO);
  y += 8;
  if (uses?.histogram) y = bars(shapes, uses.histogram, y);
  const examples = (uses?.groups ?? []).flatMap((group) => group.examples).slice(0, USES);
  for (const one of examples) {
    const token = named(one.tokens[one.at], one.bytes[one.at]);
    const before = clean(one.tokens.slice(0, one.at).join("")).slice(-(50 - Math.min(20, token.length)));
    line([[signed(one.coefficient).padStart(7) + "  ", one.coefficient < 0 ? NEGATIVE : MUTED], [before], [token, ACCENT, 700], [clean(one.tokens.slice(one.at + 1).join("")).slice(0, 26)]], 13, MONO);
  }
  const height = Math.ceil(y + MARGIN - 8);
  const svg = h("svg", { viewBox: `0 0 ${WIDTH} ${height}`, width: WIDTH, height }, h("rect", { width: WIDTH, height, fill: "#ffffff" }), shapes);
  svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return svg;
}

/** The end of an atom's own prompt in lines, its token in colour. */
function passageLines({ before, token, after, bytes }) {
  const shown = named(token, bytes).slice(0, 60);
  const text = clean(before).slice(-(3 * PER_LINE - shown.length - 24));
  const head = [];
  const last = text.length % PER_LINE > PER_LINE - shown.length ? text.length : text.length - (text.length % PER_LINE);
  for (let i = 0; i < last; i += PER_LINE) head.push([[text.slice(i, Math.min(last, i + PER_LINE))]]);
  const end = text.slice(last);
  return [...head, [[end], [shown, ACCENT, 700], [clean(after).slice(0, Math.max(0, PER_LINE - end.length - shown.length)), MUTED]]];
}

function bars(shapes, { counts, edges }, top) {
  const [wide, high, most] = [(WIDTH - 2 * MARGIN) / counts.length, 60, Math.max(1, ...counts)];
  counts.forEach((number, i) => {
    const tall = number ? Math.max(1.5, (number / most) * high) : 0;
    shapes.push(h("rect", { x: MARGIN + i * wide, y: top + high - tall, width: Math.max(1, wide - 2), height: tall, fill: edges[i + 1] <= 0 ? NEGATIVE : ACCENT }));
  });
  shapes.push(h("text", { x: MARGIN, y: top + high + 15, "font-family": SANS, "font-size": 12, fill: MUTED }, `coefficients from ${signed(edges[0])} to ${signed(edges.at(-1))}`));
  return top + high + 42;
}

function clean(text) {
  return named(text.replaceAll(" ", "\u2002")).replaceAll("\u2002", " ");
}
