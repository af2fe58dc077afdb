import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CloseCode, RequestCode, SessionClosed } from "../../src/index.ts";
import { Add, Echo, Order } from "../messages.ts";
import { clientOf, next, range, TestServer, until } from "./support.ts";

let server: TestServer;
beforeAll(async () => void (server = await TestServer.start({ limits: { message_rate: 100_000, message_burst: 100_000, byte_rate: 1e8, byte_burst: 1e8, resume_window: 60 } })));
afterAll(() => server.end());

let lastUid = 100n;
function fresh(): bigint {
  return ++lastUid;
}

const QUICK = { heartbeatInterval: 100, heartbeatTimeout: 400, checkTimeout: 200 };

describe("a broken connection", () => {
  test("is resumed, and each message arrives once and in order, both ways", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid);
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    const count = 2_000;
    for (const n of range(count)) {
      client.send(Echo({ n }));
      if (n % 200 === 99) {
        const resumed = next(client, "resumed");
        await server.do("cut");
        if (n % 400 === 99) await resumed; // else goes on to send meanwhile
      }
    }
    await until(() => got.length >= count);
    expect(got).toEqual(range(count));
    const state = await server.state(uid);
    expect(state.heard).toEqual(range(count));
    expect(state.opened).toBe(1);
    expect(log.filter((event) => event === "resumed").length).toBeGreaterThanOrEqual(5);
    expect(log.filter((event) => event === "connected")).toHaveLength(1);
    await client.close();
  });

  test("twice in a row, and during the resume, loses nothing", async () => {
    const uid = fresh();
    const { client } = clientOf(server, uid);
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    for (const round of range(15)) {
      await until(() => client.state === "connected");
      const suspended = next(client, "suspended");
      client.send(Echo({ n: 2 * round }));
      await server.do("cut");
      await suspended;
      client.send(Echo({ n: 2 * round + 1 }));
      for (const _ of range(round % 4)) await server.do("cut"); // hits the attempt, or what comes next
    }
    await until(() => got.length >= 30);
    expect(got).toEqual(range(30));
    expect((await server.state(uid)).heard).toEqual(range(30));
    await client.close();
  });

  test("that only went silent is noticed by heartbeats", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid, { limits: QUICK });
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    const suspended = next(client, "suspended");
    await server.do("drop");
    client.send(Echo({ n: 1 }));
    expect((await suspended)[0].code).toBe(CloseCode.HEARTBEAT_TIMEOUT);
    await server.do("restore");
    await until(() => got.length === 1);
    expect(log).toContain("resumed");
    await client.close();
  });

  test("keeps requests that wait, in both directions", async () => {
    const uid = fresh();
    const { client } = clientOf(server, uid);
    await client.connect();
    const asked = client.request(Add({ numbers: [40n, 2n] }));
    await server.do("cut");
    expect((await asked).total).toBe(42n);
    await client.close();
  });

  test("that can't be resumed is followed by a new session; what was queued arrives, requests fail", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid);
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    client.send(Order({ what: "lose-ticket" }));
    await client.request(Add({ numbers: [] })).catch(() => {});
    const again = next(client, "connected");
    const suspended = next(client, "suspended");
    await server.do("cut");
    await suspended;
    const asked = client.request(Add({ numbers: [1n] }));
    client.send(Echo({ n: 7 }));
    await expect(asked).rejects.toMatchObject({ code: RequestCode.CLOSED });
    expect((await again)[0]).toMatchObject({ uid, restarted: true });
    await until(() => got.length === 1);
    expect((await server.state(uid)).opened).toBe(2);
    expect(log).toEqual(["connected", "suspended", "error", "connected"]);
    expect((await client.request(Add({ numbers: [1n] }))).total).toBe(1n);
    await client.close();
  });
});

describe("while away", () => {
  test("messages wait, by key the newest; policies drop, or end the client", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid, { limits: { queueFrames: 10, queueBytes: 10_000 } });
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    client.suspend();
    expect(client.state).toBe("disconnected");
    for (const n of range(5)) client.send(Echo({ n }), { key: "position" });
    client.send(Echo({ n: 5 }));
    for (const n of range(20)) client.send(Echo({ n: 100 + n }), { full: "drop-newest" });
    client.send(Echo({ n: 200 }), { full: "drop-oldest" });
    expect(client.queue).toMatchObject({ frames: 10, dropped: 4 + 12 + 1 });
    client.wake();
    await until(() => got.length === 10);
    expect(got).toEqual([5, ...range(8).map((n) => 100 + n), 200]);
    client.suspend();
    for (const n of range(10)) client.send(Echo({ n }));
    expect(() => client.send(Echo({ n: 1 }))).toThrow(SessionClosed);
    expect(log.at(-1)).toBe(`disconnected ${CloseCode.SLOW_CONSUMER}`);
  });

  test("a suspended client makes no attempts, keeps its session, and goes on when it wakes", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid);
    await client.connect();
    client.send(Echo({ n: 1 }));
    client.suspend();
    await until(async () => (await server.state(uid)).state === "DETACHED");
    const other = clientOf(server, fresh()).client;
    await other.connect();
    const before = (await server.state(uid)).connections;
    for (const n of range(5)) {
      const back = next(other, "resumed"); // by then the first client, with the same delays, would have dialled too
      await server.do("cut");
      await back;
      expect((await server.state(uid)).connections).toBe(before + n + 1);
    }
    await other.close();
    expect((await server.state(uid)).heard).toEqual([1]);
    const resumed = next(client, "resumed");
    client.wake();
    await resumed;
    expect(log).toEqual(["connected", "suspended", "resumed"]);
    await client.close();
  });

  test("the window bounds what is under way; the rest waits in the queue", async () => {
    const uid = fresh();
    const { client } = clientOf(server, uid, { limits: { windowFrames: 64 } });
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    await server.do("pause");
    for (const n of range(200)) client.send(Echo({ n }));
    await Promise.resolve();
    expect(client.queue.frames).toBe(136);
    await server.do("go_on");
    await until(() => got.length === 200);
    expect(got).toEqual(range(200));
    await client.close();
  });
});

describe("GOAWAY", () => {
  test("makes the client leave within the time, and resume", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid);
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    const resumed = next(client, "resumed");
    client.send(Order({ what: "goaway", n: 300 }));
    for (const n of range(50)) {
      client.send(Echo({ n }));
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await resumed;
    await until(() => got.length === 50);
    expect(got).toEqual(range(50));
    expect(log).toEqual(["connected", "goingAway", "suspended", "resumed"]);
    await client.close();
  });

  test("at once is followed after a delay, and again and again not without one", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid);
    await client.connect();
    for (const _ of range(3)) {
      const resumed = next(client, "resumed");
      client.send(Order({ what: "goaway", n: 0 }));
      await resumed;
    }
    expect(log.filter((event) => event === "goingAway")).toHaveLength(3);
    await client.close();
  });
});

test("frames that come in small pieces, and many at once, are the same", async () => {
  const uid = fresh();
  const { client } = clientOf(server, uid);
  const got: number[] = [];
  client.on(Echo, ({ n }) => got.push(n));
  await client.connect();
  client.send(Order({ what: "flood", n: 5_000 }));
  await until(() => got.length === 5_000);
  expect(got).toEqual(range(5_000));
  await until(async () => (await server.state(uid)).kept === 0); // all of it is acknowledged
  await client.close();
});
