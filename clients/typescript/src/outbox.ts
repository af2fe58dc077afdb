/**
 * The messages that a session still has to send, bounded in frames and bytes.
 *
 * A frame is *queued* until `take` gives it. Until then a policy may drop or replace it. After that it is *sent*: it has a
 * number and does not change (docs/protocol.md, "What counts"). A session that can be resumed keeps its sent frames until
 * the server has acknowledged them. While that window is full, `take` gives nothing, and the queue's policies apply.
 */

import type { Bytes } from "./bytes.ts";
import { GatelinkError, MessageTooLarge, ProtocolError } from "./errors.ts";
import { REQUEST } from "./frames.ts";

/**
 * What to do with a message when the queue is full: end the client with 4006 (a server that misses a message would be
 * wrong from then on), or drop the oldest queued messages, or this one.
 */
export type Full = "close" | "drop-oldest" | "drop-newest";

/** Messages of one key replace each other while they are queued. */
export type Key = string | number | bigint;

/** The queue is full, and the message's policy is `close`. */
export class OutboxFull extends GatelinkError {}

export interface OutboxLimits {
  queueFrames: number;
  queueBytes: number;
  windowFrames: number;
  windowBytes: number;
}

export class Outbox {
  /** Frames that the server will not get, since the start: a policy dropped or replaced them. */
  dropped = 0;
  /** Queued bytes. */
  bytes = 0;
  /** Frames sent since the session's start. */
  sent = 0;
  readonly #limits: OutboxLimits;
  readonly #queue = new Map<number, { frame: Bytes; key: Key | undefined }>(); // by number, the oldest first
  readonly #numbers = new Map<Key, number>();
  #next = 0;
  #plain = -1; // number of the newest frame without a key
  #hasWindow = false;
  #kept: Bytes[] = [];
  #keptBytes = 0;

  constructor(limits: OutboxLimits) {
    this.#limits = limits;
  }

  /** Queued frames. */
  get count(): number {
    return this.#queue.size;
  }

  /** Frames sent and not acknowledged. */
  get kept(): number {
    return this.#kept.length;
  }

  /**
   * Queues a frame. With a key it takes the place of the queued one of this key; at the end, if a frame without a key is
   * queued behind that: it must not overtake. Throws OutboxFull or MessageTooLarge; then nothing has changed.
   */
  push(frame: Bytes, full: Full, key?: Key): void {
    const { queueFrames, queueBytes } = this.#limits;
    if (frame.length > queueBytes) throw new MessageTooLarge(`a frame of ${frame.length} bytes; the queue holds ${queueBytes} (queueBytes)`);
    const number = key === undefined ? undefined : this.#numbers.get(key);
    const old = number === undefined ? undefined : this.#queue.get(number);
    const count = this.count - (old ? 1 : 0);
    const bytes = this.bytes - (old ? old.frame.length : 0);
    const fits = count < queueFrames && bytes + frame.length <= queueBytes;
    if (!fits && full === "close") throw new OutboxFull(`${this.count} frames of ${this.bytes} bytes are queued (queueFrames ${queueFrames}, queueBytes ${queueBytes})`);
    if (!fits && full === "drop-newest") {
      this.dropped++;
      return;
    }
    if (old && number !== undefined) {
      this.dropped++;
      if (fits && number > this.#plain) {
        old.frame = frame;
        this.bytes = bytes + frame.length;
        return;
      }
      this.#remove(number);
    }
    while (this.count && (this.count >= queueFrames || this.bytes + frame.length > queueBytes)) {
      this.#remove(this.#queue.keys().next().value!);
      this.dropped++;
    }
    this.#queue.set(this.#next, { frame, key });
    this.bytes += frame.length;
    if (key === undefined) this.#plain = this.#next;
    else this.#numbers.set(key, this.#next);
    this.#next++;
  }

  /** Takes frames from the front: up to `most` bytes, but at least one; none while the window is full. */
  take(most: number): Bytes[] {
    const { windowFrames, windowBytes } = this.#limits;
    const taken: Bytes[] = [];
    let size = 0;
    for (const [number, { frame }] of this.#queue) {
      if (taken.length && size + frame.length > most) break;
      if (this.#hasWindow) {
        const isFull = this.kept >= windowFrames || this.#keptBytes + frame.length > windowBytes;
        if (isFull && this.kept) break; // a frame of any size may be sent while none is unacknowledged
        this.#kept.push(frame);
        this.#keptBytes += frame.length;
      }
      this.#remove(number);
      taken.push(frame);
      size += frame.length;
      this.sent++;
    }
    return taken;
  }

  /** The server has received so many messages of the session. Throws ProtocolError for an impossible count. */
  acknowledge(received: bigint): void {
    if (!this.#hasWindow) return;
    const acknowledged = this.sent - this.kept;
    const fresh = Number(received) - acknowledged;
    if (!(fresh >= 0 && fresh <= this.kept)) {
      throw new ProtocolError(`the server has received ${received} messages; ${acknowledged} were acknowledged, ${this.sent} sent`);
    }
    for (const frame of this.#kept.splice(0, fresh)) this.#keptBytes -= frame.length;
  }

  /** The unacknowledged frames, to be sent again. */
  unacknowledged(): readonly Bytes[] {
    return this.#kept;
  }

  /** Removes the limits of the window: the session ends, so nothing has to wait for an acknowledgement. */
  lift(): void {
    this.#hasWindow = false;
  }

  /** Begins a new session. It gets the queued messages, except requests and answers. hasWindow: it can be resumed. */
  restart(hasWindow: boolean): void {
    for (const [number, { frame }] of this.#queue) if (frame[3]! >= REQUEST) this.#remove(number); // a tag would mean something else
    this.#hasWindow = hasWindow;
    this.#kept = [];
    this.#keptBytes = 0;
    this.sent = 0;
  }

  /** Drops everything: the client has ended. */
  clear(): void {
    this.restart(false);
    this.#queue.clear();
    this.#numbers.clear();
    this.bytes = 0;
  }

  #remove(number: number): void {
    const { frame, key } = this.#queue.get(number)!;
    this.#queue.delete(number);
    this.bytes -= frame.length;
    if (key !== undefined) this.#numbers.delete(key);
  }
}
