// The region of interest: rectangles and outlines over a photograph, by mouse, finger or keyboard. Corners are shares.
"use strict";
(() => {
  const { oddlens } = window, data = JSON.parse(document.getElementById("data").textContent);
  const drawing = document.getElementById("drawing"), shapes = document.getElementById("shapes"), spoken = document.getElementById("spoken");
  const finish = document.getElementById("finish"), undo = document.getElementById("undo"), how = document.getElementById("how");
  const SVG = "http://www.w3.org/2000/svg", STEP = 0.01, LARGE_STEP = 0.1, NEAR = 14, MIN_AREA = 1e-4; // NEAR: pixels
  let region = data.region, draft = [], tool = "rectangle", cross = null, drag = null, before = [];

  // -- drawing ---------------------------------------------------------------------------------------
  function add(name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    shapes.append(element);
  }
  const points = (polygon) => polygon.map(([x, y]) => `${x},${y}`).join(" ");
  const box = ([x1, y1], [x2, y2]) => [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];
  const path = (polygon) => `M${polygon.map(([x, y]) => `${x} ${y}`).join("L")}Z`;

  function draw() {
    shapes.replaceChildren();
    if (region.length) add("path", { class: "outside", d: `M0 0H1V1H0Z${region.map(path).join("")}`, "fill-rule": "evenodd" });
    for (const polygon of data.present) add("polygon", { class: "present", points: points(polygon) });
    for (const name of ["edge", "area"]) for (const polygon of region) add("polygon", { class: name, points: points(polygon) });
    const end = drag?.now ?? cross;
    if (tool === "rectangle" && draft.length && end) add("polygon", { class: "draft", points: points(box(draft[0], end)) });
    if (tool === "polygon" && draft.length) add("polyline", { class: "draft", points: points(end ? [...draft, end] : draft) });
    for (const polygon of [...region, draft]) for (const [x, y] of polygon) mark(x, y, polygon === draft ? "corner draft" : "corner");
    if (cross && document.activeElement === drawing) {
      add("path", { class: "cross", d: `M${cross[0]} 0V1M0 ${cross[1]}H1` });
    }
    finish.hidden = tool !== "polygon" || draft.length < 3;
    undo.disabled = !before.length && !draft.length;
    document.getElementById("region").value = JSON.stringify(region);
    document.getElementById("whole").hidden = region.length > 0;
    list();
  }
  function mark(x, y, name) { // a dot that is not stretched with the photograph, with a dark edge
    for (const layer of ["corner edge", name]) add("path", { class: layer, d: `M${x} ${y}h0` });
  }
  function list() {
    document.getElementById("areas").replaceChildren(...region.map((_, index) => {
      const item = document.createElement("li"), text = document.createElement("span"), button = document.createElement("button");
      item.className = "row";
      text.className = "grow";
      text.textContent = oddlens.text("area", { n: index + 1 });
      button.type = "button";
      button.textContent = oddlens.text("remove");
      button.setAttribute("aria-label", `${oddlens.text("remove")}: ${text.textContent}`);
      button.addEventListener("click", () => { change(region.filter((_, other) => other !== index)); say("removed"); drawing.focus(); });
      item.append(text, button);
      return item;
    }));
  }
  function change(next) { before.push(region); region = next; draw(); }
  const say = (key, values) => { spoken.textContent = oddlens.text(key, values); };
  const percent = ([x, y]) => ({ x: Math.round(100 * x), y: Math.round(100 * y) });

  function area(polygon) { // Gauss's formula
    return Math.abs(polygon.reduce((sum, [x, y], i) => { const [x2, y2] = polygon[(i + 1) % polygon.length]; return sum + x * y2 - x2 * y; }, 0)) / 2;
  }
  function close(polygon) {
    draft = [];
    if (area(polygon) < MIN_AREA) { say("too_small"); draw(); return; }
    change([...region, polygon]);
    say("added", { n: region.length });
  }
  function set(corner) {
    if (tool === "rectangle" && draft.length) { close(box(draft[0], corner)); return; }
    draft.push(corner);
    say("corner", { n: draft.length, ...percent(corner) });
    draw();
  }

  // -- mouse and finger ------------------------------------------------------------------------------
  function position(event) {
    const { left, top, width, height } = shapes.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height].map((share) => Math.min(1, Math.max(0, share)));
  }
  function pixels([x1, y1], [x2, y2]) {
    const { width, height } = shapes.getBoundingClientRect();
    return Math.hypot((x1 - x2) * width, (y1 - y2) * height);
  }
  function corner(at) { // the corner of an area that is near a position
    for (const [i, polygon] of region.entries()) for (const [j, point] of polygon.entries()) if (pixels(point, at) < NEAR) return [i, j];
    return null;
  }
  drawing.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    drawing.focus({ preventScroll: true });
    drawing.setPointerCapture(event.pointerId);
    const at = position(event), near = draft.length ? null : corner(at);
    cross = null;
    if (near) { before.push(structuredClone(region)); drag = { corner: near }; }
    else if (tool === "rectangle") { draft = draft.length ? draft : [at]; drag = { now: at }; }
    draw();
  });
  drawing.addEventListener("pointermove", (event) => {
    const at = position(event);
    if (drag?.corner) {
      const [i, j] = drag.corner, rectangle = isRectangle(region[i]);
      region[i][j] = at;
      if (rectangle) keepRectangle(region[i], j);
    } else if (drag) drag.now = at;
    else if (tool === "polygon" && draft.length) cross = at;
    else return;
    draw();
  });
  drawing.addEventListener("pointerup", (event) => {
    const at = position(event), moved = drag;
    drag = null;
    if (moved?.corner) { draw(); return; }
    if (tool === "polygon") {
      if (draft.length > 2 && pixels(draft[0], at) < NEAR) close(draft); else set(at);
    } else if (moved && pixels(draft[0], at) > 4) close(box(draft[0], at)); // a drag; after a click, the next one ends it
    else { cross = at; draw(); }
  });
  drawing.addEventListener("pointercancel", () => { drag = null; draft = []; draw(); });
  const isRectangle = (p) => p.length === 4 && p[0][1] === p[1][1] && p[1][0] === p[2][0] && p[2][1] === p[3][1] && p[3][0] === p[0][0];
  function keepRectangle(polygon, j) { // the corners beside the one that moves
    const [x, y] = polygon[j], isEven = j % 2 === 0, after = polygon[(j + 1) % 4], other = polygon[(j + 3) % 4];
    if (isEven) { after[1] = y; other[0] = x; } else { after[0] = x; other[1] = y; }
  }

  // -- keyboard --------------------------------------------------------------------------------------
  drawing.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? LARGE_STEP : STEP;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (move) {
      cross = (cross ?? [0.5, 0.5]).map((share, axis) => Math.min(1, Math.max(0, Math.round(1000 * (share + move[axis])) / 1000)));
      say("at", percent(cross));
      draw();
    } else if (event.key === " ") { cross ??= [0.5, 0.5]; set([...cross]); }
    else if (event.key === "Enter" && tool === "polygon" && draft.length > 2) close(draft);
    else if (event.key === "Escape") { draft = []; draw(); }
    else if ((event.key === "z" && (event.ctrlKey || event.metaKey)) || event.key === "Backspace") undo.click();
    else return;
    event.preventDefault();
  });
  for (const type of ["focus", "blur"]) drawing.addEventListener(type, draw);

  finish.addEventListener("click", () => { close(draft); drawing.focus(); });
  undo.addEventListener("click", () => {
    if (draft.length) draft.pop(); else if (before.length) region = before.pop();
    draw();
  });
  for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => {
    tool = button.dataset.tool;
    draft = [];
    for (const other of document.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", String(other === button));
    how.textContent = oddlens.text(`how_${tool}`);
    draw();
  });
  for (const button of document.querySelectorAll("[data-backdrop]")) button.addEventListener("click", () => {
    document.getElementById("backdrop").src = button.dataset.backdrop;
    for (const other of document.querySelectorAll("[data-backdrop]")) other.setAttribute("aria-pressed", String(other === button));
  });
  draw();
})();
