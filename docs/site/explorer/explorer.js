// The page: knobs, URL, and what is shown of a setting.
"use strict";

const KNOBS = [
  { name: "size", label: "Input side", unit: "pixels", min: 2, max: 24, value: 8 },
  { name: "kernel", label: "Kernel", unit: "taps a side", min: 1, max: 7, value: 3 },
  { name: "stride", label: "Stride", unit: "pixels", min: 1, max: 4, value: 2 },
  { name: "padding", label: "Padding", unit: "pixels", min: 0, max: 3, value: 1 },
  { name: "dilation", label: "Dilation", unit: "pixels", min: 1, max: 3, value: 1 },
  { name: "filters", label: "Filters", unit: "", min: 1, max: 80, value: 4 },
  { name: "activity", label: "Active, %", unit: "of the outputs", min: 10, max: 100, value: 100 },
];
const setting = Object.fromEntries(KNOBS.map((knob) => [knob.name, knob.value]));
let current = null;

function place(id, ...children) { document.getElementById(id).replaceChildren(...children); }

function html(name, text, attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** Whole numbers within the limits; what cannot be read keeps its value. */
function take(values) {
  for (const knob of KNOBS) {
    const value = Number.parseInt(values[knob.name], 10);
    if (Number.isFinite(value)) setting[knob.name] = Math.min(knob.max, Math.max(knob.min, value));
  }
}

function hashOf() { return `#${KNOBS.map((knob) => `${knob.name}=${setting[knob.name]}`).join("&")}`; }

function build() {
  const knobs = document.getElementById("knobs");
  for (const knob of KNOBS) {
    const row = html("div", "", { class: "knob" });
    row.append(html("label", knob.label, { for: knob.name, title: knob.unit }));
    const range = { type: "range", id: knob.name, min: knob.min, max: knob.max };
    const exact = { type: "number", id: `${knob.name}-exact`, min: knob.min, max: knob.max, "aria-label": `${knob.label} ${knob.unit}`.trim() };
    for (const attributes of [range, exact]) {
      const input = html("input", "", attributes);
      input.addEventListener(attributes.type === "range" ? "input" : "change", () => {
        take({ [knob.name]: input.value });
        update();
      });
      row.append(input);
    }
    knobs.append(row);
  }
}

/** Show what the knobs say, at once, and the analysis as soon as the browser has drawn them. */
function update(keepHash = false) {
  for (const knob of KNOBS) {
    document.getElementById(knob.name).value = setting[knob.name];
    document.getElementById(`${knob.name}-exact`).value = setting[knob.name];
  }
  if (!keepHash) history.replaceState(null, "", hashOf());
  document.getElementById("shared").textContent = "";
  clearTimeout(current);
  document.body.dataset.state = "busy";
  current = setTimeout(() => {
    show();
    document.body.dataset.state = "ready";
  }, 30);
}

function show() {
  if (outputsOf(setting) < 1) {
    place("verdict", "The kernel does not fit into the input: choose a larger input, a smaller kernel or more padding.");
    for (const id of ["numbers", "ladder", "classes", "map", "rows", "graph"]) place(id);
    window.explorer = { setting: { ...setting }, found: null };
    return;
  }
  const found = analyse(setting);
  window.explorer = { setting: { ...setting }, found }; // for tests and for the curious
  place("verdict", sentence(found));
  const side = found.outputs;
  const numbers = [
    ["outputs of a filter", `${side} × ${side}`],
    ["equations (filters × taps)", found.rows],
    ["pixels of a channel", found.pixels],
    ["counted", found.counted],
    ["exact rank", found.rank],
    ["determined pixels", found.known],
    ["fewest filters, by counting", found.byCount],
    ["fewest filters, exact", found.fewest === null ? "none will do" : found.fewest],
  ];
  place("numbers", ...numbers.flatMap(([term, value]) => [html("dt", term), html("dd", String(value))]));
  place("ladder", drawLadder(setting, found));
  place("classes", drawClasses(found));
  place("map", drawMap(found));
  place("rows", ...found.parts.map((part, index) => {
    const row = html("tr", "");
    const name = html("td", "");
    name.append(html("span", "", { class: "swatch", style: `background:${colourOf(index)}` }), `${index} (${part.residue.join(", ")})`);
    const cells = [part.taps, setting.filters * part.taps, part.pixels, part.rank, part.pixels - part.rank, part.how];
    row.append(name, ...cells.map((value) => html("td", String(value))));
    return row;
  }));
  place("graph", drawGraph(setting, found)
    || html("p", `${found.rows + found.pixels} nodes are too many to read. Choose at most 130, for example 6 pixels a side and 4 filters of 3 taps.`, { class: "note" }));
}

function sentence(found) {
  if (found.known === found.pixels) return "Determined: the gradient equations alone fix every pixel.";
  const why = found.rank < found.counted ? ` Counting says ${found.counted} independent equations; there are ${found.rank}.` : "";
  if (found.known === 0) return `Not determined: the gradient equations alone fix no pixel.${why}`;
  return `Partly determined: the gradient equations alone fix ${found.known} of ${found.pixels} pixels.${why}`;
}

async function share() {
  try {
    await navigator.clipboard.writeText(location.href);
    place("shared", "Copied.");
  } catch {
    place("shared", "The address of this page holds the setting: copy it from there.");
  }
}

function read() { take(Object.fromEntries(new URLSearchParams(location.hash.slice(1)))); }

build();
read();
update(location.hash.length > 1);
document.getElementById("share").addEventListener("click", share);
document.getElementById("setting").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { read(); update(true); });
