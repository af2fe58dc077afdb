/** The players on the canvas, whose CSS has the field. */

import type { Game } from "./game.ts";
import { SIZE, type Point } from "./walker.ts";

const RADIUS = 10; // of a player, in CSS pixels
const MARGIN = RADIUS + 5; // so that a player at the border is whole
const MOST_WORDS = 24; // characters of a bubble

const isDark = matchMedia("(prefers-color-scheme: dark)");

/** A player's own colour, the same on every page. */
export function colour(uid: bigint): string {
  const hue = Number((uid * 137n) % 360n); // neighbouring uids are far apart on the circle
  return `hsl(${hue} 65% ${isDark.matches ? 62 : 42}%)`;
}

export class View {
  readonly #canvas: HTMLCanvasElement;
  readonly #pen: CanvasRenderingContext2D;

  constructor(canvas: HTMLCanvasElement) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext("2d")!;
  }

  /** The point of the field under the pointer. */
  pointAt(event: PointerEvent): Point {
    const box = this.#canvas.getBoundingClientRect();
    const place = (at: number): number => ((at - MARGIN) / (box.width - 2 * MARGIN)) * (SIZE - 1);
    return { x: place(event.clientX - box.left), y: place(event.clientY - box.top) };
  }

  draw(game: Game, now: number): void {
    const size = this.#canvas.clientWidth;
    const pixels = Math.round(size * devicePixelRatio);
    if (this.#canvas.width !== pixels) this.#canvas.width = this.#canvas.height = pixels;
    this.#pen.setTransform(pixels / size, 0, 0, pixels / size, 0, 0); // in CSS pixels
    this.#pen.clearRect(0, 0, size, size);
    const { uid } = game.client;
    for (const [other, walker] of game.walkers) {
      const at = walker.at(now);
      this.#pen.globalAlpha = walker.presence(now);
      if (!this.#pen.globalAlpha) game.walkers.delete(other);
      else if (other !== uid && at) this.#player(other, at, String(other), walker.words(now));
    }
    this.#pen.globalAlpha = 1;
    if (!game.isInside) return;
    const own = game.walkers.get(uid);
    this.#player(uid, game.place, "you", own?.words(now) ?? "");
    this.#ring(game.place, RADIUS, 2);
    const told = own?.at(now);
    if (told) this.#ring(told, RADIUS + 4, 1); // where the room has this player
  }

  #pixel(at: number): number {
    return MARGIN + (at / (SIZE - 1)) * (this.#canvas.clientWidth - 2 * MARGIN);
  }

  #player(uid: bigint, at: Point, name: string, words: string): void {
    const pen = this.#pen;
    const [x, y] = [this.#pixel(at.x), this.#pixel(at.y)];
    pen.fillStyle = colour(uid);
    pen.beginPath();
    pen.arc(x, y, RADIUS, 0, 2 * Math.PI);
    pen.fill();
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const text = words.length > MOST_WORDS ? `${words.slice(0, MOST_WORDS - 1)}…` : words || name;
    const half = pen.measureText(text).width / 2 + 7;
    const middle = Math.min(Math.max(x, half), this.#canvas.clientWidth - half);
    const line = y + (y < 40 ? 26 : -26);
    if (words) {
      pen.beginPath();
      pen.roundRect(middle - half, line - 10, 2 * half, 20, 6);
      pen.fill();
    }
    const styles = getComputedStyle(this.#canvas);
    pen.fillStyle = words ? styles.backgroundColor : styles.color;
    pen.fillText(text, middle, line);
  }

  #ring(at: Point, radius: number, width: number): void {
    this.#pen.strokeStyle = getComputedStyle(this.#canvas).color;
    this.#pen.lineWidth = width;
    this.#pen.beginPath();
    this.#pen.arc(this.#pixel(at.x), this.#pixel(at.y), radius, 0, 2 * Math.PI);
    this.#pen.stroke();
  }
}
