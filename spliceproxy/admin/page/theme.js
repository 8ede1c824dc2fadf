// Run before the page is painted, so that a chosen theme never flashes the other one.
"use strict";

(() => {
  const chosen = localStorage.getItem("spliceproxy.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
