"use strict";
// The curves of a run: one chart, drawn anew whenever something is chosen. All numbers are in the element #data.
(() => {
  const { views } = JSON.parse(document.getElementById("data").textContent);
  const chart = document.getElementById("chart");
  const readout = document.getElementById("readout");
  const choice = document.getElementById("view");
  const bands = document.getElementById("bands");
  const seeds = document.getElementById("seeds");
  const legend = document.getElementById("legend");
  const chips = document.getElementById("chips");
  const EDGE = { left: 58, right: 14, top: 14, bottom: 40 }; // pixels around the plot
  const DASHES = ["none", "8 3", "2 3", "9 3 2 3", "5 3", "9 3 2 3 2 3"]; // of lines, for those who see no colours
  const REACH = 16; // pixels from which a seed's line counts as pointed at
  const hint = readout.textContent;
  const hidden = { series: new Set(), lines: new Set() };
  let cursor = null; // {index, height}: the step that is read, and the pointer's height in pixels or null
  let scales = null;

  const isNumber = (value) => value !== null && Number.isFinite(value);
  const colour = (index) => `var(--c${index % 8})`;
  const dashes = (index) => DASHES[index % DASHES.length];

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(parent.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
    if (size >= 1e3) return `${+(value / 1e3).toPrecision(4)}k`;
    return size > 0 && size < 1e-3 ? value.toExponential(1) : `${+value.toPrecision(4)}`;
  }

  const exact = (value) => (Math.abs(value) >= 1e4 ? value.toLocaleString("en") : `${+value.toPrecision(5)}`);

  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) || 10);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1) found.push(i * step);
    return found;
  }

  const view = () => views[Number(choice.value)];
  const shownSeries = () => view().series.map((one, i) => ({ ...one, i })).filter((one) => !hidden.series.has(one.label));
  const shownLines = () => (seeds.checked ? view().lines.filter((one) => !hidden.lines.has(one.label)) : []);

  // The least and the greatest of all that is drawn, with room around them.
  function extent(values) {
    const known = values.filter(isNumber);
    if (!known.length) return [0, 1];
    const low = known.reduce((a, b) => Math.min(a, b));
    const high = known.reduce((a, b) => Math.max(a, b));
    const room = high > low ? 0.04 * (high - low) : 0.5 * Math.abs(high) || 1;
    return [low - room, high + room];
  }

  function makeScales() {
    const { series, target, x_first: first, y_range: range } = view();
    const drawn = shownSeries();
    const values = [...range, ...drawn.flatMap((one) => one.mid), ...shownLines().flatMap((one) => one.y), target];
    if (bands.checked) values.push(...drawn.flatMap((one) => [...one.low, ...one.high]));
    const [low, high] = extent(values);
    const last = Math.max(...series.map((one) => one.x[one.x.length - 1]));
    const width = chart.clientWidth - EDGE.left - EDGE.right;
    const height = chart.clientHeight - EDGE.top - EDGE.bottom;
    return {
      low, high, first, last, width, height,
      x: (value) => EDGE.left + (width * (value - first)) / (last - first),
      y: (value) => EDGE.top + (height * (high - value)) / (high - low),
    };
  }

  function path(xs, ys) {
    let text = "";
    let pen = "M";
    ys.forEach((value, i) => {
      if (!isNumber(value)) { pen = "M"; return; }
      text += `${pen}${scales.x(xs[i]).toFixed(1)} ${scales.y(value).toFixed(1)}`;
      pen = "L";
    });
    return text;
  }

  function bandPath({ x, low, high }) {
    const kept = x.map((_, i) => i).filter((i) => isNumber(low[i]) && isNumber(high[i]));
    const corner = (i, values) => `${scales.x(x[i]).toFixed(1)} ${scales.y(values[i]).toFixed(1)}`;
    const corners = [...kept.map((i) => corner(i, high)), ...kept.reverse().map((i) => corner(i, low))];
    return corners.length ? `M${corners.join("L")}Z` : "";
  }

  function drawAxes() {
    const { x_name: xName, name } = view();
    const bottom = EDGE.top + scales.height;
    for (const value of ticks(scales.low, scales.high, Math.max(2, scales.height / 55))) {
      const y = scales.y(value);
      element("line", { class: "grid", x1: EDGE.left, x2: EDGE.left + scales.width, y1: y, y2: y }, chart);
      element("text", { x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, chart, short(value));
    }
    for (const value of ticks(scales.first, scales.last, Math.max(2, scales.width / 75))) {
      element("text", { x: scales.x(value), y: bottom + 17, "text-anchor": "middle" }, chart, short(value));
    }
    element("text", { x: EDGE.left + scales.width / 2, y: bottom + 35, "text-anchor": "middle" }, chart, xName);
    const middle = EDGE.top + scales.height / 2;
    element("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, chart, name);
  }

  function draw() {
    scales = makeScales();
    chart.replaceChildren();
    if (scales.width < 40) return;
    drawAxes();
    const { series, target } = view();
    for (const line of shownLines()) element("path", { class: "seed", d: path(series[0].x, line.y) }, chart);
    const banded = bands.checked ? shownSeries() : [];
    const opacity = Math.min(0.22, 0.8 / banded.length); // of many that lie over each other the lines stay in sight
    for (const one of banded) {
      element("path", { class: "band", d: bandPath(one), style: `fill: ${colour(one.i)}; opacity: ${opacity}` }, chart);
    }
    for (const one of shownSeries()) {
      const style = `stroke: ${colour(one.i)}; stroke-dasharray: ${dashes(one.i)}`;
      element("path", { class: "mid", d: path(one.x, one.mid), style }, chart);
    }
    if (isNumber(target)) {
      const y = scales.y(target);
      element("path", { class: "target", d: `M${EDGE.left} ${y}H${EDGE.left + scales.width}` }, chart);
      element("text", { class: "target-name", x: EDGE.left + 4, y: y - 5 }, chart, `solved: ${short(target)}`);
    }
    drawCursor();
  }

  function nearest(xs, value) {
    let best = 0;
    xs.forEach((x, i) => { if (Math.abs(x - value) < Math.abs(xs[best] - value)) best = i; });
    return best;
  }

  // The seed whose line passes closest to the pointer, if one does.
  function pointedLine() {
    if (cursor.height === null) return -1;
    let best = -1;
    let least = REACH;
    shownLines().forEach(({ y }, i) => {
      const value = y[cursor.index];
      const away = isNumber(value) ? Math.abs(scales.y(value) - cursor.height) : Infinity;
      if (away < least) { least = away; best = i; }
    });
    return best;
  }

  function say(one, i) {
    if (!isNumber(one.mid[i])) return `${one.label}: none yet`;
    const range = isNumber(one.low[i]) ? ` (${view().band_name} ${exact(one.low[i])} to ${exact(one.high[i])})` : "";
    return `${one.label}: ${exact(one.mid[i])}${range}`;
  }

  function drawCursor() {
    for (const old of chart.querySelectorAll(".cursor, .mark")) old.remove();
    for (const old of chart.querySelectorAll(".near")) old.classList.remove("near");
    if (cursor === null) { readout.textContent = hint; return; }
    const xs = view().series[0].x;
    cursor.index = Math.min(Math.max(cursor.index, 0), xs.length - 1);
    const step = xs[cursor.index];
    const x = scales.x(step);
    element("line", { class: "cursor", x1: x, x2: x, y1: EDGE.top, y2: EDGE.top + scales.height }, chart);
    const said = [];
    for (const one of shownSeries()) {
      const i = nearest(one.x, step);
      said.push(say(one, i));
      if (!isNumber(one.mid[i])) continue;
      const at = { cx: scales.x(one.x[i]), cy: scales.y(one.mid[i]), r: 4 };
      element("circle", { class: "mark", ...at, style: `fill: ${colour(one.i)}` }, chart);
    }
    const line = pointedLine();
    if (line >= 0) {
      chart.querySelectorAll(".seed")[line].classList.add("near");
      const { label, y } = shownLines()[line];
      said.push(`${label}: ${exact(y[cursor.index])}`);
    }
    readout.textContent = `${view().x_name} ${exact(step)}. ${said.join("; ")}`;
  }

  function readAt(event) {
    const box = chart.getBoundingClientRect();
    const share = (event.clientX - box.left - EDGE.left) / scales.width;
    const step = scales.first + share * (scales.last - scales.first);
    cursor = { index: nearest(view().series[0].x, step), height: event.clientY - box.top };
    readout.setAttribute("aria-live", "off"); // a pointer would make it speak without end
    drawCursor();
  }

  function stepWith(event) {
    const { length } = view().series[0].x;
    const from = cursor === null ? length - 1 : cursor.index;
    const page = Math.max(1, Math.round(length / 10));
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, PageUp: from - page, PageDown: from + page, Home: 0, End: length - 1 };
    if (event.key === "Escape") cursor = null;
    else if (event.key in to) cursor = { index: to[event.key], height: null };
    else return;
    event.preventDefault();
    readout.setAttribute("aria-live", "polite");
    drawCursor();
  }

  // A piece of a line, as the chart has it.
  function swatch(index) {
    const made = document.createElementNS(chart.namespaceURI, "svg");
    made.setAttribute("class", "swatch");
    made.setAttribute("aria-hidden", "true");
    const style = `stroke: ${colour(index)}; stroke-dasharray: ${dashes(index)}`;
    element("line", { x1: 0, x2: "100%", y1: "50%", y2: "50%", style }, made);
    return made;
  }

  // A box to tick for each name; what is not ticked is not drawn.
  function fill(place, names, missing, colours) {
    place.replaceChildren();
    names.forEach((name, i) => {
      const label = element("label", {}, place);
      const box = element("input", { type: "checkbox" }, label);
      box.checked = !missing.has(name);
      box.addEventListener("change", () => {
        if (box.checked) missing.delete(name);
        else missing.add(name);
        draw();
      });
      if (colours) label.append(swatch(i));
      label.append(name);
    });
  }

  function showView() {
    const { series, lines, band_name: bandName } = view();
    document.getElementById("band-name").textContent = bandName;
    fill(legend, series.map((one) => one.label), hidden.series, true);
    fill(chips, lines.map((one) => one.label), hidden.lines, false);
    document.getElementById("series").hidden = series.length < 2;
    for (const part of document.querySelectorAll(".of-seeds")) part.hidden = !lines.length;
    draw();
  }

  function chooseSeeds(which) {
    hidden.lines.clear();
    if (which === "none") view().lines.forEach((line) => hidden.lines.add(line.label));
    showView();
  }

  views.forEach((one, i) => element("option", { value: i }, choice, one.name));
  for (const part of [bands, seeds]) part.addEventListener("change", draw);
  choice.addEventListener("change", showView);
  for (const button of document.querySelectorAll("[data-seeds]")) {
    button.addEventListener("click", () => chooseSeeds(button.dataset.seeds));
  }
  chart.addEventListener("pointermove", readAt);
  chart.addEventListener("pointerdown", readAt);
  chart.addEventListener("pointerleave", () => { cursor = null; drawCursor(); });
  chart.addEventListener("blur", () => { cursor = null; drawCursor(); });
  chart.addEventListener("keydown", stepWith);
  new ResizeObserver(draw).observe(chart);
  showView();
})();

// Films: a button stops each of them; they stand still from the start for those who asked their system for less motion.
for (const button of document.querySelectorAll("[data-film]")) {
  const film = document.getElementById(button.dataset.film);
  const moving = film.src;
  const toggle = () => {
    const isMoving = film.src === moving;
    if (isMoving) {
      const still = document.createElement("canvas");
      still.width = film.naturalWidth;
      still.height = film.naturalHeight;
      still.getContext("2d").drawImage(film, 0, 0);
      film.src = still.toDataURL();
    } else film.src = moving;
    button.textContent = isMoving ? "Play" : "Stop";
  };
  button.addEventListener("click", toggle);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) film.decode().then(toggle);
}
