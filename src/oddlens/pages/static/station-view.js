// One part: the lamp, its numbers, and its image under the heatmap.
import { draw, fetchBitmap } from "/static/station-image.js";
import { count, element, minute, number, percent, plural, short, text, time, verdictOf, verdictText } from "/static/station-words.js";

const byId = (id) => document.getElementById(id);
const say = (id, value) => { const place = byId(id); if (place.textContent !== value) place.textContent = value; };
const MIDDLE = 60; // percent of the scale at which the threshold is

export function showLamp(part, isLost) {
  const lamp = byId("verdict"), verdict = part && verdictOf(part);
  const kind = isLost ? "lost" : !part ? "none" : verdict === "normal" ? "ok" : "ng";
  lamp.className = `lamp ${kind}`;
  say("verdict-text", isLost ? text("lost.lamp") : part ? verdictText(verdict) : text("recent.empty_last"));
  say("verdict-note", !isLost && part && verdict !== part.verdict ? text("detector_said", { verdict: verdictText(part.verdict) }) : "");
}

export function showFacts(part) {
  byId("facts").hidden = byId("judging").hidden = !part;
  if (!part) return;
  say("part-name", part.name);
  say("part-tags", [`#${part.id}`, time(part.time), part.detector, part.part, part.lot, part.station, part.group].filter(Boolean).join(" · "));
  say("part-score", number(part.anomaly_score));
  say("part-threshold", number(part.threshold));
  say("part-p", short(part.p_value));
  const hasScale = part.threshold > 0 && part.anomaly_score >= 0;
  byId("scale").hidden = !hasScale;
  byId("scale").classList.toggle("over", part.verdict === "anomaly");
  if (hasScale) byId("scale-score").style.width = `${Math.min(100, MIDDLE * part.anomaly_score / part.threshold)}%`;
}

export function showJudgement(part) {
  const judged = part.judgement, verdict = verdictOf(part);
  say("override-text", text(verdict === "normal" ? "override.to_anomaly" : "override.to_normal"));
  say("confirm-text", text("confirm", { verdict: verdictText(verdict) }));
  byId("confirm").hidden = Boolean(judged);
  byId("undo").hidden = byId("judged").hidden = !judged;
  if (!judged) return;
  const values = { verdict: verdictText(judged.verdict), person: judged.person, time: time(judged.time), reason: judged.reason };
  say("judged", text(judged.reason ? "judged_because" : "judged", values));
}

// Images are fetched before they replace those that are shown, and one part at a time: the newest that waits.
export class Viewer {
  constructor() {
    Object.assign(this, { id: null, next: null, isBusy: false, isFaded: true });
    byId("fade").addEventListener("input", () => this.fade());
    this.fade();
  }

  fade() { byId("map").style.opacity = String(byId("fade").valueAsNumber / 100); }

  toggle() {
    const slider = byId("fade");
    if (slider.disabled) return;
    [slider.value, this.last] = slider.valueAsNumber > 0 ? [0, slider.value] : [this.last ?? 60, 0];
    this.fade();
  }

  async show(part) {
    if (part.id === (this.next ?? this.part)?.id) return;
    this.next = part;
    if (this.isBusy) return;
    this.isBusy = true;
    while (this.next) {
      const part = this.part = this.next;
      this.next = null;
      const address = `/v1/inspections/${part.id}`;
      const [image, map] = await Promise.all([part.has_image && fetchBitmap(`${address}/image.png`), part.has_map && fetchBitmap(`${address}/map.png`)]);
      if (!this.next || image) this.put(part, image, map);
    }
    this.isBusy = false;
  }

  begin(hasDetector) { // before the first part
    const keys = hasDetector ? ["begin.lead", "begin.hint"] : ["begin.no_detector", "begin.no_detector_hint"];
    byId("no-image").querySelectorAll("p").forEach((line, i) => { if (line.textContent !== text(keys[i])) line.textContent = text(keys[i]); });
    byId("begin-learning")?.toggleAttribute("hidden", hasDetector);
  }

  put(part, image, map) {
    byId("view").classList.toggle("small", Boolean(image) && image.width < 200);
    draw(byId("image"), image);
    draw(byId("map"), map);
    byId("image").setAttribute("aria-label", `${part.name}: ${verdictText(verdictOf(part))}`);
    byId("view").dataset.part = part.id;
    byId("no-image").hidden = Boolean(image);
    if (!image) byId("no-image").replaceChildren(element("p", "", text("image_expired")));
    byId("fade").disabled = !map;
    byId("no-map").hidden = Boolean(map);
    say("no-map", map ? "" : text(part.has_map || !image ? "map_expired" : "no_map"));
    this.fade();
  }
}

export function showShift(shift, detectors) {
  say("shift-start", text("shift.since", { time: minute(shift.start) }));
  say("shift-n", count(shift.n));
  say("shift-ng", count(shift.n_anomalous));
  say("shift-share", shift.n ? percent(shift.n_anomalous / shift.n) : "");
  say("shift-false-alarms", count(shift.n_false_alarms));
  say("shift-missed", count(shift.n_missed));
  const names = new Set(detectors.map((detector) => detector.name)), streams = shift.drift.filter(({ detector }) => names.has(detector));
  const lines = streams.map(({ detector, group, state, n }) => [state, text(`drift.${state}`, { name: group ? `${detector}, ${group}` : detector, n: count(n) })]);
  if (!lines.length) lines.push(["none", text("drift.none")]);
  const key = JSON.stringify(lines), list = byId("drift");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...lines.map(([state, line]) => element("li", state, line)));
}

export function showServing(detectors, part) {
  const shown = detectors.find(({ name }) => name === part?.detector) ?? detectors[0];
  byId("serving").hidden = !shown;
  if (!shown) return;
  say("serving-name", detectors.length > 1 ? plural("more_detectors", detectors.length - 1, { name: shown.name }) : shown.name);
  say("serving-threshold", shown.is_grouped ? (part?.group in shown.thresholds ? number(shown.thresholds[part.group]) : text("groups")) : number(shown.thresholds[""]));
  byId("serving-name").title = detectors.map(({ name, digest }) => `${name} ${digest}`).join("\n");
}
