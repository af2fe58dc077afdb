/** What waits for a client's session: calls of `connect` and `drain`, and requests. */

import { RequestCode, RequestFailed } from "./errors.ts";
import { MOST } from "./requests.ts";

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Waiters {
  #connects: Waiter[] = [];
  #drains: Waiter[] = [];
  #asks: (() => void)[] = [];

  connect(): Promise<void> {
    return new Promise((resolve, reject) => this.#connects.push({ resolve, reject }));
  }

  drain(): Promise<void> {
    return new Promise((resolve, reject) => this.#drains.push({ resolve, reject }));
  }

  /** Calls `ask` when there is a session, or the client has ended. Returns a function that forgets it. Throws RequestFailed. */
  ask(ask: () => void): () => void {
    if (this.#asks.length >= MOST) throw new RequestFailed(RequestCode.TOO_MANY, `${MOST} requests wait for a session`);
    this.#asks.push(ask);
    return () => {
      const at = this.#asks.indexOf(ask);
      if (at >= 0) this.#asks.splice(at, 1);
    };
  }

  /** There is a session. */
  begun(): void {
    for (const ask of this.#asks.splice(0)) ask();
  }

  connected(): void {
    for (const { resolve } of this.#connects.splice(0)) resolve();
  }

  drained(): void {
    for (const { resolve } of this.#drains.splice(0)) resolve();
  }

  /** The client has ended. The errors are those of `connect` and of `drain`. */
  ended(connect: unknown, drain: unknown): void {
    for (const { reject } of this.#connects.splice(0)) reject(connect);
    for (const { reject } of this.#drains.splice(0)) reject(drain);
    this.begun();
  }
}
