/** The delays between attempts: random, between 0 and a time that doubles ("full jitter"). */

export interface Backoff {
  /** Milliseconds: the greatest first delay. */
  readonly first: number;
  /** Milliseconds: the greatest of all delays. */
  readonly most: number;
  /** After so many attempts in a row the client ends. */
  readonly attempts: number;
}

/** The longest time that setTimeout takes, in milliseconds; a longer one would be 0. */
export const MAX_TIMER = 2 ** 31 - 1;

/** Milliseconds to wait after so many failures in a row. */
export function delay({ first, most }: Pick<Backoff, "first" | "most">, failures: number): number {
  return Math.random() * Math.min(most, first * 2 ** Math.min(failures, 30));
}
