// The camera of this machine: a picture by hand or every few seconds, sent as PNG.
import { element, text } from "/static/station-words.js";

const byId = (id) => document.getElementById(id);
const REASONS = { NotAllowedError: "denied", NotFoundError: "none", OverconstrainedError: "none" };

function stamp(now) { // 20261129-073005-250, in the time of this place
  const parts = [now.getFullYear(), now.getMonth() + 1, now.getDate(), now.getHours(), now.getMinutes(), now.getSeconds(), now.getMilliseconds()];
  const [year, month, day, hour, minute, second, rest] = parts.map((part, i) => String(part).padStart(i === 6 ? 3 : 2, "0"));
  return `${year}${month}${day}-${hour}${minute}${second}-${rest}`;
}

export class Camera {
  constructor(sender) {
    Object.assign(this, { sender, stream: null, timer: 0, isTaking: false });
    byId("camera").addEventListener("click", () => this.toggle());
    byId("trigger").addEventListener("click", () => this.take());
    byId("every").addEventListener("change", () => this.repeat());
    byId("cameras").addEventListener("change", () => this.start(byId("cameras").value));
  }

  get isOn() { return this.stream !== null; }

  toggle() { if (this.isOn) this.stop(); else this.start(); }

  async start(device) {
    if (!navigator.mediaDevices) { window.oddlens.say(text("camera.insecure")); return; }
    this.stop();
    const wish = device ? { deviceId: { exact: device } } : { facingMode: "environment" };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...wish, width: { ideal: 1920 }, height: { ideal: 1080 } } });
    } catch (error) {
      window.oddlens.say(text(`camera.${REASONS[error.name] ?? "busy"}`));
      return;
    }
    this.stream.getVideoTracks()[0].addEventListener("ended", () => { this.stop(); window.oddlens.say(text("camera.ended")); });
    byId("video").srcObject = this.stream;
    await byId("video").play();
    this.show();
    await this.list();
    byId("trigger").focus();
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = byId("video").srcObject = null;
    this.show();
  }

  show() {
    byId("camera-view").hidden = !this.isOn;
    byId("camera").setAttribute("aria-pressed", String(this.isOn));
    this.repeat();
  }

  async list() {
    const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput"), select = byId("cameras");
    const present = this.stream?.getVideoTracks()[0].getSettings().deviceId;
    select.replaceChildren(...devices.map(({ deviceId, label }, i) => Object.assign(element("option", "", label || `${i + 1}`), { value: deviceId, selected: deviceId === present })));
    select.hidden = devices.length < 2;
  }

  repeat() {
    clearInterval(this.timer);
    const seconds = Number(byId("every").value);
    if (this.isOn && seconds) this.timer = setInterval(() => { if (!this.sender.isBusy) this.take(); }, 1000 * seconds);
  }

  async take() {
    const video = byId("video");
    if (!this.isOn || this.isTaking || !video.videoWidth) return;
    this.isTaking = true;
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    this.isTaking = false;
    byId("camera-view").classList.remove("flash");
    void byId("camera-view").offsetWidth; // so that it flashes again
    byId("camera-view").classList.add("flash");
    if (blob) this.sender.add([{ blob, name: `camera-${stamp(new Date())}.png` }]);
  }
}
