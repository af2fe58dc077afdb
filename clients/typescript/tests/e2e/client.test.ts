import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CloseCode, ConfigError, ConnectError, Refuse, RequestCode, RequestFailed, SessionClosed, Client } from "../../src/index.ts";
import { Add, Ask, Blob, Echo, InMsgpack, Order } from "../messages.ts";
import { clientOf, next, range, TestServer, until } from "./support.ts";

let server: TestServer;
beforeAll(async () => void (server = await TestServer.start()));
afterAll(() => server.end());

let lastUid = 100n;
function fresh(): bigint {
  return ++lastUid;
}

describe("a session", () => {
  test("carries messages both ways in order, and closes on both sides", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid);
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    expect(client.state).toBe("disconnected");
    await client.connect();
    expect(client.state).toBe("connected");
    expect(client.isResumable).toBe(true);
    for (const n of range(2_000)) client.send(Echo({ n, text: "hello" }));
    await until(() => got.length === 2_000);
    expect(got).toEqual(range(2_000));
    expect(client.rtt).toBeGreaterThan(0);
    await client.close("bye");
    expect(log).toEqual(["connected", "disconnected 4000"]);
    await until(async () => (await server.state(uid)).ended.length === 1);
    expect((await server.state(uid)).ended).toEqual([4000]);
    expect(() => client.send(Echo({ n: 1 }))).toThrow(SessionClosed);
  });

  test("carries raw messages, and ones that were received", async () => {
    const { client } = clientOf(server, fresh());
    const got: Uint8Array[] = [];
    client.on(Blob, (blob) => got.push(blob));
    let again = 0;
    client.on(Echo, (echo) => {
      if (++again < 3) client.send(echo as Echo & ReturnType<typeof Echo>);
    });
    await client.connect();
    client.send(Blob(Uint8Array.of(1, 2, 3)));
    client.send(Echo({ n: 1 }));
    await until(() => got.length === 1 && again === 3);
    expect([...got[0]!]).toEqual([1, 2, 3]);
    await client.close();
  });

  test("sends before the first connection, when that is there", async () => {
    const { client } = clientOf(server, fresh());
    client.send(Echo({ n: 5 }));
    const got = new Promise<number>((resolve) => client.on(Echo, ({ n }) => resolve(n)));
    await client.connect();
    expect(await got).toBe(5);
    await client.close();
  });

  test("delivers what is queued before it closes", async () => {
    const uid = fresh();
    const { client } = clientOf(server, uid);
    await client.connect();
    for (const n of range(1_500)) client.send(Echo({ n }));
    await client.close();
    await until(async () => (await server.state(uid)).ended.length === 1);
    expect((await server.state(uid)).heard).toEqual(range(1_500));
  });

  test("connects again after it was closed", async () => {
    const uid = fresh();
    const { client, log } = clientOf(server, uid);
    await client.connect();
    await client.close();
    await client.connect();
    expect(await client.request(Add({ numbers: [1n, 2n] }))).toMatchObject({ total: 3n });
    await client.close();
    expect(log).toEqual(["connected", "disconnected 4000", "connected", "disconnected 4000"]);
  });

  test("drains", async () => {
    const uid = fresh();
    const { client } = clientOf(server, uid);
    await client.connect();
    for (const n of range(100)) client.send(Echo({ n }));
    await client.drain();
    expect(client.queue).toEqual({ frames: 0, bytes: 0, dropped: 0 });
    const left = client.close();
    await expect(client.drain()).rejects.toThrow(SessionClosed);
    await left;
  });

  test.each([
    ["KICKED", CloseCode.KICKED],
    ["NORMAL", CloseCode.NORMAL],
    ["CLIENT_TOO_OLD", CloseCode.CLIENT_TOO_OLD],
  ])("that the server closes with %s ends the client with that code", async (what, code) => {
    const { client, log } = clientOf(server, fresh());
    await client.connect();
    const ended = next(client, "disconnected");
    client.send(Order({ what }));
    expect(await ended).toEqual([code, "as ordered"]);
    expect(client.reason).toEqual({ code, text: "as ordered" });
    expect(log).toEqual(["connected", `disconnected ${code}`]);
  });

  test("ends with 4003 when the same user logs in again", async () => {
    const uid = fresh();
    const first = clientOf(server, uid);
    const second = clientOf(server, uid);
    await first.client.connect();
    const ended = next(first.client, "disconnected");
    await second.client.connect();
    expect((await ended)[0]).toBe(CloseCode.REPLACED);
    await second.client.close();
  });

  test("ends with 4001 when the token is refused", async () => {
    const { client } = clientOf(server, fresh(), { getToken: () => "wrong" } as never);
    const error = await client.connect().then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(ConnectError);
    expect((error as ConnectError).code).toBe(CloseCode.VERIFY_FAILED);
    expect(client.state).toBe("disconnected");
  });

  test("gives up after its attempts where nothing listens", async () => {
    const { client, log } = clientOf(server, 1n, { address: "ws://127.0.0.1:1", reconnect: { first: 1, most: 2, attempts: 3 } } as never);
    await expect(client.connect()).rejects.toThrow("3 attempts");
    expect(log).toEqual(["error", "error", "error", "disconnected 4011"]);
  });
});

