/** The checks and the smooth walk of the arena's page, which are the example's own (examples/arena/web). */

import { expect, test } from "vitest";
import { Tally } from "../../../../examples/arena/web/tally.ts";
import { nearest, Walker } from "../../../../examples/arena/web/walker.ts";

const OWN = 7n;

/** What a tally finds in the numbers that it hears, as [uid, number]. */
function found(...heard: [bigint, number][]): { missing: number; wrong: number } {
  const tally = new Tally();
  for (const [uid, number] of heard) tally.hear(uid, number, uid === OWN);
  return { missing: tally.missing, wrong: tally.wrong };
}

test("the tally finds every gap, repetition and wrong order, as the robots do", () => {
  expect(found([OWN, 1], [OWN, 2], [8n, 5], [8n, 6], [8n, 1], [8n, 2])).toEqual({ missing: 0, wrong: 0 });
  expect(found([OWN, 1], [OWN, 1])).toEqual({ missing: 0, wrong: 1 });
  expect(found([OWN, 3])).toEqual({ missing: 2, wrong: 0 });
  expect(found([OWN, 2], [OWN, 1])).toEqual({ missing: 1, wrong: 1 });
  expect(found([8n, 5], [8n, 7])).toEqual({ missing: 1, wrong: 0 });
  expect(found([8n, 5], [8n, 5], [8n, 4])).toEqual({ missing: 0, wrong: 2 });
});

test("a walker glides to each step without a jump, and stands still there", () => {
  const walker = new Walker();
  expect(walker.at(0)).toBeUndefined();
  walker.step({ x: 10, y: 10 }, 1_000);
  expect(walker.at(1_000)).toEqual({ x: 10, y: 10 });
  walker.step({ x: 20, y: 10 }, 1_200);
  expect(walker.at(1_200)).toEqual({ x: 10, y: 10 });
  expect(walker.at(1_300)).toEqual({ x: 15, y: 10 });
  walker.step({ x: 20, y: 20 }, 1_300); // before the last step's end
  expect(walker.at(1_300)).toEqual({ x: 15, y: 10 });
  expect(walker.at(2_000)).toEqual({ x: 20, y: 20 });
  let x = 20;
  for (let step = 1; step <= 20; step++) {
    walker.step({ x: 20 + step, y: 20 }, 2_000 + 100 * step);
    for (let part = 0; part < 10; part++) {
      const next = walker.at(2_000 + 100 * step + 10 * part)!.x;
      expect(next - x).toBeLessThanOrEqual(step > 3 ? 0.1001 : 0.2); // even in 10 ms; faster for a step after a rest
      x = next;
    }
  }
});

test("a walker that steps no more fades and is gone, and nobody leaves the field", () => {
  const walker = new Walker();
  walker.step({ x: 1, y: 1 }, 0);
  expect([0, 5_000, 8_500, 9_000, 60_000].map((now) => walker.presence(now))).toEqual([1, 1, 0.5, 0, 0]);
  expect(nearest({ x: -3, y: 140 })).toEqual({ x: 0, y: 99 });
});
