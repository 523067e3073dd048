// The operator's page: what is shown when, judgements, and keys. Each task has a script of its own beside this one.
import { StationFilter } from "/static/station-filter.js";
import { Camera } from "/static/station-camera.js";
import { Live } from "/static/station-live.js";
import { Sender, takeDrops } from "/static/station-send.js";
import { Strip } from "/static/station-strip.js";
import { Viewer, showFacts, showJudgement, showLamp, showServing, showShift } from "/static/station-view.js";
import { count, element, plural, text, time, verdictOf, verdictText } from "/static/station-words.js";

const SHOWN = 24; // parts in a list
const TICK = 250; // milliseconds between two pictures of what arrives, however much that is
const ANOMALY = 1000; // milliseconds for which an anomaly stays, so that nobody misses it among many parts
const MAX_REASONS = 5;

const byId = (id) => document.getElementById(id);
const lists = { last: [], anomalies: [], review: [] }; // newest first; those to review by what they teach
const state = { tab: byId("bench").dataset.tab, part: null, isOpened: false, last: 0, waiting: null, waitingAnomaly: null, shownAt: 0, missed: 0, missedAnomalies: 0, detectors: [], isConnected: false, isLost: false, isDirty: true, underWay: new Set(), posted: Promise.resolve() };
const viewer = new Viewer(), sender = new Sender(), camera = new Camera(sender), strip = new Strip(document.querySelector("#strip ol"), open), filter = new StationFilter(readStation);
takeDrops(sender);

// -- what is shown -----------------------------------------------------------------------------------

function show(part) {
  state.part = part;
  state.shownAt = performance.now();
  state.isDirty = true;
  render();
  if (part) viewer.show(part);
}

function render() {
  showLamp(state.part, state.isLost && !state.isOpened);
  showFacts(state.part);
  if (state.part) showJudgement(state.part);
  showServing(state.detectors, state.part);
  byId("away").hidden = !state.isOpened;
  if (!state.part && state.isConnected) viewer.begin(state.detectors.length > 0);
  byId("bench").classList.toggle("opened", state.isOpened);
  const pulse = state.isLost ? "lost" : state.isOpened ? "opened" : state.isConnected ? "live" : "wait";
  byId("pulse").dataset.state = pulse;
  byId("pulse").lastElementChild.textContent = text(`pulse.${pulse}`);
  byId("away-text").textContent = state.missed ? plural("new", state.missed, { ng: count(state.missedAnomalies) }) : text("none_new");
  byId("away").classList.toggle("ng", state.missedAnomalies > 0);
}

function open(part) { // it stays until the person goes back
  state.isOpened = true;
  show(part);
}

function goLive() {
  Object.assign(state, { isOpened: false, missed: 0, missedAnomalies: 0, waiting: null, waitingAnomaly: null });
  show(lists.last[0] ?? null);
}

function tick() {
  const hasTime = performance.now() - state.shownAt > ANOMALY || !state.part || verdictOf(state.part) === "normal";
  const next = state.waitingAnomaly ?? (hasTime ? state.waiting : null);
  if (next && !state.isOpened) {
    if (next === state.waiting || next.id > (state.waiting?.id ?? 0)) state.waiting = null;
    state.waitingAnomaly = null;
    show(next);
  }
  if (state.isDirty) renderStrip();
  else strip.load(lists[state.tab]);
}

function renderStrip() {
  state.isDirty = false;
  const parts = lists[state.tab];
  strip.show(parts, state.part?.id);
  byId("strip-empty").hidden = parts.length > 0;
  byId("review-hint").hidden = state.tab !== "review" || !parts.length;
  byId("strip-empty").textContent = text(`recent.empty_${lists.last.length ? state.tab : "last"}`);
  for (const tab of document.querySelectorAll("[role=tab]")) tab.setAttribute("aria-selected", String(tab.dataset.tab === state.tab));
}

async function selectTab(tab) {
  state.tab = tab;
  state.isDirty = true;
  document.querySelector("#strip").scrollLeft = 0;
  if (tab === "review") await readQueue();
}

async function readQueue() {
  const response = await window.oddlens.request(`/station/queue${filter.query}`).catch(() => null); // the reason is shown
  if (!response) return;
  lists.review = (await response.json()).parts;
  state.isDirty = true;
}

