// The live stream: server-sent events, and the moment at which they are missing.
const SILENCE = 2300; // milliseconds without an event, of which there is one each second, until the connection is lost
const RETRY = 1500;
const CHECK = 200;

export class Live {
  constructor(onEvent, onLost) {
    Object.assign(this, { onEvent, onLost, heard: performance.now(), tried: -RETRY, position: "", isLost: false, since: new Date() });
    this.connect();
    setInterval(() => this.check(), CHECK);
  }

  connect() {
    this.tried = performance.now();
    this.source?.close();
    const source = new EventSource(`/station/live${this.position ? `?after=${this.position}` : ""}`);
    for (const name of ["state", "parts", "beat"]) {
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        this.heard = performance.now();
        this.since = new Date();
        if (/^\d+-\d+$/.test(event.lastEventId)) this.position = event.lastEventId;
        if (this.isLost) this.onLost(this.isLost = false, this.since);
        this.onEvent(name, JSON.parse(event.data));
      });
    }
    this.source = source;
  }

  async check() {
    const now = performance.now();
    if (now - this.heard < SILENCE) return;
    if (!this.isLost) this.onLost(this.isLost = true, this.since);
    if (now - this.tried < RETRY) return;
    this.tried = now;
    try { // an EventSource does not tell that the session is over
      const response = await fetch("/v1/detectors", { signal: AbortSignal.timeout(RETRY) });
      if (response.status === 401) window.oddlens.logIn();
      else if (response.ok && this.isLost) this.connect();
    } catch { /* the next check tries again */ }
  }
}
