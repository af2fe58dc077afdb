/** The outbox against a model that is obviously right: lists, and no cleverness. */

import { describe, expect, test } from "vitest";
import { MessageTooLarge, ProtocolError } from "../../src/errors.ts";
import { Outbox, OutboxFull, type Full } from "../../src/outbox.ts";

const LIMITS = { queueFrames: 5, queueBytes: 60, windowFrames: 4, windowBytes: 50 };

interface Item {
  frame: Uint8Array<ArrayBuffer>;
  key: string | undefined;
}

class Model {
  queue: Item[] = [];
  kept: Item[] = [];
  sent = 0;
  dropped = 0;

  bytes(items = this.queue): number {
    return items.reduce((sum, { frame }) => sum + frame.length, 0);
  }

  push(frame: Item["frame"], full: Full, key: string | undefined): "full" | undefined {
    const at = key === undefined ? -1 : this.queue.findIndex((item) => item.key === key);
    const rest = this.queue.filter((_, i) => i !== at);
    const fits = rest.length < LIMITS.queueFrames && this.bytes(rest) + frame.length <= LIMITS.queueBytes;
    if (!fits && full === "close") return "full";
    this.dropped += at >= 0 || !fits ? 0 : 0;
    if (!fits && full === "drop-newest") {
      this.dropped++;
      return undefined;
    }
    if (at >= 0) {
      this.dropped++;
      const isOvertaking = this.queue.slice(at + 1).some((item) => item.key === undefined);
      if (fits && !isOvertaking) {
        this.queue[at] = { frame, key };
        return undefined;
      }
      this.queue = rest;
    }
    while (this.queue.length && (this.queue.length >= LIMITS.queueFrames || this.bytes() + frame.length > LIMITS.queueBytes)) {
      this.queue.shift();
      this.dropped++;
    }
    this.queue.push({ frame, key });
    return undefined;
  }

  take(most: number): Item["frame"][] {
    const taken: Item["frame"][] = [];
    let size = 0;
    while (this.queue.length) {
      const item = this.queue[0]!;
      if (taken.length && size + item.frame.length > most) break;
      if (this.kept.length && (this.kept.length >= LIMITS.windowFrames || this.bytes(this.kept) + item.frame.length > LIMITS.windowBytes)) break;
      this.queue.shift();
      this.kept.push(item);
      taken.push(item.frame);
      size += item.frame.length;
      this.sent++;
    }
    return taken;
  }
}

describe("an outbox", () => {
  test.each(Array.from({ length: 40 }, (_, seed) => seed))("does as the model does, seed %s", (seed) => {
    let state = seed * 7919 + 1;
    const random = (below: number): number => (state = (state * 48271) % 2147483647) % below;
    const outbox = new Outbox(LIMITS);
    outbox.restart(true);
    const model = new Model();
    for (let step = 0; step < 400; step++) {
      switch (random(5)) {
        case 0:
        case 1:
        case 2: {
          const frame = new Uint8Array(1 + random(30)).fill(step);
          const full = (["close", "drop-oldest", "drop-newest"] as const)[random(3)]!;
          const key = random(2) ? ["a", "b", "c"][random(3)] : undefined;
          const expected = model.push(frame, full, key);
          if (expected === "full") expect(() => outbox.push(frame, full, key)).toThrow(OutboxFull);
          else outbox.push(frame, full, key);
          break;
        }
        case 3: {
          const most = random(80);
          expect(outbox.take(most)).toEqual(model.take(most));
          break;
        }
        default: {
          const count = random(model.kept.length + 1);
          outbox.acknowledge(BigInt(model.sent - model.kept.length + count));
          model.kept.splice(0, count);
        }
      }
      expect([outbox.count, outbox.bytes, outbox.kept, outbox.sent, outbox.dropped]).toEqual([
        model.queue.length,
        model.bytes(),
        model.kept.length,
        model.sent,
        model.dropped,
      ]);
      expect(outbox.unacknowledged()).toEqual(model.kept.map(({ frame }) => frame));
    }
  });

  test("refuses a frame that it can never hold, and impossible counts", () => {
    const outbox = new Outbox(LIMITS);
    outbox.restart(true);
    expect(() => outbox.push(new Uint8Array(61), "drop-oldest")).toThrow(MessageTooLarge);
    outbox.push(new Uint8Array(10), "close");
    outbox.take(100);
    expect(() => outbox.acknowledge(2n)).toThrow(ProtocolError);
    outbox.acknowledge(1n);
    expect(() => outbox.acknowledge(0n)).toThrow(ProtocolError);
  });

  test("leaves out the requests of an ended session", () => {
    const outbox = new Outbox(LIMITS);
    const plain = Uint8Array.of(2, 0, 0, 0, 1, 1);
    const request = Uint8Array.of(6, 0, 0, 8, 1, 1, 0, 0, 0, 0);
    for (const frame of [plain, request, plain]) outbox.push(frame, "close");
    outbox.restart(true);
    expect(outbox.take(100)).toEqual([plain, plain]);
    expect(outbox.bytes).toBe(0);
  });
});
