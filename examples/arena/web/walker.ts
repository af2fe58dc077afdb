/** A player as the room told of it: it glides from step to step, so that few messages look like a walk. */

export const SIZE = 100; // the field has so many units in each direction
const GLIDE = { least: 80, most: 500 }; // ms from one step to the next
const WORDS_MS = 4_000; // a bubble stays so long
const GONE_MS = 9_000; // a walker that takes no step for so long has left
const FADING_MS = 1_000;

export interface Point {
  readonly x: number;
  readonly y: number;
}

/** The point of the field that is nearest to one. */
export function nearest({ x, y }: Point): Point {
  return { x: Math.min(Math.max(x, 0), SIZE - 1), y: Math.min(Math.max(y, 0), SIZE - 1) };
}

export class Walker {
  #from: Point | undefined; // undefined before the first step
  #to: Point = { x: 0, y: 0 };
  #began = 0;
  #takes = 0;
  #words = "";
  #saidAt = -Infinity;

  /** A step. The way to it takes as long as the time since the last one, so a steady walk is even. */
  step(to: Point, now: number): void {
    this.#from = this.at(now) ?? to;
    this.#takes = Math.min(Math.max(now - this.#began, GLIDE.least), GLIDE.most);
    this.#began = now;
    this.#to = to;
  }

  say(text: string, now: number): void {
    this.#words = text;
    this.#saidAt = now;
  }

  /** Where it is drawn; undefined before its first step. */
  at(now: number): Point | undefined {
    if (!this.#from) return undefined;
    const part = Math.min((now - this.#began) / this.#takes, 1);
    return { x: this.#from.x + (this.#to.x - this.#from.x) * part, y: this.#from.y + (this.#to.y - this.#from.y) * part };
  }

  /** What it says now; "" for nothing. */
  words(now: number): string {
    return now - this.#saidAt < WORDS_MS ? this.#words : "";
  }

  /** From 1, here, to 0, gone. */
  presence(now: number): number {
    return Math.min(Math.max((GONE_MS - (now - this.#began)) / FADING_MS, 0), 1);
  }
}
