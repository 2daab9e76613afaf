"""What the page does: a click on the head of a column sorts by it, another click the other way round."""

SCRIPT = """
for (const table of document.querySelectorAll("table.runs")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = row => row.cells[column].dataset.value;
    const compare = head.dataset.kind === "number"
      ? (a, b) => a - b
      : (a, b) => a.localeCompare(b, undefined, {numeric: true});
    const rows = [...body.rows], known = rows.filter(row => value(row) !== "");
    known.sort((a, b) => (descending ? -1 : 1) * compare(value(a), value(b)));
    body.append(...known, ...rows.filter(row => value(row) === ""));  // what is not known stays last
  }));
}
"""
