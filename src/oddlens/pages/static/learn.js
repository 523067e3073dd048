// What all pages of the engineer's do: dialogs, times in the browser's zone, arrow keys among photographs.
"use strict";
(() => {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]"), closer = event.target.closest("[data-closes]");
    if (opener) document.getElementById(opener.dataset.opens).showModal();
    if (closer) document.getElementById(closer.dataset.closes).close();
    if (event.target.matches("dialog")) event.target.close(); // its backdrop
  });

  document.querySelector(".steps [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone

  const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
  for (const element of document.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    if (!Number.isNaN(time.getTime())) element.textContent = format.format(time);
  }

  // Arrow keys go from photograph to photograph, in rows as they are on the screen.
  document.addEventListener("keydown", (event) => {
    const list = event.target.closest(".photos, .strip"), own = event.target.closest(".photo, .strip li");
    if (!list || !own || !event.key.startsWith("Arrow") || event.target.matches("input, select")) return;
    const items = [...document.querySelectorAll(".photo, .strip li")].filter((item) => item.closest("section, main") === own.closest("section, main"));
    const index = items.indexOf(own), top = (item) => Math.round(item.getBoundingClientRect().top);
    const columns = items.filter((item) => top(item) === top(own)).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const target = items[index + step];
    if (!target) return;
    event.preventDefault();
    (target.querySelector(event.target.matches(".exclude") ? ".exclude" : ".look") ?? target.querySelector("button")).focus();
  });
})();
