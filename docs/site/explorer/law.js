// The polyphase law a second time, independent of the Python library: residue classes of one convolution with equal
// sizes along both axes, their ranks, the fewest filters, and which pixels the gradient equations determine.
"use strict";

const PRIME = 67108859; // below 2^26: a product of two residues is exact in a double

/** A generator of numbers in [0, 1), the same for the same seed (mulberry32). */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Number of outputs along one axis; below 1 where the kernel does not fit. */
function outputsOf({ size, kernel, stride, padding, dilation }) {
  return Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1;
}

/** Triples (tap, output, pixel) along one axis: pixel = output * stride + tap * dilation - padding, inside the input. */
function triplesOf(setting) {
  const found = [];
  for (let output = 0; output < outputsOf(setting); output += 1) {
    for (let tap = 0; tap < setting.kernel; tap += 1) {
      const pixel = output * setting.stride + tap * setting.dilation - setting.padding;
      if (pixel >= 0 && pixel < setting.size) found.push({ tap, output, pixel });
    }
  }
  return found;
}

/** Residue classes along one axis: pixels, those of them that meet a tap, taps that meet a pixel, and triples. */
function axisClassesOf(setting) {
  const triples = triplesOf(setting);
  const classes = new Map();
  for (let pixel = 0; pixel < setting.size; pixel += 1) {
    const residue = (pixel + setting.padding) % setting.stride;
    if (!classes.has(residue)) classes.set(residue, { residue, pixels: [], met: new Set(), taps: new Set(), triples: [] });
    classes.get(residue).pixels.push(pixel);
  }
  for (const triple of triples) {
    const axis = classes.get((triple.pixel + setting.padding) % setting.stride);
    axis.met.add(triple.pixel);
    axis.taps.add(triple.tap);
    axis.triples.push(triple);
  }
  for (const axis of classes.values()) axis.gains = gainsOf(axis.triples);
  return [...classes.values()].sort((a, b) => a.residue - b.residue);
}

/** Pixels that each output adds to those already met, the output that adds most first. */
function gainsOf(triples) {
  const gains = [];
  let left = triples;
  while (left.length) {
    const counts = new Map();
    for (const { output } of left) counts.set(output, (counts.get(output) || 0) + 1);
    let best = null;
    for (const [output, count] of counts) if (best === null || count > counts.get(best)) best = output;
    const gone = new Set(left.filter((triple) => triple.output === best).map((triple) => triple.pixel));
    gains.push(gone.size);
    left = left.filter((triple) => !gone.has(triple.pixel));
  }
  return gains;
}

/** Residue classes of the plane: products of those of the axes. */
function classesOf(setting) {
  const axis = axisClassesOf(setting);
  return axis.flatMap((y) => axis.map((x) => ({
    residue: [y.residue, x.residue],
    y,
    x,
    pixels: y.pixels.length * x.pixels.length,
    met: y.met.size * x.met.size,
    taps: y.taps.size * x.taps.size,
  })));
}

/** Bounds of the generic rank of a class without elimination: disjoint windows, and the smaller of rows and pixels. */
function boundsOf(part, filters) {
  const products = part.y.gains.flatMap((a) => part.x.gains.map((b) => a * b)).sort((a, b) => b - a);
  const low = products.slice(0, filters).reduce((sum, gain) => sum + gain, 0);
  return { low, high: Math.min(filters * part.taps, part.met) };
}

/** Rows of a class at a gradient k[filter][output y][output x], each an array over the class's pixels that meet a tap. */
function* rowsOf(part, k) {
  const ys = [...part.y.met].sort((a, b) => a - b);
  const xs = [...part.x.met].sort((a, b) => a - b);
  const yPlace = new Map(ys.map((pixel, place) => [pixel, place]));
  const xPlace = new Map(xs.map((pixel, place) => [pixel, place]));
  for (const plane of k) {
    for (const i of part.y.taps) {
      const down = part.y.triples.filter((triple) => triple.tap === i);
      for (const j of part.x.taps) {
        const right = part.x.triples.filter((triple) => triple.tap === j);
        const row = new Float64Array(ys.length * xs.length);
        let any = false;
        for (const a of down) {
          for (const b of right) {
            const value = plane[a.output][b.output];
            if (value) any = true;
            row[yPlace.get(a.pixel) * xs.length + xPlace.get(b.pixel)] = value;
          }
        }
        if (any) yield row;
      }
    }
  }
}

/** Inverse modulo the prime, by Euclid. */
function inverse(value) {
  let [a, b, u, v] = [value, PRIME, 1, 0];
  while (b) {
    const q = Math.floor(a / b);
    [a, b] = [b, a - q * b];
    [u, v] = [v, u - q * v];
  }
  return ((u % PRIME) + PRIME) % PRIME;
}

/** Take a row into a reduced echelon form modulo the prime: rows with their pivot, 1 at their own and 0 at the others'. */
function absorb(basis, row) {
  const columns = row.length;
  for (const { values, pivot } of basis) {
    const factor = row[pivot];
    if (factor) for (let c = 0; c < columns; c += 1) if (values[c]) row[c] = (row[c] + (PRIME - factor) * values[c]) % PRIME;
  }
  const pivot = row.findIndex((value) => value !== 0);
  if (pivot < 0) return;
  const scale = inverse(row[pivot]);
  for (let c = pivot; c < columns; c += 1) row[c] = (row[c] * scale) % PRIME;
  for (const { values } of basis) {
    const factor = values[pivot];
    if (factor) for (let c = pivot; c < columns; c += 1) if (row[c]) values[c] = (values[c] + (PRIME - factor) * row[c]) % PRIME;
  }
  basis.push({ values: row, pivot });
}

