// What every page does: the theme, the menu, and errors of requests in words.
"use strict";
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { button.textContent = isDark() ? button.dataset.light : button.dataset.dark; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("oddlens-theme", root.dataset.theme); } catch { /* it lasts as long as the page */ }
    label();
  });
  label();

  const menu = document.querySelector("details.menu");
  document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu.open) { menu.open = false; menu.querySelector("summary").focus(); }
  });

  // A message that stays until it is closed; what a server or a file name says is text.
  const box = document.getElementById("message");
  const close = () => { box.hidden = true; };
  window.oddlens = {
    texts: JSON.parse(document.getElementById("texts")?.textContent ?? "{}"),
    text(key, values = {}) { // the text of a key with its values, as the templates have them
      return Object.entries(values).reduce((text, [name, value]) => text.replaceAll(`{${name}}`, value), this.texts[key] ?? key);
    },
    logIn() { location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`); },
    say(text, language = root.lang) { // what the server says is English, and other languages say so
      const message = Object.assign(document.createElement("span"), { textContent: text, lang: language });
      box.querySelector("p").replaceChildren(...(language === root.lang ? [] : [`${box.dataset.message} `]), message);
      box.hidden = false;
    },
    sayError(reason) { if (reason) this.say(reason, "en"); else this.say(box.dataset.failed); },
    async request(address, options) { // a response that is fine; otherwise the reason is shown and thrown
      let response;
      try { response = await fetch(address, options); } catch { this.say(box.dataset.unreachable); throw new Error("unreachable"); }
      if (response.status === 401) this.logIn();
      if (!response.ok) {
        const reason = (await response.json().catch(() => ({}))).error;
        this.sayError(reason);
        throw new Error(reason);
      }
      return response;
    },
  };
  box.querySelector("button").addEventListener("click", close);
  document.addEventListener("htmx:responseError", (event) => {
    let reason = null;
    try { reason = JSON.parse(event.detail.xhr.responseText).error; } catch { /* not ours */ }
    window.oddlens.sayError(reason);
  });
  document.addEventListener("htmx:sendError", () => window.oddlens.say(box.dataset.unreachable));
})();
