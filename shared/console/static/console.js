"use strict";

// Puts what has changed into the page. The server makes and escapes every piece; a piece is the inside of one element.
const live = document.body.dataset.live;
const connection = document.getElementById("connection");
let source = null;

function say(state, words) {
  if (connection.dataset.state !== state) {
    connection.dataset.state = state;
    connection.textContent = words;
  }
}

function show(message) {
  say("ok", "live");
  for (const [name, [inside, state]] of Object.entries(JSON.parse(message.data))) {
    const element = document.getElementById(name);
    if (element === null) continue;
    if (element.innerHTML !== inside) element.innerHTML = inside;
    if (state !== null) element.dataset.state = state;
  }
}

function watch() {
  if (source !== null || document.hidden) return;
  source = new EventSource(live);
  source.onmessage = show;
  source.onerror = () => {
    // The browser tries again by itself, except after a refusal.
    const ended = source.readyState === EventSource.CLOSED;
    say("bad", ended ? "not live: reload the page" : "not live: connecting again");
  };
}

function rest() {
  if (source === null || !document.hidden) return;
  source.close();
  source = null;
}

if (live !== undefined) {
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : watch()));
  window.addEventListener("pagehide", () => source?.close());
  watch();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button === null) return;
  await navigator.clipboard.writeText(button.previousElementSibling.textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
});

// On a phone a row of a wide table is a card, and each of its cells says what it is.
for (const table of document.querySelectorAll(".wide table")) {
  const heads = Array.from(table.tHead.rows[0].cells, (head) => head.textContent.trim());
  if (table.tHead.classList.contains("hidden")) continue;
  for (const row of table.tBodies[0].rows) {
    for (const cell of row.cells) if (cell.tagName === "TD" && !cell.classList.contains("acts")) cell.dataset.head = heads[cell.cellIndex];
  }
}
