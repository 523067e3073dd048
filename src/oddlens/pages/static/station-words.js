// Numbers, times and sentences in the language of the page. Values are text; nothing here makes HTML.
const language = document.documentElement.lang;
const whole = new Intl.NumberFormat(language);
const digits = new Intl.NumberFormat(language, { maximumSignificantDigits: 4 });
const few = new Intl.NumberFormat(language, { maximumSignificantDigits: 2 });
const share = new Intl.NumberFormat(language, { style: "percent", maximumSignificantDigits: 2 });
const clock = new Intl.DateTimeFormat(language, { timeStyle: "medium" });
const minutes = new Intl.DateTimeFormat(language, { timeStyle: "short" });

export const text = (key, values) => window.oddlens.text(key, values);
export const plural = (key, n, values) => text(n === 1 && `${key}.one` in window.oddlens.texts ? `${key}.one` : key, { n: whole.format(n), ...values });
export const count = (n) => whole.format(n);
export const number = (value) => value === null || value === undefined ? "–" : digits.format(value);
export const short = (value) => value === null || value === undefined ? "–" : few.format(value);
export const percent = (value) => share.format(value);
export const time = (value) => clock.format(new Date(value));
export const minute = (value) => minutes.format(new Date(value));

export const verdictOf = (part) => part.judgement?.verdict ?? part.verdict; // of the people, else of the detector
export const verdictText = (verdict) => text(`verdict.${verdict}`);

export function element(name, className = "", content = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = content;
  return made;
}

export function symbol(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), use = document.createElementNS(svg.namespaceURI, "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `/static/icon.svg#${name}`);
  svg.append(use);
  return svg;
}