// -- what arrives ------------------------------------------------------------------------------------

function put(part) { // a new part, or what an old one has become
  const kinds = part.verdict === "anomaly" ? ["last", "anomalies"] : ["last"];
  for (const kind of kinds) {
    const place = lists[kind].findIndex(({ id }) => id === part.id);
    if (place >= 0) lists[kind][place] = part;
    else if (filter.shows(part) && part.id > (lists[kind][0]?.id ?? 0)) lists[kind] = [part, ...lists[kind]].slice(0, SHOWN);
  }
  const place = lists.review.findIndex(({ id }) => id === part.id);
  if (place >= 0) lists.review[place] = part;
  state.isDirty = true;
  if (state.part?.id === part.id) { state.part = { ...state.part, ...part }; render(); }
}

function arrive(part) {
  put(part);
  if (part.id <= state.last) return;
  state.last = part.id;
  filter.add(part);
  if (!filter.shows(part)) return;
  state.waiting = part;
  if (part.verdict === "anomaly") state.waitingAnomaly = part;
  if (state.isOpened) { state.missed += 1; state.missedAnomalies += part.verdict === "anomaly"; }
}

function onEvent(name, values) {
  state.detectors = values.detectors;
  state.isConnected = true;
  byId("failing").hidden = !values.is_failing;
  showShift(values.shift, values.detectors);
  fillDetectors();
  if (name === "state") {
    state.last = values.parts.at(-1)?.id ?? 0;
    values.parts.forEach((part) => filter.add(part));
    if (filter.station) { readStation(); return; }
    fill(values.parts.reverse(), values.anomalies.reverse());
    const now = [...lists.last, ...lists.anomalies].find(({ id }) => id === state.part?.id);
    if (now && state.isOpened) show(now);
    if (!state.isOpened) show(lists.last[0] ?? null);
  } else if (name === "parts") values.parts.forEach(arrive);
  render();
}

function fill(parts, anomalies) { // newest first
  Object.assign(lists, { last: parts, anomalies });
  state.isDirty = true;
}

async function readStation() { // the newest parts of the station that is chosen
  const response = await window.oddlens.request(`/station/newest${filter.query}`).catch(() => null); // the reason is shown
  if (!response) return;
  const { parts, anomalies } = await response.json(), before = lists.last;
  fill(parts, anomalies);
  before.filter((part) => filter.shows(part) && part.id > (parts[0]?.id ?? 0)).reverse().forEach(put); // arrived meanwhile
  if (!state.isOpened) goLive();
  if (state.tab === "review") await readQueue();
  render();
}

function onLost(isLost, since) {
  state.isLost = isLost;
  byId("lost").hidden = !isLost;
  byId("lost-detail").textContent = text("lost.detail", { time: time(since) });
  document.body.classList.toggle("is-lost", isLost);
  render();
}

function fillDetectors() {
  const select = byId("tag-detector"), names = state.detectors.map(({ name }) => name);
  if (select.dataset.names === JSON.stringify(names)) return;
  select.dataset.names = JSON.stringify(names);
  const before = select.value;
  select.replaceChildren(...names.map((name) => Object.assign(element("option", "", name), { value: name })));
  if (names.includes(before)) select.value = before;
  select.hidden = byId("tag-detector-label").hidden = names.length < 2;
}

// -- judgements --------------------------------------------------------------------------------------

function post(address, body) { // one after the other; what is under way is not begun again, so that a key pressed twice judges once
  const key = address + JSON.stringify(body), { underWay } = state;
  if (underWay.has(key)) return null;
  underWay.add(key);
  state.posted = state.posted.then(() => send(address, body)).catch(() => null).finally(() => underWay.delete(key)); // the reason is shown
  return state.posted;
}

