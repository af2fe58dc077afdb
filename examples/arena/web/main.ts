/** The page: its keys, pointer, chat and status. */

import { cut } from "./break.ts";
import { Game } from "./game.ts";
import { colour, View } from "./view.ts";
import type { Point } from "./walker.ts";

const CUT_MS = 3_000;
const MOST_LINES = 100;
const LONGEST_FRAME = 100; // ms; a page that was hidden does not jump
const KEYS: Record<string, [number, number]> = { ArrowLeft: [-9, 0], ArrowRight: [9, 0], ArrowUp: [0, -9], ArrowDown: [0, 9] };

const element = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const words = element<HTMLInputElement>("words");
const canvas = element<HTMLCanvasElement>("field");
const log = element("log");

const view = new View(canvas);
const { login } = (await (await fetch("gatelink.json")).json()) as { login: string };
const room = decodeURIComponent(location.hash.slice(1)) || "room-0";
const game = new Game(login, room, write);

/** Adds a line to the log: a player's words, or a note. */
function write(text: string, uid?: bigint): void {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  const line = document.createElement("p");
  if (uid === undefined) line.className = "note";
  else {
    const name = document.createElement("b");
    name.textContent = uid === game.client.uid ? "you" : String(uid);
    name.style.color = colour(uid);
    line.append(name, " ");
  }
  line.append(text);
  log.append(line);
  if (log.childElementCount > MOST_LINES) log.firstElementChild!.remove();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function showStatus(): void {
  const { client, tally } = game;
  const { state, rtt } = client;
  const bad = tally.missing + tally.wrong;
  element("status").dataset["state"] = state;
  element("status").dataset["bad"] = String(bad > 0);
  element("state").textContent = state;
  element("rtt").textContent = state === "connected" && rtt !== undefined ? `${rtt.toFixed(rtt < 10 ? 1 : 0)} ms` : "–";
  element("waiting").textContent = String(client.queue.frames);
  element("received").textContent = tally.received.toLocaleString("en");
  element("missing").textContent = String(bad);
}

// -- walking --

const keys = new Set<string>();
let goal: Point | undefined; // where the finger or the mouse points

addEventListener("keydown", (event) => {
  if (event.target === words || !(event.code in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault(); // the page does not scroll
  keys.add(event.code);
  goal = undefined;
});
addEventListener("keyup", ({ code }) => keys.delete(code));
addEventListener("blur", () => keys.clear());
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  goal = view.pointAt(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (event.buttons) goal = view.pointAt(event);
});

/** The way to the pointer's place, or where the keys lead. */
function way(): Point {
  let [x, y] = goal ? [goal.x - game.place.x, goal.y - game.place.y] : [0, 0];
  for (const key of keys) [x, y] = [x + KEYS[key]![0], y + KEYS[key]![1]];
  return { x, y };
}

let before = performance.now();
function frame(now: number): void {
  game.walk(way(), Math.min(now - before, LONGEST_FRAME), now);
  before = now;
  view.draw(game, now);
  requestAnimationFrame(frame);
}

// -- the rest --

element<HTMLFormElement>("say").addEventListener("submit", (event) => {
  event.preventDefault();
  if (words.value.trim() && game.say(words.value)) words.value = "";
});
const button = element<HTMLButtonElement>("cut");
button.addEventListener("click", () => {
  cut(CUT_MS);
  button.disabled = true;
  setTimeout(() => (button.disabled = false), CUT_MS);
});
setInterval(showStatus, 200);
requestAnimationFrame(frame);
Object.assign(globalThis, { game }); // for the browser's console
game.client.connect().catch((error: unknown) => write(String(error)));
