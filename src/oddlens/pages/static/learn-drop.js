// Photographs that are dropped or chosen: they are sent in portions, and become a project of their own.
"use strict";
(() => {
  const { oddlens } = window, form = document.getElementById("drop"), files = document.getElementById("files");
  const state = document.getElementById("drop-state"), progress = document.getElementById("drop-progress");
  const refused = document.getElementById("drop-refused"), sorting = document.getElementById("drop-folders");
  const PORTION_BYTES = 16e6, PORTION_FILES = 50;
  const IMAGE = /\.(bmp|gif|jpe?g|jp2|pgm|png|ppm|tiff?|webp)$/i;

  for (const type of ["dragover", "dragenter"]) document.addEventListener(type, (event) => { event.preventDefault(); form.classList.add("over"); });
  for (const type of ["dragleave", "drop"]) document.addEventListener(type, () => form.classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const dropped = entries.length ? (await Promise.all(entries.map((entry) => read(entry, "")))).flat() : [...event.dataTransfer.files].map((file) => ({ folder: "", file }));
    begin(dropped);
  });
  files.addEventListener("change", () => { begin([...files.files].map((file) => ({ folder: "", file }))); files.value = ""; });

  async function read(entry, folder) { // an entry of a drop, with all that is below it
    if (entry.isFile) return [{ folder, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) }];
    const reader = entry.createReader(), path = folder ? `${folder}/${entry.name}` : entry.name, list = [];
    for (;;) {
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) break;
      list.push(...part);
    }
    return (await Promise.all(list.map((inner) => read(inner, path)))).flat();
  }

  function begin(dropped) {
    refused.hidden = sorting.hidden = true;
    const images = dropped.filter(({ file }) => IMAGE.test(file.name) || file.type.startsWith("image/"));
    if (!images.length) { state.textContent = oddlens.text("nothing"); return; }
    const folders = [...new Set(images.map(({ folder }) => folder))].sort();
    if (folders.length > 1) ask(images, folders); else send(images.map(({ file }) => file), folders[0]);
  }

  // Several folders were dropped: perhaps only some of them show good parts.
  function ask(images, folders) {
    const list = sorting.querySelector("ul");
    list.replaceChildren(...folders.map((folder) => {
      const item = document.createElement("li"), label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.value = folder;
      box.checked = /(^|\/)(good|ok|normal|train)$/i.test(folder);
      label.className = "check";
      label.append(box, ` ${folder || oddlens.text("loose")} (${images.filter((image) => image.folder === folder).length})`);
      item.append(label);
      return item;
    }));
    sorting.hidden = false;
    const button = sorting.querySelector("button"), update = () => { button.disabled = !sorting.querySelector(":checked"); };
    list.onchange = update;
    update();
    button.onclick = () => {
      const some = new Set([...sorting.querySelectorAll(":checked")].map((box) => box.value));
      sorting.hidden = true;
      send(images.filter(({ folder }) => some.has(folder)).map(({ file }) => file), [...some][0]);
    };
    button.scrollIntoView({ block: "nearest" });
  }

  async function send(list, folder) {
    const date = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "medium" }).format(new Date());
    const name = folder ? `${folder.slice(0, 120)}, ${date}` : oddlens.text("name", { date });
    const bad = [];
    let id = null, added = 0, done = 0;
    form.classList.add("busy");
    progress.hidden = false;
    try {
      for (const portion of portions(list)) {
        const body = new FormData();
        body.append("name", name);
        for (const file of portion) body.append("file", file, file.name);
        const answer = await (await oddlens.request(form.dataset.uploads, { method: "POST", body })).json();
        bad.push(...answer.refused);
        added += answer.added;
        if (answer.added) id = answer.folder;
        done += portion.length;
        progress.value = done / list.length;
        state.textContent = oddlens.text("sending", { done, all: list.length });
      }
    } catch { /* the reason is shown; those that were sent are there */ }
    form.classList.remove("busy");
    progress.hidden = true;
    if (id && !bad.length && done === list.length) begun(id, name);
    else report(id, name, bad, added);
  }
  function* portions(list) {
    let portion = [], bytes = 0;
    for (const file of list) {
      if (portion.length && (bytes + file.size > PORTION_BYTES || portion.length >= PORTION_FILES)) { yield portion; portion = []; bytes = 0; }
      portion.push(file);
      bytes += file.size;
    }
    if (portion.length) yield portion;
  }
  function report(id, name, bad, added) {
    state.textContent = added ? oddlens.text("added", { n: added }) : oddlens.text("none");
    const list = refused.querySelector("ul"), button = refused.querySelector("button");
    refused.querySelector("p").textContent = oddlens.text("refused");
    list.replaceChildren(...bad.slice(0, 100).map(([file, reason]) => Object.assign(document.createElement("li"), { textContent: `${file}: ${reason}`, lang: "en" })));
    refused.hidden = !bad.length && !id;
    button.hidden = !id;
    button.onclick = () => begun(id, name);
  }
  function begun(id, name) {
    const begin = document.getElementById("begin-project");
    begin.elements.folder.value = id;
    begin.elements.name.value = name;
    begin.submit();
  }
})();