describe("requests", () => {
  test("are answered, refused, timed out and aborted", async () => {
    const { client } = clientOf(server, fresh());
    await client.connect();
    const big = 2n ** 53n + 1n;
    expect((await client.request(Add({ numbers: [big, 0n] }))).total).toBe(big);
    const refused = await client.request(Add({ numbers: [] })).catch((error: unknown) => error as RequestFailed);
    expect(refused).toMatchObject({ code: RequestCode.REFUSED, detail: 7, reason: "nothing to add" });
    const stop = new AbortController();
    await server.do("pause");
    const late = client.request(Add({ numbers: [1n] }), { timeout: 30 });
    const aborted = client.request(Add({ numbers: [1n] }), { signal: stop.signal });
    await expect(late).rejects.toMatchObject({ code: RequestCode.TIMEOUT });
    stop.abort(new Error("enough"));
    await expect(aborted).rejects.toThrow("enough");
    await server.do("go_on");
    expect((await client.request(Add({ numbers: [5n] }))).total).toBe(5n);
    await client.close();
  });

  test("beyond 64 are refused here, and all wait in vain when the client closes", async () => {
    const { client } = clientOf(server, fresh());
    await client.connect();
    await server.do("pause");
    const waiting = range(64).map(() => client.request(Add({ numbers: [] })).catch((error: RequestFailed) => error.code));
    await expect(client.request(Add({ numbers: [] }))).rejects.toMatchObject({ code: RequestCode.TOO_MANY });
    const closed = client.close();
    await server.do("go_on");
    await closed;
    expect(new Set(await Promise.all(waiting)).size).toBeGreaterThan(0);
    await expect(client.request(Add({ numbers: [] }))).rejects.toThrow(SessionClosed);
  });

  test("of the server are answered by handlers", async () => {
    const uid = fresh();
    const { client } = clientOf(server, uid);
    await client.connect();
    const before = (await server.state(uid)).answers.length;
    const answers = async (): Promise<unknown[]> => (await server.state(uid)).answers.slice(before);
    client.send(Order({ what: "ask", n: 20 }));
    await until(async () => (await answers()).length === 1);
    const off = client.handle(Ask, async ({ n }) => {
      if (n < 0) throw new Refuse(3, "negative");
      return { n: 2 * n };
    });
    client.send(Order({ what: "ask", n: 21 }));
    client.send(Order({ what: "ask", n: -1 }));
    await until(async () => (await answers()).length === 3);
    expect(await answers()).toEqual([[RequestCode.NO_HANDLER, 0, ""], 42, [RequestCode.REFUSED, 3, "negative"]]);
    off();
    await client.close();
  });
});

test("a token that never comes holds nothing up: not close, not a new connect", async () => {
  let isThere = false;
  const uid = fresh();
  let asked = (): void => {};
  const isAsked = new Promise<void>((resolve) => (asked = resolve));
  const getToken = (): Promise<string> => {
    asked();
    return isThere ? Promise.resolve(String(uid).padStart(32, "0")) : new Promise(() => {});
  };
  const { client, log } = clientOf(server, uid, { getToken } as never);
  const connecting = client.connect();
  await isAsked;
  await client.close();
  await expect(connecting).rejects.toBeInstanceOf(ConnectError);
  isThere = true;
  await client.connect();
  expect(log).toEqual(["disconnected 4000", "connected"]);
  await client.close();
});

test("compressed and scrambled messages arrive", async () => {
  const coded = await TestServer.start({ wire: { compress_over: 20, scramble: true } });
  const { client } = clientOf(coded, 5n);
  const text = "hello, hello, hello, ".repeat(300);
  const got = new Promise<string>((resolve) => client.on(Echo, (echo) => resolve(echo.text)));
  await client.connect();
  client.send(Echo({ n: 1, text }));
  expect(await got).toBe(text);
  expect((await client.request(Add({ numbers: [4n] }))).total).toBe(4n);
  await client.close();
  await coded.end();
});

test("a server that resumes nothing gets a session without resume, and a new one after a break", async () => {
  const plain = await TestServer.start({ resume: false });
  const { client, log } = clientOf(plain, 5n);
  const got: number[] = [];
  client.on(Echo, ({ n }) => got.push(n));
  await client.connect();
  expect(client.isResumable).toBe(false);
  const again = next(client, "connected");
  const broken = next(client, "suspended");
  await plain.do("cut");
  await broken;
  client.send(Echo({ n: 1 }));
  expect((await again)[0]).toMatchObject({ restarted: true, unconfirmed: 0 });
  await until(() => got.length === 1);
  expect(log).toEqual(["connected", "suspended", "connected"]);
  await client.close();
  await plain.end();
});

test("a message type whose id another one has is refused", () => {
  const { client } = clientOf(server, 1n);
  client.on(Echo, () => {});
  client.on(Echo, () => {});
  expect(() => client.on({ ...InMsgpack, id: Echo.id } as never, () => {})).toThrow("an id has one type");
});

test("options that can't work are refused", () => {
  const getToken = (): string => "";
  expect(() => new Client({ address: "http://x", uid: 1n, getToken })).toThrow(ConfigError);
  expect(() => new Client({ address: "ws://x", uid: 1 as never, getToken })).toThrow("bigint");
  expect(() => new Client({ address: "ws://x", uid: 1n, getToken, slot: 256 })).toThrow("slot");
});
