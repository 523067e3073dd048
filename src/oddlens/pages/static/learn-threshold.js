// The threshold: a slider over the rates that can be guaranteed, the scores as a chart, and the photographs near the line.
"use strict";
(() => {
  const { oddlens } = window, element = document.getElementById("data");
  if (!element) return;
  const data = JSON.parse(element.textContent), { choices, images } = data;
  const language = document.documentElement.lang, slider = document.getElementById("slider"), parts = document.getElementById("parts");
  const number = (value, digits = 3) => value.toLocaleString(language, { maximumSignificantDigits: digits });
  const percent = (value) => value.toLocaleString(language, { style: "percent", maximumSignificantDigits: 3 });
  const MAX_NEAREST = 6, BINS = 60; // photographs on each side of the line
  const put = (id, text) => { const target = document.getElementById(id); if (target) target.textContent = text; };
  let choice = Math.max(0, choices.findIndex((row) => row.rate === data.present));

  function show() {
    const row = choices[choice], guarantee = oddlens.text("guarantee", { rate: percent(row.rate) });
    slider.setAttribute("aria-valuetext", guarantee);
    put("guarantee", guarantee);
    document.getElementById("rate").value = row.rate;
    if (row.n_defects) { put("caught", percent(row.n_caught / row.n_defects)); put("caught-of", oddlens.text("of", { n: row.n_caught, all: row.n_defects })); }
    if (row.n_good) { put("stopped", percent(row.n_stopped / row.n_good)); put("stopped-of", oddlens.text("of", { n: row.n_stopped, all: row.n_good })); }
    const shift = Number(parts.value);
    put("per-shift", shift > 0 ? oddlens.text("per_shift_value", { n: number(row.rate * shift, 2) }) : "–");
    put("threshold", number(row.threshold, 4));
    document.getElementById("use").disabled = row.rate === data.present;
    chart?.redraw(false);
    nearest(row.threshold);
  }

  // -- photographs on both sides ---------------------------------------------------------------------
  const ordered = images.slice().sort((a, b) => a.score - b.score);
  function nearest(threshold) {
    const list = document.getElementById("nearest"), first = ordered.findIndex((image) => image.score > threshold);
    const above = first < 0 ? ordered.length : first;
    list.replaceChildren(...ordered.slice(Math.max(0, above - MAX_NEAREST), above + MAX_NEAREST).map((image) => tile(image, image.score > threshold)));
  }
  const tiles = new Map();
  function tile(image, stops) {
    let item = tiles.get(image.id);
    if (!item) {
      item = document.createElement("li");
      const picture = document.createElement("img"), frame = document.createElement("div"), verdict = document.createElement("p"), really = document.createElement("p");
      picture.src = `/learn/folders/${data.folder}/thumbnails/${image.id}`;
      picture.alt = image.name;
      picture.loading = "lazy";
      frame.className = "look";
      frame.append(picture);
      verdict.className = "photo-name verdict-text";
      really.className = "hint";
      really.textContent = `${oddlens.text(`really_${image.label}`)}, ${number(image.score)}`;
      item.append(frame, verdict, really);
      tiles.set(image.id, item);
    }
    item.className = `photo ${stops ? "stops" : "passes"}`;
    item.querySelector(".verdict-text").textContent = oddlens.text(stops ? "stops" : "passes");
    return item;
  }

  // -- chart -----------------------------------------------------------------------------------------
  const groups = [
    ["calibration", data.calibration, "--muted", [4, 4]],
    [data.is_test ? "normal" : "own", images.filter((image) => image.label === 0).map((image) => image.score), "--normal", []],
    ["anomalous", images.filter((image) => image.label === 1).map((image) => image.score), "--anomaly", []],
  ].filter(([, scores]) => scores.length);
  const all = [...groups.flatMap(([, scores]) => scores), ...choices.map((row) => row.threshold)].filter(Number.isFinite);
  const isWide = Math.min(...all) > 0 && Math.max(...all) / Math.min(...all) > 6; // then on a logarithmic axis
  const scale = isWide ? Math.log10 : (value) => value, back = isWide ? (value) => 10 ** value : (value) => value;
  const low = scale(Math.min(...all)), high = scale(Math.max(...all)), width = (high - low) / BINS || 1;
  const edges = Array.from({ length: BINS + 2 }, (_, i) => low + (i - 0.5) * width);
  function shares(scores) { // in % of each group, so that groups of different sizes compare
    const counts = new Array(BINS + 2).fill(0);
    for (const score of scores) counts[Math.min(BINS + 1, Math.max(0, Math.round((scale(score) - low) / width)))] += 100 / scores.length;
    return counts;
  }
  const css = (name) => { // colours of light and dark are worked out by the browser
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(${name})`;
    const color = getComputedStyle(probe).color;
    probe.remove();
    return color;
  };
  const host = document.getElementById("chart");
  let chart = null;
  function build() {
    chart?.destroy();
    const axis = { stroke: css("--muted"), grid: { stroke: css("--rule"), width: 1 }, ticks: { stroke: css("--rule"), width: 1 }, font: "13px system-ui, sans-serif", labelFont: "13px system-ui, sans-serif" };
    const stepped = window.uPlot.paths.stepped({ align: 1 });
    chart = new window.uPlot({
      width: host.clientWidth, height: Math.min(340, Math.max(220, host.clientWidth / 2.4)),
      scales: { x: { time: false } },
      legend: { live: false },
      cursor: { show: false },
      axes: [
        { ...axis, label: oddlens.text("axis_score"), values: (_, ticks) => ticks.map((tick) => number(back(tick), 2)) },
        { ...axis, label: oddlens.text("axis_share"), values: (_, ticks) => ticks.map((tick) => number(tick, 2)) },
      ],
      series: [{}, ...groups.map(([key, scores, color, dash]) => ({
        label: `${oddlens.text(key)} (${scores.length})`, stroke: css(color), width: 2, dash, paths: stepped,
        fill: dash.length ? undefined : css(color).replace("rgb(", "rgba(").replace(")", ", 0.22)"), points: { show: false },
      }))],
      hooks: { draw: [line] },
    }, [edges, ...groups.map(([, scores]) => shares(scores))], host);
  }
  function line(plot) {
    const x = plot.valToPos(scale(choices[choice].threshold), "x", true), { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = css("--ink");
    ctx.lineWidth = 3 * devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.restore();
  }

  slider.value = choice;
  slider.addEventListener("input", () => { choice = Number(slider.value); show(); });
  try { parts.value = localStorage.getItem("oddlens-parts") ?? parts.value; } catch { /* 1000 */ }
  parts.addEventListener("input", () => { try { localStorage.setItem("oddlens-parts", parts.value); } catch { /* for this page */ } show(); });
  build();
  show();
  new ResizeObserver(() => { if (host.clientWidth && Math.abs(host.clientWidth - chart.width) > 2) build(); }).observe(host);
  new MutationObserver(build).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
})();
