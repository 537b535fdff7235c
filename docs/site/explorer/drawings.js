// Pictures as SVG, from the numbers of law.js.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
// From dark to light, so that print in grey keeps them apart; text on them white or black.
const COLOURS = ["#0072b2", "#d55e00", "#56b4e9", "#f0e442", "#000000", "#009e73", "#cc79a7", "#e69f00", "#8c8c8c"];
const DARK = new Set(["#0072b2", "#d55e00", "#000000", "#009e73"]);

function colourOf(index) { return COLOURS[index % COLOURS.length]; }

function element(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function canvas(width, height, label) {
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  svg.append(element("title", {}, label));
  return svg;
}

/** A grid of pixels in the colours of their classes, numbered where there is room. */
function drawClasses(found) {
  const size = found.number.length;
  const side = 360 / size;
  const svg = canvas(360, 360, `${found.parts.length} residue classes of ${size} by ${size} pixels`);
  found.number.forEach((line, y) => line.forEach((index, x) => {
    const colour = colourOf(index);
    svg.append(element("rect", { x: x * side, y: y * side, width: side, height: side, fill: colour, stroke: "white", "stroke-width": side > 8 ? 1 : 0.3 }));
    if (side >= 20) {
      svg.append(element("text", { x: (x + 0.5) * side, y: (y + 0.5) * side, "text-anchor": "middle", "dominant-baseline": "central", style: `fill:${DARK.has(colour) ? "white" : "black"}` }, String(index)));
    }
  }));
  return svg;
}

/** Determined pixels filled, the others crossed. */
function drawMap(found) {
  const size = found.determined.length;
  const side = 360 / size;
  const svg = canvas(360, 360, `${found.known} of ${found.pixels} pixels are determined`);
  found.determined.forEach((line, y) => line.forEach((known, x) => {
    const [left, top] = [x * side, y * side];
    svg.append(element("rect", { x: left, y: top, width: side, height: side, fill: known ? "#0072b2" : "white", stroke: known ? "white" : "#8c8c8c", "stroke-width": side > 8 ? 1 : 0.3 }));
    if (!known) {
      const m = side * 0.25;
      svg.append(element("path", { d: `M${left + m} ${top + m}L${left + side - m} ${top + side - m}M${left + side - m} ${top + m}L${left + m} ${top + side - m}`, stroke: "#595959", "stroke-width": Math.max(0.6, side / 16) }));
    }
  }));
  return svg;
}

/** Counted rows and exact rank over the number of filters. */
function drawLadder(setting, found) {
  const enough = found.fewest === null ? found.byCount : found.fewest;
  const last = Math.max(8, setting.filters + 2, Math.ceil(1.15 * Math.max(enough, found.byCount)));
  const exact = staircase(setting, last);
  const [width, height, left, bottom, top, right] = [420, 300, 46, 42, 26, 12];
  const svg = canvas(width, height, `Counted rows and exact rank for 1 to ${last} filters; ${found.fewest === null ? "no number of filters determines the input" : `${found.fewest} filters determine the input`}, counting says ${found.byCount}`);
  const px = (filters) => left + ((filters - 1) / (last - 1)) * (width - left - right);
  const py = (rank) => height - bottom - (rank / (1.08 * found.pixels)) * (height - bottom - top);
  const line = (points, attributes) => svg.append(element("polyline", { points: points.map((p) => p.join(",")).join(" "), fill: "none", "stroke-width": 2, ...attributes }));
  const label = (x, y, words, anchor = "middle") => svg.append(element("text", { x, y, "text-anchor": anchor }, words));
  line([[left, top], [left, height - bottom], [width - right, height - bottom]], { stroke: "#8c8c8c", "stroke-width": 1 });
  line([[left, py(found.pixels)], [width - right, py(found.pixels)]], { stroke: "#1a1a1a", "stroke-dasharray": "2 3", "stroke-width": 1 });
  const filters = Array.from({ length: last }, (_, n) => n + 1);
  line(filters.map((n) => [px(n), py(Math.min(n * setting.kernel ** 2, found.pixels))]), { stroke: "#8c8c8c", "stroke-dasharray": "7 4" });
  line(filters.map((n) => [px(n), py(exact[n - 1])]), { stroke: "#0072b2" });
  const marks = [[found.byCount, found.pixels, "#8c8c8c"]];
  if (found.fewest !== null) marks.push([found.fewest, found.pixels, "#0072b2"]);
  for (const [x, y, fill] of marks) svg.append(element("circle", { cx: px(x), cy: py(y), r: 5, fill, stroke: "white" }));
  const here = setting.activity === 100 ? exact[setting.filters - 1] : found.rank;
  svg.append(element("path", { d: `M${px(setting.filters)} ${py(here) - 6}l6 6l-6 6l-6-6z`, fill: "#d55e00", stroke: "white" }));
  for (const rank of [0, found.pixels]) label(left - 6, py(rank) + 4, String(rank), "end");
  for (const n of [1, last]) label(px(n), height - bottom + 16, String(n));
  label((left + width) / 2, height - 8, "filters");
  label(left, 14, "equations, rank", "start");
  // A legend in the lower right, where no line passes.
  const entries = [["#8c8c8c", "7 4", "counted rows"], ["#0072b2", "", "exact rank"]];
  entries.forEach(([stroke, dash, words], n) => {
    const y = height - bottom - 56 + 18 * n;
    line([[width - 160, y - 4], [width - 132, y - 4]], { stroke, "stroke-dasharray": dash });
    label(width - 126, y, words, "start");
  });
  svg.append(element("path", { d: `M${width - 146} ${height - bottom - 30}l6 6l-6 6l-6-6z`, fill: "#d55e00" }));
  label(width - 126, height - bottom - 20, "this setting", "start");
  return svg;
}

/** The constraint graph of a layer small enough, otherwise null. */
function drawGraph(setting, found) {
  const equations = setting.filters * setting.kernel ** 2;
  if (equations + found.pixels > 130) return null;
  const step = 18;
  const height = Math.max(equations, found.pixels) * step + 20;
  const svg = canvas(640, height, `Constraint graph: ${equations} equations and ${found.pixels} pixels in ${found.parts.length} classes`);
  const axis = triplesOf(setting);
  const yOf = (n, count) => 10 + ((n + 0.5) / count) * (height - 20);
  const [left, right] = [190, 470];
  const edges = element("g", { fill: "none", "stroke-width": 1, opacity: 0.65 });
  const nodes = element("g");
  const words = element("g");
  const met = new Set();
  for (let f = 0; f < setting.filters; f += 1) {
    for (const a of axis) {
      for (const b of axis) {
        if (!found.mask[f][a.output][b.output]) continue;
        const row = (f * setting.kernel + a.tap) * setting.kernel + b.tap;
        const pixel = a.pixel * setting.size + b.pixel;
        met.add(row);
        edges.append(element("path", { d: `M${left} ${yOf(row, equations)}L${right} ${yOf(pixel, found.pixels)}`, stroke: colourOf(found.number[a.pixel][b.pixel]) }));
      }
    }
  }
  for (let row = 0; row < equations; row += 1) {
    const [f, i, j] = [Math.floor(row / setting.kernel ** 2), Math.floor(row / setting.kernel) % setting.kernel, row % setting.kernel];
    nodes.append(element("rect", { x: left - 5, y: yOf(row, equations) - 5, width: 10, height: 10, fill: met.has(row) ? "#1a1a1a" : "white", stroke: "#1a1a1a" }));
    words.append(element("text", { x: left - 12, y: yOf(row, equations) + 4, "text-anchor": "end" }, `filter ${f}, tap ${i},${j}`));
  }
  for (let pixel = 0; pixel < found.pixels; pixel += 1) {
    const [y, x] = [Math.floor(pixel / setting.size), pixel % setting.size];
    nodes.append(element("circle", { cx: right, cy: yOf(pixel, found.pixels), r: 5.5, fill: colourOf(found.number[y][x]), stroke: "#1a1a1a" }));
    words.append(element("text", { x: right + 12, y: yOf(pixel, found.pixels) + 4 }, `pixel ${y},${x}`));
  }
  svg.append(edges, nodes, words);
  return svg;
}
