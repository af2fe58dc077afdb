/** Keeps a session's login from ending (docs/protocol.md, "Renewal"). */

import { MAX_TIMER } from "./backoff.ts";
import { RENEW, type Control } from "./control.ts";

/** The part of a token's life after which it is renewed; up to a tenth of that earlier, so that a crowd does not renew at once. */
const FRESH = 0.75;
const SPREAD = 0.1;
/** A server refuses a renewal within 5 s of the last one. */
const AGAIN_MS = 6_000;

export class Renewal {
  readonly #freshToken: () => Promise<string>;
  readonly #send: (record: Control) => void;
  readonly #failed: (error: unknown) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #token: string | undefined; // shown to the server, which has not answered
  #isAsking = false;

  /** send: drops the record while there is no connection. */
  constructor(freshToken: () => Promise<string>, send: (record: Control) => void, failed: (error: unknown) => void) {
    this.#freshToken = freshToken;
    this.#send = send;
    this.#failed = failed;
  }

  /** Plans a renewal of a token that ends in `ms` milliseconds. */
  expiresIn(ms: number): void {
    this.#schedule(ms * FRESH * (1 - SPREAD * Math.random()));
  }

  /** Renews the login now, unless that is under way. */
  async now(): Promise<void> {
    if (this.#isAsking || this.#token !== undefined) return;
    clearTimeout(this.#timer);
    this.#isAsking = true;
    try {
      this.#token = await this.#freshToken();
      this.#send({ type: RENEW, token: this.#token });
    } catch (error) {
      this.#failed(error);
      this.#schedule(AGAIN_MS * (1 + Math.random()));
    } finally {
      this.#isAsking = false;
    }
  }

  /** Sends RENEW again on a new connection, if it has no answer: the server forgot the one on the old connection. */
  attached(): void {
    if (this.#token !== undefined) this.#send({ type: RENEW, token: this.#token });
  }

  /** Takes the server's answer, if a token was shown. expiresInMs: 0 if the new token never ends. */
  answered(isAccepted: boolean, expiresInMs: number): void {
    if (this.#token === undefined) return;
    this.#token = undefined;
    if (!isAccepted) this.#schedule(AGAIN_MS * (1 + Math.random()));
    else if (expiresInMs) this.expiresIn(expiresInMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#token = undefined;
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.now(), Math.min(ms, MAX_TIMER));
  }
}