async function send(address, body) {
  const response = await window.oddlens.request(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  return response.json();
}

async function judge(part, verdict, reason) {
  const now = await post(`/station/parts/${part.id}/judge`, { verdict, reason });
  if (!now) return;
  put(now);
  renderStrip();
  byId("done").textContent = text("done", { name: now.name, verdict: verdictText(verdict) });
  if (state.tab === "review") await goOn(part);
}

async function goOn(part) { // to the next part of the queue
  const place = lists.review.findIndex(({ id }) => id === part.id), next = lists.review[place + 1];
  await readQueue();
  const following = lists.review.find(({ id }) => id === next?.id) ?? lists.review[0];
  if (following && state.part?.id === part.id) open(following);
}

async function undo() {
  const { part } = state;
  if (!part?.judgement) return;
  const now = await post(`/station/judgements/${part.judgement.id}/withdraw`, {});
  if (!now) return;
  put(now);
  renderStrip();
  byId("done").textContent = text("undone", { name: now.name });
  if (state.tab === "review") await readQueue();
}

const opposite = (part) => (verdictOf(part) === "normal" ? "anomaly" : "normal");

function override() {
  const { part } = state, dialog = byId("reasons");
  if (!part || dialog.open) return;
  open(part);
  const verdict = opposite(part);
  dialog.dataset.verdict = verdict;
  byId("reasons-title").textContent = text(`override.title_${verdict}`);
  byId("reasons-part").textContent = part.name;
  byId("reason").value = "";
  byId("choices").replaceChildren(...Array.from({ length: MAX_REASONS }, (_, i) => {
    const button = element("button", "big", text(`reasons.${verdict}.${i + 1}`)), key = element("kbd", "", String(i + 1));
    button.type = "button";
    key.setAttribute("aria-hidden", "true");
    button.append(key);
    button.addEventListener("click", () => close(text(`reasons.${verdict}.${i + 1}`)));
    return button;
  }));
  dialog.showModal();
  byId("choices").firstElementChild.focus();

  function close(reason) {
    dialog.close();
    judge(part, verdict, reason);
  }
  byId("reasons-form").onsubmit = (event) => {
    event.preventDefault();
    if (byId("reason").value.trim()) close(byId("reason").value.trim()); else byId("reason").focus();
  };
}

function confirmVerdict() {
  const { part } = state;
  if (!part || part.judgement) return;
  open(part);
  judge(part, part.verdict, "");
}

// -- keys and buttons --------------------------------------------------------------------------------

function step(by) { // along the strip
  const parts = lists[state.tab], place = parts.findIndex(({ id }) => id === state.part?.id), next = parts[place < 0 ? 0 : place + by];
  if (!next) return;
  open(next);
  renderStrip();
  strip.tiles.get(next.id).button.scrollIntoView({ block: "nearest", inline: "nearest" });
}

const KEYS = {
  "?": () => byId("help").showModal(), o: override, c: confirmVerdict, u: undo, h: () => viewer.toggle(), Escape: () => state.isOpened && goLive(),
  ArrowRight: () => step(1), ArrowLeft: () => step(-1), f: () => byId("choose").click(), k: () => camera.toggle(),
  l: () => selectTab("last"), n: () => selectTab("anomalies"), r: () => selectTab("review"),
};

addEventListener("keydown", (event) => {
  const { target } = event, dialog = document.querySelector("dialog[open]");
  const isWriting = target.matches("input:not([type=range]), select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || isWriting) return;
  if (dialog) {
    const choice = dialog.id === "reasons" && /^[1-9]$/.test(event.key) && byId("choices").children[Number(event.key) - 1];
    if (choice) { event.preventDefault(); choice.click(); }
    return;
  }
  if (event.key === " " && camera.isOn) { event.preventDefault(); if (!event.repeat) camera.take(); return; }
  if (event.key.startsWith("Arrow") && target.matches("input[type=range]")) return;
  const action = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!action || event.repeat && !event.key.startsWith("Arrow")) return;
  event.preventDefault();
  action();
});
addEventListener("keyup", (event) => { if (event.key === " " && camera.isOn && !event.target.matches("input, select, textarea")) event.preventDefault(); });

byId("override").addEventListener("click", override);
byId("confirm").addEventListener("click", confirmVerdict);
byId("undo").addEventListener("click", undo);
byId("back").addEventListener("click", goLive);
byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("reasons-cancel").addEventListener("click", () => byId("reasons").close());
byId("begin-shift").addEventListener("click", () => byId("sure").showModal());
byId("sure").addEventListener("close", () => { if (byId("sure").returnValue === "yes") post("/station/shift", {}); byId("sure").returnValue = ""; });
for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => selectTab(tab.dataset.tab));

new Live(onEvent, onLost);
setInterval(tick, TICK);
if (state.tab === "review") selectTab("review").then(() => { if (lists.review.length && !state.isOpened) open(lists.review[0]); });
