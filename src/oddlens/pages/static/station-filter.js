// The station whose parts are shown, where there are several: in the address, so that a terminal can have its own.
import { element, text } from "/static/station-words.js";

const select = document.getElementById("filter-station"), tag = document.getElementById("tag-station");

export class StationFilter {
  constructor(onChange) {
    this.station = new URLSearchParams(location.search).get("station") ?? "";
    this.names = new Set();
    select.addEventListener("change", () => { this.choose(select.value); onChange(); });
    if (this.station) this.choose(this.station);
  }

  get query() { return this.station ? `?station=${encodeURIComponent(this.station)}` : ""; }

  shows(part) { return !this.station || part.station === this.station; }

  add({ station }) { // a station that was seen
    if (!station || this.names.has(station)) return;
    this.names.add(station);
    this.render();
  }

  choose(station) {
    if (station || tag.value === this.station) tag.value = station; // what is inspected here is of this station, too
    this.station = station;
    if (station) this.names.add(station);
    history.replaceState(null, "", `${location.pathname}${this.query}`);
    this.render();
  }

  render() {
    const names = [...this.names].sort(new Intl.Collator(document.documentElement.lang, { numeric: true }).compare);
    select.replaceChildren(...["", ...names].map((name) => Object.assign(element("option", "", name || text("filter.all")), { value: name })));
    select.value = this.station;
    for (const link of document.querySelectorAll(".top nav a")) if (!link.pathname.startsWith("/learn")) link.search = this.query;
    document.getElementById("filter").hidden = names.length < 2 && !this.station;
    document.getElementById("shift-all").hidden = !this.station;
  }
}
