// Photographs: enlarge them, exclude and include them, and undo that. Changes are sent one after the other.
"use strict";
(() => {
  const { oddlens } = window, changes = document.getElementById("changes"), undo = document.getElementById("undo");
  const viewer = document.getElementById("viewer"), large = document.getElementById("viewer-image");
  const name = document.getElementById("viewer-name"), exclude = document.getElementById("viewer-exclude");
  if (!viewer) return; // a check that has not noticed anything yet
  const undos = []; // [images, excluded] that take back a change
  let queue = Promise.resolve(), shown = null;

  const excluders = (image) => document.querySelectorAll(`.exclude[data-image="${CSS.escape(image)}"]`);
  const isExcluded = (button) => button.getAttribute("aria-pressed") === "true";
  const label = (is) => oddlens.text(is ? "include" : "exclude");

  function change(images, excluded, isUndo = false) {
    queue = queue.then(() => send(images, excluded, isUndo)).catch(() => {});
  }
  async function send(images, excluded, isUndo) {
    const form = new URLSearchParams({ revision: changes.dataset.revision, excluded: excluded ? "yes" : "no" });
    for (const image of images) form.append("image", image);
    let response;
    try { response = await fetch(changes.dataset.address, { method: "POST", body: form }); } catch { response = null; }
    if (response?.status === 409) { location.assign(`${changes.dataset.page}?stale=1`); return; }
    if (!response?.ok) { await oddlens.request(changes.dataset.address, { method: "POST", body: form }); return; }
    const answer = await response.json();
    changes.dataset.revision = answer.revision;
    for (const input of document.querySelectorAll('input[name="revision"]')) input.value = answer.revision;
    for (const image of answer.changed) for (const button of excluders(image)) mark(button, answer.excluded);
    if (isUndo) undos.pop(); else if (answer.changed.length) undos.push([answer.changed, !answer.excluded]);
    count(answer.excluded ? answer.changed.length : -answer.changed.length);
    const key = answer.excluded ? "excluded" : "included", [first] = answer.names;
    document.getElementById("changes-text").textContent = answer.names.length === 1
      ? oddlens.text(`${key}_one`, { name: first }) : oddlens.text(`${key}_some`, { n: answer.names.length });
    undo.hidden = !undos.length;
    showExclude();
  }
  function mark(button, excluded) {
    button.setAttribute("aria-pressed", String(excluded));
    button.textContent = label(excluded);
  }
  function count(difference) {
    const value = document.getElementById("n-excluded");
    if (value) value.textContent = Number(value.dataset.n = Number(value.dataset.n) + difference).toLocaleString(document.documentElement.lang);
  }

  document.addEventListener("click", (event) => {
    const one = event.target.closest(".exclude"), all = event.target.closest(".exclude-all"), look = event.target.closest(".look[data-large]");
    if (one) change([one.dataset.image], !isExcluded(one));
    if (all) change([...new Set([...all.closest("section").querySelectorAll(".exclude")].map((button) => button.dataset.image))], true);
    if (look) show(look);
  });
  undo?.addEventListener("click", () => { if (undos.length) change(...undos.at(-1), true); });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea")) return;
    if (undo && undos.length && event.key === "z" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); undo.click(); }
    if (!event.ctrlKey && !event.metaKey && event.key === "x") {
      const button = viewer.open ? exclude : event.target.closest(".photo")?.querySelector(".exclude");
      if (button && !button.hidden) button.click();
    }
    if (viewer.open && event.key === "ArrowLeft") step(-1);
    if (viewer.open && event.key === "ArrowRight") step(1);
  });

  // The large photograph.
  const looks = () => [...document.querySelectorAll(".look[data-large]")];
  const own = () => shown?.closest(".photo")?.querySelector(".exclude");
  function show(look) {
    shown = look;
    large.src = look.dataset.large;
    large.alt = name.textContent = look.closest(".photo").querySelector(".photo-name").title;
    const list = looks(), index = list.indexOf(look);
    document.getElementById("viewer-before").disabled = index <= 0;
    document.getElementById("viewer-next").disabled = index >= list.length - 1;
    showExclude();
    if (!viewer.open) viewer.showModal();
  }
  function showExclude() {
    const button = own();
    exclude.hidden = !button;
    if (button) exclude.textContent = button.textContent;
  }
  function step(by) {
    const list = looks(), look = list[list.indexOf(shown) + by];
    if (look) show(look);
  }
  document.getElementById("viewer-before").addEventListener("click", () => step(-1));
  document.getElementById("viewer-next").addEventListener("click", () => step(1));
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
  exclude.addEventListener("click", () => own()?.click());
  viewer.addEventListener("close", () => { large.removeAttribute("src"); shown?.focus(); });
})();
