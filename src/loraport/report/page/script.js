for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (one, other) => {
        const [a, b] = [value(one), value(other)];
        const [x, y] = [parseFloat(a), parseFloat(b)];
        if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
        const order = Number.isNaN(x) ? a.localeCompare(b) : x - y;
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
const text = document.getElementById("text");
const verdict = document.getElementById("verdict");
function filter() {
  const words = text.value.toLowerCase();
  for (const each of document.querySelectorAll("[data-app]")) {
    const fits = each.dataset.app.toLowerCase().includes(words);
    each.hidden = !fits || (verdict.value !== "" && each.dataset.verdict !== verdict.value);
  }
}
if (text) [text, verdict].forEach((each) => each.addEventListener("input", filter));
// on paper nothing can be unfolded: numbers are, what models said stays away
const numbers = () => document.querySelectorAll("details.numbers:not([open])");
window.addEventListener("beforeprint", () => numbers().forEach((each) => (each.open = true)));
