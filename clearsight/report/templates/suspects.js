"use strict";
// Decisions about suspects become the CSV that --relabel reads: the lines of the table as it was written, with their last two
// cells filled in. Cells come quoted from the page, so nothing is quoted here.
const facts = JSON.parse(document.getElementById("facts").textContent);
const lines = splitLines(facts.table);
const cards = [...document.querySelectorAll("fieldset")];
const decisions = new Map(); // place of a suspect -> the last two cells of its line
let saved = true;

function splitLines(table) {
  // Names may hold line breaks: a line ends at a break outside quotes.
  const found = [];
  let line = "", quoted = false;
  for (const letter of table) {
    if (letter === '"') quoted = !quoted;
    line += letter;
    if (!quoted && line.endsWith("\r\n")) { found.push(line.slice(0, -2)); line = ""; }
  }
  return found;
}

function renderTable() {
  const rows = lines.slice(1).map((line, place) =>
    decisions.has(place) ? line.slice(0, -2) + decisions.get(place) : line);
  return [lines[0], ...rows].map((line) => line + "\r\n").join("");
}

function count() {
  let relabelled = 0, out = 0;
  for (const [place, cells] of decisions) {
    if (cells === ",yes,") out += 1;
    else if (cells !== ",," + facts.cells[facts.own[place]]) relabelled += 1;
  }
  const kept = decisions.size - relabelled - out;
  document.getElementById("state").textContent =
    `${decisions.size} of ${lines.length - 1} decided: ${kept} kept, ${relabelled} relabelled, ${out} left out`;
}

function decide(card, value) {
  const place = Number(card.dataset.place);
  const name = value === "keep" ? facts.own[place] : value === "suggested" ? facts.suggested[place] : Number(value);
  decisions.set(place, value === "out" ? ",yes," : ",," + facts.cells[name]);
  card.classList.add("decided");
  const select = card.querySelector("select");
  const another = !["keep", "suggested", "out"].includes(value);
  if (select) {
    select.classList.toggle("chosen", another);
    if (!another) select.value = "";
  }
  for (const radio of card.querySelectorAll("input")) radio.checked = radio.value === value;
  saved = false;
  count();
}

function undo(card) {
  decisions.delete(Number(card.dataset.place));
  card.classList.remove("decided");
  for (const radio of card.querySelectorAll("input")) radio.checked = false;
  card.querySelector("select")?.classList.remove("chosen");
  count();
}

for (const card of cards) {
  const place = Number(card.dataset.place), select = card.querySelector("select");
  for (const radio of card.querySelectorAll("input")) radio.addEventListener("change", () => decide(card, radio.value));
  if (select) {
    facts.classes.forEach((name, k) => {
      if (k !== facts.own[place] && k !== facts.suggested[place]) select.add(new Option(name, String(k)));
    });
    select.addEventListener("change", () => select.value === "" ? undo(card) : decide(card, select.value));
  }
  card.addEventListener("keydown", (event) => {
    const value = { 1: "keep", 2: "suggested", 3: "out" }[event.key];
    if (!value || event.target.tagName === "SELECT" || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    decide(card, value);
    (cards[place + 1] || card).querySelector("input").focus();
  });
}

document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([renderTable()], { type: "text/csv" }));
  link.download = "suspects.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  saved = true;
});
window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
count();
