// Images of this browser to the service, one after another: none is lost while the service is busy or away.
import { count, element, text } from "/static/station-words.js";

const WAIT = 1000; // milliseconds until the next try
const MAX_REFUSED = 20;
const AGAIN = [408, 429, 503, 504];

export class Sender {
  constructor() {
    Object.assign(this, { waiting: [], done: 0, all: 0, isBusy: false });
    this.status = document.getElementById("sending");
    this.refused = document.getElementById("refused");
    this.tags = document.getElementById("tags");
    this.refused.querySelector("button").addEventListener("click", () => { this.refused.hidden = true; this.refused.querySelector("ul").replaceChildren(); });
    this.tags.addEventListener("submit", (event) => event.preventDefault());
    addEventListener("beforeunload", (event) => { if (this.isBusy) event.preventDefault(); });
  }

  add(images) { // blobs with names
    this.waiting.push(...images);
    this.all += images.length;
    this.run();
  }

  async run() {
    if (this.isBusy) return;
    this.isBusy = true;
    while (this.waiting.length) {
      this.show("sources.sending");
      await this.send(this.waiting[0]);
      this.waiting.shift();
      this.done += 1;
    }
    this.show("sources.sending");
    Object.assign(this, { isBusy: false, done: 0, all: 0 });
    setTimeout(() => { this.status.hidden = this.status.hidden || !this.isBusy; }, 4000);
  }

  show(key) {
    this.status.hidden = this.all < 2 && key === "sources.sending";
    this.status.textContent = text(key, { done: count(this.done), n: count(this.all) });
  }

  form({ blob, name }) {
    const form = new FormData();
    for (const [key, value] of new FormData(this.tags)) if (value.trim()) form.append(key, value.trim());
    form.append("map", "true");
    form.append("file", blob, name);
    return form;
  }

  async send(image) {
    const body = this.form(image);
    this.tags.elements.part.value = ""; // a part number is that of one image
    for (;;) {
      let response;
      try { response = await fetch("/v1/inspect", { method: "POST", body }); } catch (error) { response = { status: 503, headers: new Headers() }; }
      if (response.ok) return;
      if (response.status === 401) { window.oddlens.logIn(); return; }
      if (!AGAIN.includes(response.status)) return this.refuse(image, (await response.json().catch(() => ({}))).error ?? String(response.status));
      this.show("sources.waiting");
      await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("retry-after")) || WAIT));
    }
  }

  refuse({ name }, reason) {
    const list = this.refused.querySelector("ul");
    list.prepend(Object.assign(element("li", "", reason.includes(name) ? reason : `${name}: ${reason}`), { lang: "en" }));
    while (list.children.length > MAX_REFUSED) list.lastElementChild.remove();
    this.refused.hidden = false;
  }
}

export function takeDrops(sender) {
  const cover = document.getElementById("drop"), choose = document.getElementById("choose"), input = document.getElementById("files");
  const send = (files) => sender.add([...files].map((file) => ({ blob: file, name: file.name })));
  const hasFiles = (event) => [...event.dataTransfer?.types ?? []].includes("Files");
  addEventListener("dragover", (event) => { if (hasFiles(event)) { event.preventDefault(); cover.hidden = false; } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) cover.hidden = true; });
  addEventListener("drop", (event) => {
    cover.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    send(event.dataTransfer.files);
  });
  choose.addEventListener("click", () => input.click());
  input.addEventListener("change", () => { send(input.files); input.value = ""; });
}
