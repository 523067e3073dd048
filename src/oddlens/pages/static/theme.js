// The chosen theme, before the page is drawn.
"use strict";
try {
  const theme = localStorage.getItem("oddlens-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a browser that stores nothing follows the system */ }
