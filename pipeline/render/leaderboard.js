// The switch of colours, the order of the leaderboard's rows, and where a number's provenance opens.
"use strict";
{
  const theme = document.getElementById("theme"), root = document.documentElement;
  theme.hidden = false;
  theme.value = root.dataset.theme ?? "";
  theme.addEventListener("change", () => {
    if (theme.value) root.dataset.theme = theme.value;
    else delete root.dataset.theme;
    try { localStorage.setItem("genloom-theme", theme.value); } catch { /* not kept */ }
  });

  const table = document.getElementById("leaderboard-table"), rows = table.tBodies[0];
  const ranked = [...rows.rows]; // ties keep the order of the ranking
  for (const button of table.querySelectorAll(".sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), place = head.cellIndex, before = head.getAttribute("aria-sort");
      const first = button.dataset.better === "higher" ? "descending" : "ascending"; // the better end first
      const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const values = new Map(ranked.map(row => [row, row.cells[place].dataset.value]));
      const numbers = [...values.values()].every(value => value === undefined || !Number.isNaN(Number(value)));
      const compared = (a, b) => numbers ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
      rows.append(...ranked.toSorted((a, b) => {
        const left = values.get(a), right = values.get(b);
        if (left === undefined || right === undefined) return (left === undefined) - (right === undefined); // the unknown last
        return order === "ascending" ? compared(left, right) : compared(right, left);
      }));
    });
  }

  for (const how of document.querySelectorAll("[popover]")) {
    how.addEventListener("toggle", event => {
      const button = document.querySelector(`[popovertarget="${CSS.escape(how.id)}"]`);
      if (event.newState !== "open" || innerWidth < 736 || !button) return;
      const place = button.getBoundingClientRect(), { width, height } = how.getBoundingClientRect();
      const left = Math.max(16, Math.min(place.left, innerWidth - width - 16));
      const top = Math.max(16, Math.min(place.bottom + 8, innerHeight - height - 16));
      Object.assign(how.style, { margin: "0", left: `${left}px`, top: `${top}px` });
    });
  }
}
