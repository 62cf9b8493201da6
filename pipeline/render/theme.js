// The colours that the reader chose before, set before anything is drawn.
"use strict";
try {
  const chosen = localStorage.getItem("genloom-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* a browser that keeps nothing for pages from the file system */ }