/** Rank of rows modulo the prime, and which columns are determined. */
function eliminate(rows, columns) {
  const basis = [];
  for (const row of rows) {
    if (basis.length === columns) break;
    absorb(basis, row);
  }
  const determined = new Array(columns).fill(false);
  for (const { values, pivot } of basis) {
    let alone = true;
    for (let c = 0; c < columns && alone; c += 1) alone = c === pivot || values[c] === 0;
    determined[pivot] = alone;
  }
  return { rank: basis.length, determined };
}

/** Which outputs are active: [filter][y][x], the same for the same setting. */
function maskOf(setting) {
  const random = generator(1);
  const outputs = outputsOf(setting);
  const mask = [];
  for (let f = 0; f < setting.filters; f += 1) {
    mask.push([]);
    for (let y = 0; y < outputs; y += 1) {
      mask[f].push([]);
      for (let x = 0; x < outputs; x += 1) mask[f][y].push(random() * 100 < setting.activity);
    }
  }
  return mask;
}

/** A random output gradient modulo the prime, zero where the mask is false. */
function gradientOf(mask) {
  const random = generator(2);
  return mask.map((plane) => plane.map((line) => line.map((on) => (on ? 1 + Math.floor(random() * (PRIME - 1)) : 0))));
}

/** Exact rank and determined pixels of one class; `how` says what proved it. */
function judge(part, setting, k) {
  const { low, high } = boundsOf(part, setting.filters);
  if (setting.activity === 100 && low === high && low === part.met) {
    return { rank: low, determined: new Array(part.met).fill(true), how: "closed form" };
  }
  const found = eliminate(rowsOf(part, k), part.met);
  const closed = setting.activity === 100 && low === high;
  return { rank: found.rank, determined: found.determined, how: closed ? "closed form" : "elimination" };
}

/** Ranks of a class with 1, 2, ... filters, all outputs active, up to the first that reaches every pixel met. */
function ranksOf(part, setting) {
  const windows = part.y.gains.length * part.x.gains.length; // as many filters as these always do
  const bounds = Array.from({ length: windows }, (_, n) => boundsOf(part, n + 1));
  const ranks = bounds.map(({ high }) => high);
  if (bounds.some(({ low, high }) => low < high)) {
    // The first filters' gradient does not depend on how many follow, so that one elimination gives all ranks.
    const k = gradientOf(maskOf({ ...setting, filters: windows, activity: 100 }));
    const basis = [];
    for (let n = 0; n < windows && basis.length < part.met; n += 1) {
      for (const row of rowsOf(part, [k[n]])) if (basis.length < part.met) absorb(basis, row);
      if (bounds[n].low < bounds[n].high) ranks[n] = basis.length;
    }
  }
  return ranks.slice(0, ranks.indexOf(part.met) + 1);
}

let remembered = { shape: "", classes: [] };

/** The residue classes with their ranks, remembered while only filters and activity change. */
function rankedClassesOf(setting) {
  const { size, kernel, stride, padding, dilation } = setting;
  const shape = [size, kernel, stride, padding, dilation].join();
  if (shape !== remembered.shape) {
    remembered = { shape, classes: classesOf(setting).map((part) => ({ ...part, ranks: ranksOf(part, setting) })) };
  }
  return remembered.classes;
}

/** Fewest filters with which gradient equations alone determine the input, all outputs active; null if none do. */
function fewestFilters(setting) {
  const parts = rankedClassesOf(setting);
  return parts.some((part) => part.met < part.pixels) ? null : Math.max(...parts.map((part) => part.ranks.length));
}

/** Everything that the page shows of a setting. */
function analyse(setting) {
  const outputs = outputsOf(setting);
  const mask = maskOf(setting);
  const k = gradientOf(mask);
  const parts = classesOf(setting).map((part) => ({ ...part, ...judge(part, setting, k) }));
  const number = [];
  const determined = [];
  for (let y = 0; y < setting.size; y += 1) {
    number.push(new Array(setting.size).fill(-1));
    determined.push(new Array(setting.size).fill(false));
  }
  parts.forEach((part, index) => {
    for (const y of part.y.pixels) for (const x of part.x.pixels) number[y][x] = index;
    const ys = [...part.y.met].sort((a, b) => a - b);
    const xs = [...part.x.met].sort((a, b) => a - b);
    ys.forEach((y, i) => xs.forEach((x, j) => { determined[y][x] = part.determined[i * xs.length + j]; }));
  });
  const pixels = setting.size ** 2;
  const rows = setting.filters * setting.kernel ** 2;
  return {
    outputs,
    mask,
    parts,
    number,
    determined,
    pixels,
    rows,
    counted: Math.min(rows, pixels),
    rank: parts.reduce((sum, part) => sum + part.rank, 0),
    known: determined.flat().filter(Boolean).length,
    fewest: fewestFilters(setting),
    byCount: Math.ceil(pixels / setting.kernel ** 2),
  };
}

/** The exact rank for every number of filters from 1 to `last`, all outputs active. */
function staircase(setting, last) {
  const parts = rankedClassesOf(setting);
  const rankOf = (part, filters) => (filters < part.ranks.length ? part.ranks[filters - 1] : part.met);
  return Array.from({ length: last }, (_, n) => parts.reduce((sum, part) => sum + rankOf(part, n + 1), 0));
}

if (typeof module !== "undefined") module.exports = { analyse, fewestFilters, outputsOf, staircase, triplesOf };
