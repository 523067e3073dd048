"use strict";
// A report that one can work in: one threshold, and everything on the page that follows it.
// The data is in the JSON block #data (see score_data.py); images come most anomalous first.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  /** An element with attributes and children; text is always text. */
  function el(name, attributes = {}, ...children) {
    const svg = ["svg", "path", "rect", "line", "circle", "g"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  // -- light and dark --------------------------------------------------------------------------

  const themeButton = $("#theme");
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => (themeButton.textContent = isDark() ? "☀ Light" : "☾ Dark");
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  systemDark.addEventListener("change", nameTheme);
  nameTheme();

  if (!$("#data")) return; // a page without scores

  // -- data ------------------------------------------------------------------------------------

  const data = JSON.parse($("#data").textContent);
  const decode = (text, type) => new type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const scores = decode(data.scores, Float64Array), pValues = decode(data.p_values, Float64Array);
  const labels = decode(data.labels, Int8Array), counted = decode(data.counted, Uint8Array);
  const kinds = decode(data.kind, Uint16Array), parts = decode(data.part, Uint16Array);
  const own = decode(data.own, Float64Array), ladder = decode(data.ladder, Float64Array);
  const calibration = decode(data.calibration, Float64Array);
  const n = data.n, nParts = own.length, labelled = labels.some((label) => label >= 0);
  const shown = new Map(data.images.map((image) => [image.i, image]));
  const NORMAL = 0, ANOMALOUS = 1;

  // -- numbers ---------------------------------------------------------------------------------

  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const count = (value) => value.toLocaleString("en-US");
  const minus = (text) => text.replace("-", "−");
  function formatScore(value) {
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const plain = value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e6);
    return minus(plain ? value.toExponential(3) : value.toPrecision(4));
  }
  const formatP = (p) => (Number.isNaN(p) ? "" : `p = ${p < 0.0001 ? p.toExponential(1) : +p.toPrecision(2)}`);
  const formatTick = (value) => minus(String(+value.toPrecision(3)));

  function logGamma(x) { // Lanczos
    const c = [76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155, 1.208650973866179e-3,
      -5.395239384953e-6];
    const sum = c.reduce((total, value, i) => total + value / (x + 1 + i), 1.000000000190015);
    return (x + 0.5) * Math.log(x + 5.5) - (x + 5.5) + Math.log((2.5066282746310005 * sum) / x);
  }

  /** Distribution function of Beta(a, b) at x, by its continued fraction. */
  function betaCdf(x, a, b) {
    if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - betaCdf(1 - x, b, a);
    let c = 1, d = 1 / (1 - ((a + b) * x) / (a + 1)), result = d;
    for (let m = 1; m < 500; m++) {
      for (const term of [(m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)),
        (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))]) {
        d = 1 / (1 + term * d);
        c = 1 + term / c;
        result *= c * d;
      }
      if (Math.abs(c * d - 1) < 1e-14) break;
    }
    const log = a * Math.log(x) + b * Math.log1p(-x) + logGamma(a + b) - logGamma(a) - logGamma(b);
    return (Math.exp(log) * result) / a;
  }

  function betaQuantile(probability, a, b) {
    let low = 0, high = 1;
    for (let i = 0; i < 50; i++) {
      const middle = (low + high) / 2;
      if (betaCdf(middle, a, b) < probability) low = middle; else high = middle;
    }
    return (low + high) / 2;
  }

  /** 95% interval of a rate observed as k of m (Clopper and Pearson). */
  function rateInterval(k, m) {
    return [k === 0 ? 0 : betaQuantile(0.025, k, m - k + 1), k === m ? 1 : betaQuantile(0.975, k + 1, m - k)];
  }

  // -- the axis and the decision -----------------------------------------------------------------

  const { low, high, logarithmic, clipped } = data.axis;
  const scale = logarithmic ? Math.log : (value) => value;
  const unscale = logarithmic ? Math.exp : (value) => value;
  /** Place of a value on the axis, from 0 to 1. */
  function placeOf(value) {
    if (!(value > low)) return 0;
    return Math.min(1, (scale(value) - scale(low)) / (scale(high) - scale(low)));
  }
  const valueAt = (place) => unscale(scale(low) + place * (scale(high) - scale(low)));
  // with a threshold for each group, the axis is that of the p-values
  const evidence = data.grouped ? pValues.map((p) => -Math.log10(p)) : scores;
  const places = Float64Array.from(evidence, placeOf);
  const ownPlace = data.grouped ? placeOf(-Math.log10(data.level)) : placeOf(own[0]);
  const rungs = data.rates.map((rate, i) => ({
    rate, thresholds: ladder.subarray(i * nParts, (i + 1) * nParts),
    place: data.grouped ? placeOf(-Math.log10(rate)) : placeOf(ladder[i * nParts]),
  }));
  const SNAP = 0.004; // of the axis, to a threshold that a command can make

  /** The decision at a place: the detector's own, one of the ladder, or a threshold between those. */
  function decide(place) {
    if (Math.abs(place - ownPlace) <= SNAP) return { place: ownPlace, thresholds: own, isOwn: true };
    const nearest = rungs.reduce((best, rung) =>
      !best || Math.abs(rung.place - place) < Math.abs(best.place - place) ? rung : best, null);
    const exact = nearest && (data.grouped || Math.abs(nearest.place - place) <= SNAP);
    if (exact) return { place: nearest.place, thresholds: nearest.thresholds, nearest, exact };
    return data.grouped ? { place: ownPlace, thresholds: own, isOwn: true }
      : { place, thresholds: [valueAt(place)], nearest, exact: false };
  }

  let decision = decide(ownPlace);
  const flagged = new Uint8Array(n);
  function flag() {
    for (let i = 0; i < n; i++) flagged[i] = scores[i] > decision.thresholds[parts[i]] ? 1 : 0;
  }
  const isBorderline = (i) => Math.abs(places[i] - decision.place) <= data.borderline;
  const mistakeOf = (i) => (labels[i] < 0 || labels[i] === flagged[i] ? "" : labels[i] ? "missed" : "false alarm");

  /** How many images of a label, or a kind, are flagged; of those that count. */
  function tally(matches) {
    let hits = 0, total = 0;
    for (let i = 0; i < n; i++) {
      if (!counted[i] || !matches(i)) continue;
      total++;
      hits += flagged[i];
    }
    return { hits, total, share: total ? hits / total : NaN, interval: total ? rateInterval(hits, total) : [0, 0] };
  }

  // -- charts --------------------------------------------------------------------------------------

  const drawing = (height) => el("svg", { viewBox: `0 0 1000 ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  function niceTicks(from, to, most) {
    const step = [1, 2, 5, 10].map((m) => m * 10 ** Math.floor(Math.log10((to - from) / most)))
      .find((size) => (to - from) / size <= most) ?? to - from;
    const ticks = [];
    for (let i = 0; i <= most; i++) { // counted, since a step can be too small to change a large number
      const tick = (Math.ceil(from / step) + i) * step;
      if (tick >= from && tick <= to + step / 1e6) ticks.push(+tick.toPrecision(12));
    }
    return ticks;
  }
  function logTicks(from, to) {
    const ticks = [], decades = Math.log10(to / from);
    for (let power = Math.floor(Math.log10(from)); power <= Math.log10(to); power += Math.ceil(decades / 8)) {
      for (const m of decades < 2 ? [1, 2, 5] : [1]) {
        const tick = m * 10 ** power;
        if (tick >= from && tick <= to) ticks.push(tick);
      }
    }
    return ticks;
  }
  function axisLabels(node, ticks, place, label, format = formatTick) {
    for (const tick of ticks) {
      const mark = el("span", { class: "tick" }, format(tick));
      mark.style.left = `${100 * place(tick)}%`;
      node.append(mark);
    }
    node.append(el("span", { class: "axis-label" }, label));
  }

  const BINS = 80, HALF = 110; // bars to each side of a line, in units of the drawing
  function bars(values) {
    const heights = new Float64Array(BINS);
    for (const place of values) heights[Math.min(BINS - 1, Math.floor(place * BINS))]++;
    const most = Math.max(1, ...heights);
    return heights.map((value) => Math.sqrt(value / most) * (HALF - 12)); // so that a single image is visible
  }
  function barPath(heights, base, sign) {
    return Array.from(heights, (height, i) => height === 0 ? ""
      : `M${(1000 * i) / BINS + 1} ${base}v${-sign * height}h${1000 / BINS - 2}v${sign * height}z`).join("");
  }

  function drawHistogram() {
    const svg = drawing(2 * HALF), plot = $("#histogram"), legend = $("#legend");
    const of = (label) => places.filter((_, i) => labels[i] === label && (label !== NORMAL || counted[i]));
    let above = ["normal", "normal images", of(NORMAL)], below = ["anomaly", "anomalous images", of(ANOMALOUS)];
    if (!labelled) below = ["unknown", "images", places];
    if (!above[2].length && data.grouped) above = null;
    else if (!above[2].length) above = ["normal", "calibration images", Float64Array.from(calibration, placeOf)];
    for (const [row, sign] of [[above, 1], [below, -1]]) {
      if (!row || !row[2].length) continue;
      svg.append(el("path", { class: `bars ${row[0]}`, d: barPath(bars(row[2]), HALF, sign) }));
      legend.append(el("span", {}, el("i", { class: `key ${row[0]}` }), `${row[1]} (${count(row[2].length)}), ${sign > 0 ? "upwards" : "downwards"}`));
    }
    svg.append(el("path", { class: "base", d: `M0 ${HALF}H1000` }),
      el("path", { class: "own", d: `M${1000 * ownPlace} 0V${2 * HALF}` }), el("rect", { class: "flagged", y: 0, height: 2 * HALF }));
    legend.append(el("span", {}, el("i", { class: "key own" }), "the detector's threshold"),
      el("span", {}, el("i", { class: "key flagged" }), "flagged"));
    plot.prepend(svg);
    const notes = [logarithmic ? "logarithmic" : "", clipped ? "outliers in the outermost bars" : "", "square roots of counts"];
    const label = data.grouped ? "p-value (logarithmic; square roots of counts)"
      : `anomaly score (${notes.filter(Boolean).join("; ")})`;
    const ticks = data.grouped ? niceTicks(0, high, 8) : logarithmic ? logTicks(low, high) : niceTicks(low, high, 8);
    axisLabels($("#score-axis"), ticks, placeOf, label, data.grouped ? (tick) => formatTick(10 ** -tick) : formatTick);
  }

  /** A chart of curves [class, points [x, y] in 0..1, name] over two axes. */
  function drawChart(node, curves, xTicks, yTicks, xLabel, yLabel, description) {
    const svg = el("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const [, y] of yTicks) svg.append(el("path", { class: "grid", d: `M0 ${1000 * (1 - y)}H1000` }));
    for (const [name, points] of curves) {
      svg.append(el("path", { class: `curve ${name}`, d: `M${points.map(([x, y]) => `${+(1000 * x).toFixed(1)} ${+(1000 * (1 - y)).toFixed(1)}`).join("L")}` }));
    }
    const plot = el("div", { class: "area", role: "img", "aria-label": description }, svg);
    for (const [text, y] of yTicks) {
      const tick = el("span", { class: "y-tick" }, text);
      tick.style.top = `${100 * (1 - y)}%`;
      plot.append(tick);
    }
    const axis = el("div", { class: "axis" });
    axisLabels(axis, xTicks, ([, x]) => x, xLabel, ([text]) => text);
    node.append(el("p", { class: "y-label" }, yLabel), plot, axis);
    return svg;
  }

  let rocPoint = null;
  function drawRoc() {
    const node = $("#ranking .chart");
    if (!node) return;
    const order = Array.from(scores.keys()).sort((i, j) => scores[j] - scores[i]);
    const totals = [0, 0], reached = [0, 0];
    for (const label of labels) totals[label]++;
    const points = [[0, 0]];
    order.forEach((i, rank) => {
      reached[labels[i]]++;
      const next = order[rank + 1];
      if (next === undefined || scores[next] !== scores[i]) points.push([reached[0] / totals[0], reached[1] / totals[1]]);
    });
    const corners = points.filter((point, i) => i === 0 || i === points.length - 1
      || (point[0] - points[i - 1][0]) * (points[i + 1][1] - point[1]) !== (points[i + 1][0] - point[0]) * (point[1] - points[i - 1][1]));
    const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => [`${100 * share}%`, share]);
    const svg = drawChart(node, [["chance", [[0, 0], [1, 1]]], ["first", corners]], ticks, ticks,
      "normal images flagged", "anomalies caught", "ROC curve; the table and the threshold have its numbers");
    rocPoint = el("i", { class: "point" });
    svg.parentNode.append(rocPoint);
  }

  function drawTraining() {
    const node = $("#training .chart");
    if (!node) return;
    const names = [...new Set(data.history.flatMap((row) => Object.keys(row)))].filter((name) => name.includes("loss"));
    const values = data.history.flatMap((row) => names.map((name) => row[name])).filter(Number.isFinite);
    const epochs = data.history.map((row) => row.epoch);
    let [from, to] = [Math.min(...values), Math.max(...values)];
    if (!(to > from)) [from, to] = [from - 0.5, from + 0.5];
    const first = Math.min(...epochs), span = Math.max(...epochs) - first || 1;
    const logs = from > 0 && to > 20 * from, y = logs ? (v) => Math.log(v / from) / Math.log(to / from) : (v) => (v - from) / (to - from);
    const curves = names.map((name, i) => [["first", "second", "third", "fourth"][i % 4],
      data.history.filter((row) => Number.isFinite(row[name])).map((row) => [(row.epoch - first) / span, y(row[name])])]);
    const xTicks = niceTicks(first, first + span, 10).filter(Number.isInteger).map((tick) => [String(tick), (tick - first) / span]);
    const yTicks = (logs ? logTicks(from, to) : niceTicks(from, to, 5)).map((tick) => [formatTick(tick), y(tick)]);
    const last = data.history[data.history.length - 1];
    drawChart(node, curves, xTicks, yTicks, "epoch", logs ? "loss (logarithmic)" : "loss",
      `training curve: ${names.map((name) => `${name} ${formatScore(last[name])}`).join(", ")} after ${epochs.length} epochs`);
    node.append(el("p", { class: "legend" }, ...names.map((name, i) => el("span", {},
      el("i", { class: `key line ${["first", "second", "third", "fourth"][i % 4]}` }), name.replaceAll("_", " ")))));
  }

  // -- what follows the threshold --------------------------------------------------------------------

  const slider = $("#threshold"), flaggedArea = () => $("#histogram .flagged");
  function live(name, text) {
    for (const node of $$(`[data-live="${name}"]`)) if (node.textContent !== text) node.textContent = text;
  }
  const describe = ({ hits, total, interval }) =>
    total ? `${count(hits)} of ${count(total)} · 95%: ${percent(interval[0])} to ${percent(interval[1])}` : "";

  function updateNumbers() {
    const caught = tally((i) => labels[i] === ANOMALOUS), stopped = tally((i) => labels[i] === NORMAL);
    const all = { hits: flagged.reduce((sum, value) => sum + value, 0), total: n };
    live("caught", caught.total ? percent(caught.share) : "not measured");
    live("caught-detail", describe(caught));
    live("stopped", stopped.total ? percent(stopped.share) : "not measured");
    live("stopped-detail", describe(stopped));
    live("flagged", n ? percent(all.hits / n) : "–");
    live("flagged-detail", `${count(all.hits)} of ${count(n)} images`);
    const thresholds = [...decision.thresholds].filter((value) => !Number.isNaN(value));
    const threshold = data.grouped ? `p ≤ ${formatTick(decision.nearest?.rate ? +decision.nearest.rate : data.level)}` : formatScore(thresholds[0]);
    live("threshold", threshold);
    const brief = labelled
      ? [caught.total ? `${percent(caught.share)} of anomalies caught` : "", stopped.total ? `${percent(stopped.share)} of normal images flagged` : ""].filter(Boolean).join(", ")
      : `${count(all.hits)} of ${count(n)} images flagged`;
    live("brief", brief);
    live("counts", labelled ? `flags ${count(caught.hits)} of ${count(caught.total)} anomalous and ${count(stopped.hits)} of ${count(stopped.total)} normal images`
      : `flags ${count(all.hits)} of ${count(n)} images`);
    slider.setAttribute("aria-valuetext", `${threshold}${decision.isOwn ? ", the detector's threshold" : ""}: ${brief}`);
    updateShift(caught, stopped);
    $$("[data-live-row]").forEach((node, kind) => updateRow(node, tally((i) => kinds[i] === kind)));
    if (rocPoint) {
      const flags = [0, 0], totals = [0, 0];
      for (let i = 0; i < n; i++) { totals[labels[i]]++; flags[labels[i]] += flagged[i]; }
      rocPoint.style.left = `${(100 * flags[0]) / totals[0]}%`;
      rocPoint.style.top = `${100 - (100 * flags[1]) / totals[1]}%`;
    }
  }

  function updateRow(node, { hits, total, share, interval }) {
    $(".fill", node).setAttribute("width", total ? 100 * share : 0);
    $(".interval", node).setAttribute("d", `M${100 * interval[0]} 6H${100 * interval[1]}`);
    $("span", node).textContent = total ? `${percent(share)} (${percent(interval[0])} to ${percent(interval[1])})` : "–";
  }

  const shift = $("#shift");
  function updateShift(caught, stopped) {
    if (!labelled || (!caught.total && !stopped.total)) return;
    shift.hidden = false;
    const size = Math.max(0, Number(shift.elements.parts.value) || 0);
    const defective = size * Math.min(1, Math.max(0, (Number(shift.elements.defective.value) || 0) / 100)), good = size - defective;
    const about = (value) => (value > 0 && value < 0.95 ? value.toPrecision(1) : value < 9.95 ? String(+value.toFixed(1)) : count(Math.round(value)));
    const texts = [];
    if (caught.total) texts.push(`about ${about(caught.share * defective)} of ${about(defective)} defective parts caught`);
    if (stopped.total) texts.push(`about ${about(stopped.share * good)} of ${about(good)} good parts stopped (95%: ${about(stopped.interval[0] * good)} to ${about(stopped.interval[1] * good)})`);
    if (decision.isOwn && data.guaranteed !== null) texts.push(`guaranteed: ${about(data.guaranteed * good)} at most${data.confidence === null ? ", on average" : ""}`);
    live("shift", `${texts.join("; ")}.`);
  }

  function updateMoved() {
    const moved = !decision.isOwn, { nearest } = decision;
    $("#moved").hidden = !moved;
    document.body.classList.toggle("is-moved", moved);
    $$(".reset").forEach((button) => (button.disabled = !moved));
    if (!moved) { $("#moved-note").textContent = ""; return; }
    const note = data.guaranteed === null ? "The numbers are those of another threshold than the detector's."
      : "The guarantee belongs to the detector's threshold, not to this one.";
    if ($("#moved-note").textContent !== note) $("#moved-note").textContent = note;
    const allowed = rungs.length ? `Calibration images allow no threshold exactly here; the nearest, ${data.grouped ? "" : formatScore(nearest?.thresholds[0] ?? NaN)}, is made by` : "";
    live("command-note", !nearest ? "Without calibration images no command makes a threshold with a guarantee: run oddlens calibrate first."
      : decision.exact ? `This decision, with a guarantee of ${formatTick(100 * nearest.rate)}%:` : allowed);
    live("command", nearest ? data.command + nearest.rate : "");
  }

  // -- gallery ---------------------------------------------------------------------------------------

  const cardList = $(".cards"), filters = $("#filters"), cards = [];
  const SHOWS = {
    all: ["All", () => true],
    ...(labelled ? { missed: ["✗ Missed", (i) => mistakeOf(i) === "missed"], alarm: ["✗ False alarms", (i) => mistakeOf(i) === "false alarm"] } : {}),
    borderline: ["≈ Borderline", isBorderline],
    flagged: ["▲ Anomalies", (i) => flagged[i] === 1],
    normal: ["● Normal", (i) => flagged[i] === 0],
  };

  function imageStack(image, name, size) {
    const base = el("img", { src: image.image, alt: "", width: image.width, height: image.height, decoding: "async" });
    const layers = image.heatmap ? [el("img", { src: image.heatmap, alt: `heatmap over ${name}`, class: "heatmap", decoding: "async" })] : [];
    if (size && image.mask) layers.push(el("img", { src: image.mask, alt: "outline of the marked defect", class: "mask", hidden: "" }));
    return el("span", { class: "stack" }, base, ...layers);
  }
  const plainImage = (source, alt, image) => el("img", { src: source, alt, width: image.width, height: image.height, decoding: "async" });
  const views = (image, name, size) => [
    ["original", plainImage(image.image, name, image)],
    ...(image.reconstruction ? [["reconstruction", plainImage(image.reconstruction, `reconstruction of ${name}`, image)]] : []),
    ...(image.heatmap ? [["heatmap", imageStack(image, name, size)]] : []),
  ];

  function makeCard(image) {
    const { i } = image, kind = data.kinds[kinds[i]].replaceAll("_", " ");
    const verdict = el("p", { class: "verdict" });
    const open = el("button", { type: "button", class: "open", "aria-label": `Enlarge ${image.name}` },
      ...views(image, image.name).map(([, node]) => node));
    const detail = el("p", {}, [labelled ? kind : "", formatP(pValues[i]), `score ${formatScore(scores[i])}`].filter(Boolean).join(" · "));
    const node = el("li", {}, open, verdict, detail, el("p", { class: "name", title: image.name }, image.name));
    open.addEventListener("click", () => enlarge(cards.findIndex((card) => card.i === i)));
    if (image.width < 64 && image.height < 64) node.classList.add("pixelated");
    return { i, node, verdict, image, state: "" };
  }

  function verdictParts(i) {
    const mistake = mistakeOf(i);
    return [el("b", { class: flagged[i] ? "is-anomaly" : "is-normal" }, flagged[i] ? "▲ anomaly" : "● normal"),
      mistake ? el("span", { class: "mistake" }, ` ✗ ${mistake}`) : labels[i] >= 0 ? el("span", { class: "right" }, " ✓ right") : ""];
  }

  function makeGallery() {
    const radios = Object.entries(SHOWS).map(([key, [name]]) => el("label", {},
      el("input", { type: "radio", name: "show", value: key, ...(key === "all" ? { checked: "" } : {}) }), el("span", {}, name, " ", el("b", { "data-count": key }))));
    filters.append(el("fieldset", {}, el("legend", {}, "Show"), ...radios));
    if (data.kinds.length > 1) {
      filters.append(el("label", { class: "kind" }, "Class ", el("select", { name: "kind" }, el("option", { value: "" }, "all classes"),
        ...data.kinds.map((kind, i) => el("option", { value: i }, kind.replaceAll("_", " "))))));
    }
    filters.addEventListener("change", () => { room = MORE; updateGallery(); });
    for (const [id, size] of [["#more", MORE], ["#every", n]]) {
      $(id).addEventListener("click", () => {
        const next = cards.find((card) => card.matches && card.node.hidden);
        room += size;
        updateGallery();
        $(".open", next.node).focus({ preventScroll: true });
      });
    }
    filters.addEventListener("submit", (event) => event.preventDefault());
    cards.push(...data.images.map(makeCard));
    cardList.append(...cards.map((card) => card.node));
    $("#unpictured").addEventListener("toggle", listUnpictured);
  }

  const MORE = 48; // cards at first, and more at a time
  let matching = () => true, room = MORE;
  function updateGallery() {
    const key = filters.elements.show.value, kind = filters.elements.kind?.value ?? "";
    const ofKind = (i) => kind === "" || kinds[i] === Number(kind);
    matching = (i) => ofKind(i) && SHOWS[key][1](i);
    for (const [name, [, matches]] of Object.entries(SHOWS)) {
      let total = 0;
      for (let i = 0; i < n; i++) total += ofKind(i) && matches(i) ? 1 : 0;
      $(`[data-count="${name}"]`).textContent = count(total);
    }
    let pictured = 0, total = 0;
    for (let i = 0; i < n; i++) total += matching(i) ? 1 : 0;
    for (const card of cards) {
      card.matches = matching(card.i);
      pictured += card.matches ? 1 : 0;
      const hidden = !card.matches || pictured > room, state = `${flagged[card.i]}`;
      if (card.node.hidden !== hidden) card.node.hidden = hidden;
      if (card.state === state) continue;
      card.state = state;
      card.verdict.replaceChildren(...verdictParts(card.i));
      card.node.classList.toggle("is-wrong", mistakeOf(card.i) !== "");
    }
    const rest = total - pictured, list = $("#unpictured"), visible = Math.min(pictured, room);
    $("#gallery-count").textContent = total ? `${count(visible)} of ${count(total)} shown${rest ? `; ${count(rest)} have no picture in this file` : ""}.` : "None match.";
    $("#more").hidden = $("#every").hidden = visible === pictured;
    $("#every").textContent = `Show all ${count(pictured)}`;
    list.hidden = !rest;
    $("summary", list).textContent = `${count(rest)} without a picture`;
    listUnpictured();
  }

  const MAX_LISTED = 200;
  function listUnpictured() {
    const list = $("#unpictured"), items = [];
    if (!list.open) return;
    let rest = 0;
    for (let i = 0; i < n; i++) {
      if (!matching(i) || shown.has(i) || items.length === MAX_LISTED && ++rest) continue;
      const texts = [data.names[i] ?? `image ${i + 1} by p-value`, flagged[i] ? "▲ anomaly" : "● normal", mistakeOf(i), formatP(pValues[i]), `score ${formatScore(scores[i])}`];
      items.push(el("li", {}, texts.filter(Boolean).join(" · ")));
    }
    $("ol", list).replaceChildren(...items, ...(rest ? [el("li", { class: "rest" }, `and ${count(rest)} more`)] : []));
  }

  const dialog = $("#enlarged"), opacity = $("#opacity"), mask = $("#mask");
  let current = -1;
  function enlarge(index) {
    current = index;
    const { i, image } = cards[index], kind = data.kinds[kinds[i]].replaceAll("_", " ");
    $("h2", dialog).textContent = image.name;
    $(".views", dialog).replaceChildren(...views(image, image.name, true).map(([name, node]) => el("figure", {}, node, el("figcaption", {}, name))));
    $(".views", dialog).classList.toggle("pixelated", image.width < 64 && image.height < 64);
    $("#mask-tool", dialog).hidden = !image.mask || !image.heatmap;
    opacity.closest("label").hidden = !image.heatmap;
    $(".verdict", dialog).replaceChildren(...verdictParts(i));
    const threshold = decision.thresholds[parts[i]];
    const facts = { ...(labelled ? { class: kind } : {}), "p-value": formatP(pValues[i]).slice(4) || "not calibrated",
      "anomaly score": `${formatScore(scores[i])} ${flagged[i] ? ">" : "≤"} threshold ${formatScore(threshold)}`,
      ...(counted[i] ? {} : { note: "a threshold was computed from this image, so it is in no rate" }) };
    $("dl", dialog).replaceChildren(...Object.entries(facts).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
    applyTools();
    $("#previous").disabled = neighbour(-1) < 0;
    $("#next").disabled = neighbour(1) < 0;
    if (!dialog.open) dialog.showModal();
  }
  function applyTools() {
    for (const layer of $$(".heatmap", dialog)) layer.style.opacity = opacity.value / 100;
    for (const layer of $$(".mask", dialog)) layer.hidden = !mask.checked;
  }
  function neighbour(step) {
    for (let index = current + step; index >= 0 && index < cards.length; index += step) if (cards[index].matches) return index;
    return -1;
  }
  const go = (step) => { const index = neighbour(step); if (index >= 0) enlarge(index); };
  opacity.addEventListener("input", applyTools);
  mask.addEventListener("change", applyTools);
  $("#previous").addEventListener("click", () => go(-1));
  $("#next").addEventListener("click", () => go(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.target === opacity || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    go(event.key === "ArrowLeft" ? -1 : 1);
  });
  $("#close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    if (cards[current].node.hidden) { room = n; updateGallery(); } // one came to it from within the dialog
    $(".open", cards[current].node).focus();
  });

  // -- moving the threshold --------------------------------------------------------------------------

  let pending = 0;
  function update() {
    pending = 0;
    flag();
    flaggedArea().setAttribute("x", 1000 * decision.place);
    flaggedArea().setAttribute("width", 1000 * (1 - decision.place));
    updateNumbers();
    updateMoved();
    updateGallery();
  }
  function move(place) {
    decision = decide(place);
    pending ||= requestAnimationFrame(update);
  }
  slider.addEventListener("input", () => move(Number(slider.value)));
  const ARROWS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
  slider.addEventListener("keydown", (event) => { // one step is always out of the snap of the last place
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    slider.value = decision.place + ARROWS[event.key] * 1.25 * SNAP;
    move(Number(slider.value));
    slider.value = decision.place;
  });
  slider.addEventListener("change", () => (slider.value = decision.place));
  for (const button of $$(".reset")) {
    button.addEventListener("click", () => {
      slider.value = ownPlace;
      move(ownPlace);
      slider.focus({ preventScroll: true });
    });
  }
  shift.addEventListener("input", updateNumbers);
  shift.addEventListener("submit", (event) => event.preventDefault());

  drawHistogram();
  drawRoc();
  drawTraining();
  makeGallery();
  slider.value = ownPlace;
  update();
})();
