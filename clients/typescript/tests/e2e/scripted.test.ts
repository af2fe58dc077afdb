/** What a correct server never sends, and the protocol's fine print: against a scripted server. */

import { describe, expect, test } from "vitest";
import { join, uint } from "../../src/bytes.ts";
import { ACK, CLOSE, controlFrame, Feature, GOAWAY, LOST, PING, PONG, RENEW, RENEWED, type Control } from "../../src/control.ts";
import { CloseCode, ConnectError, ProtocolError, RequestCode } from "../../src/errors.ts";
import { encodeFrame } from "../../src/frames.ts";
import { Client, type ClientOptions } from "../../src/index.ts";
import { Ask, Echo } from "../messages.ts";
import { clientOf, next, range, until } from "./support.ts";
import { ScriptedServer, type Peer } from "./scripted.ts";

function echo(n: number): Uint8Array<ArrayBuffer> {
  return encodeFrame(Echo.id, Echo.encode(Echo({ n })));
}

function control(record: Control): Uint8Array<ArrayBuffer> {
  return controlFrame(record);
}

const quick = (address: string, more: Partial<ClientOptions> = {}) => clientOf({ address } as never, 7n, { reconnect: { first: 1, most: 5, attempts: 5 }, ...more } as never);

describe("before the login is verified", () => {
  const BAD: [string, (peer: Peer) => unknown][] = [
    ["bytes that are no frame", (peer) => peer.write(Uint8Array.of(1, 0, 0, 0x44, 9))],
    ["a text message", (peer) => peer.text("hello")],
    ["a message in place of HELLO", (peer) => peer.write(echo(1))],
    ["another control record", (peer) => peer.write(control({ type: ACK, received: 0n }))],
    ["features that were not offered", (peer) => peer.hello(0x100)],
    ["a frame of declared 16 MB", (peer) => peer.write(Uint8Array.of(255, 255, 255, 0))],
    ["RESUMED where nothing was resumed", async (peer) => {
      await peer.hello();
      peer.write(control({ type: 5, received: 0n, mac: new Uint8Array(32) }));
    }],
    ["another uid", async (peer) => {
      await peer.hello();
      peer.write(encodeFrame(2, join([0, uint(8, 8), uint(0, 8), 0])));
    }],
    ["no ticket although it resumes", async (peer) => {
      await peer.hello();
      peer.write(encodeFrame(2, join([0, uint(7, 8), uint(0, 8), 0])), control({ type: ACK, received: 0n }));
    }],
  ];
  test.each(BAD)("%s ends the client after three attempts with a defined error", async (_, script) => {
    await using server = await ScriptedServer.start(script);
    const { client, log } = quick(server.address);
    const error = (await client.connect().catch((error: unknown) => error)) as ConnectError;
    expect(error).toBeInstanceOf(ConnectError);
    expect(error.cause).toBeInstanceOf(ProtocolError);
    expect([CloseCode.PROTOCOL_ERROR, CloseCode.FRAME_TOO_LARGE]).toContain(error.code);
    expect(server.connections).toBe(3);
    expect(log.slice(0, 3)).toEqual(["error", "error", "error"]);
  });

  test("silence counts as a failed attempt", async () => {
    await using server = await ScriptedServer.start(() => {});
    const { client } = quick(server.address, { limits: { connectTimeout: 30 }, reconnect: { first: 1, most: 1, attempts: 2 } });
    await expect(client.connect()).rejects.toThrow("not verified within 30 ms");
  });

  test.each([
    [CloseCode.SERVER_FULL, 5],
    [CloseCode.CLIENT_TOO_OLD, 1],
  ])("CLOSE with %s is tried %s times", async (code, times) => {
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.hello();
      peer.write(control({ type: CLOSE, code, reason: "no" }));
    });
    const { client } = quick(server.address);
    await expect(client.connect()).rejects.toBeInstanceOf(ConnectError);
    expect(server.connections).toBe(times);
  });

  test("a refusal that only the WebSocket's close frame tells ends the client, too", async () => {
    await using server = await ScriptedServer.start((peer) => peer.close(CloseCode.VERIFY_FAILED));
    const { client } = quick(server.address);
    await expect(client.connect()).rejects.toMatchObject({ code: CloseCode.VERIFY_FAILED });
    expect(server.connections).toBe(1);
  });
});

describe("in a session", () => {
  const BAD: [string, (peer: Peer) => unknown, number][] = [
    ["an unknown flags byte", (peer) => peer.write(Uint8Array.of(2, 0, 0, 0x20, 1, 1)), 4007],
    ["message id 0", (peer) => peer.write(Uint8Array.of(2, 0, 0, 0, 0, 0)), 4007],
    ["a frame that is too large", (peer) => peer.write(Uint8Array.of(255, 255, 255, 0)), 4008],
    ["an acknowledgement of what was never sent", (peer) => peer.write(control({ type: ACK, received: 5n })), 4007],
    ["a huge acknowledgement", (peer) => peer.write(control({ type: ACK, received: 2n ** 64n - 1n })), 4007],
    ["HELLO again", (peer) => peer.write(control({ type: 1, version: 1, features: 1n, slot: 0, appVersion: "" })), 4007],
    ["an unknown control record", (peer) => peer.write(Uint8Array.of(1, 0, 0, 0x80, 99)), 4007],
    ["a body that does not decode", (peer) => peer.write(encodeFrame(Echo.id, Uint8Array.of(0xc1))), 4007],
    ["a snappy block that is corrupt", (peer) => peer.write(Uint8Array.of(4, 0, 0, 1, 0xf9, 0x2a, 200, 1)), 4007],
    ["a snappy block that declares 4 GB", (peer) => peer.write(Uint8Array.of(8, 0, 0, 1, 0xf9, 0x2a, 255, 255, 255, 255, 15, 0)), 4008],
    ["LOST with a smaller number", (peer) => {
      peer.write(control({ type: LOST, server: 12, toServer: 2, toClient: 0 }));
      peer.write(control({ type: LOST, server: 12, toServer: 1, toClient: 0 }));
    }, 4007],
    ["a text message", (peer) => peer.text("hello"), 4007],
  ];
  test.each(BAD)("%s ends the client with its code, and is not tried again", async (_, script, code) => {
    let closed: Control | undefined;
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.login();
      await peer.next(PING);
      await script(peer);
      closed = await peer.next(CLOSE);
    });
    const { client, log } = quick(server.address);
    client.on(Echo, () => {});
    await client.connect();
    await until(() => client.state === "disconnected" && closed !== undefined);
    expect(client.reason.code).toBe(code);
    expect(closed).toMatchObject({ code });
    expect(log).toEqual(["connected", `disconnected ${code}`]);
    expect(server.connections).toBe(1);
  });

  test("records of types 128 to 255, and messages without a handler, are ignored", async () => {
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.login();
      peer.write(Uint8Array.of(3, 0, 0, 0x80, 200, 1, 2), encodeFrame(11_999, Uint8Array.of(0xc1)), encodeFrame(4, new Uint8Array(0)), echo(5));
    });
    const { client } = quick(server.address);
    const got = new Promise<number>((resolve) => client.on(Echo, ({ n }) => resolve(n)));
    await client.connect();
    expect(await got).toBe(5);
    expect(client.state).toBe("connected");
    await client.close();
  });

  test("a server that takes none of the queued messages for queueAge is left with 4006, and the session resumes", async () => {
    const answer = async (peer: Peer) => {
      for (;;) peer.write(control({ type: PONG, sentAt: (await peer.next(PING)).sentAt, received: 0n, serverTime: 0n }));
    };
    await using server = await ScriptedServer.start(
      async (peer) => {
        await peer.login();
        await answer(peer);
      },
      async (peer) => {
        await peer.resume(2);
        await answer(peer);
      },
    );
    const { client } = quick(server.address, { limits: { windowFrames: 2, queueAge: 60, heartbeatInterval: 20 } });
    await client.connect();
    const suspended = next(client, "suspended");
    const resumed = next(client, "resumed");
    for (const n of range(3)) client.send(Echo({ n }));
    expect(await suspended).toMatchObject([{ code: CloseCode.SLOW_CONSUMER }]);
    await resumed;
    await client.drain();
    expect(client.queue.frames).toBe(0);
    await client.close();
  });

  test("a PING is answered with its number, at most four in a second", async () => {
    const pongs: Control[] = [];
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.login();
      peer.write(...range(10).map((n) => control({ type: PING, sentAt: 2n ** 63n + BigInt(n), received: 0n })));
      for (;;) pongs.push(await peer.next(PONG));
    });
    const { client } = quick(server.address);
    await client.connect();
    await until(() => pongs.length >= 4);
    await client.close();
    expect(pongs.map((pong) => (pong as { sentAt: bigint }).sentAt)).toEqual(range(4).map((n) => 2n ** 63n + BigInt(n)));
  });

  test("a server without PING hears a heartbeat at once, also if the page is younger than an interval", async () => {
    const heard: number[] = [];
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.login("", Feature.RESUME);
      heard.push((await peer.frame()).id, (await peer.frame()).id);
    });
    const { client } = quick(server.address, { limits: { heartbeatInterval: 3_600_000 } });
    await client.connect();
    client.send(Echo({ n: 1 }));
    client.send(Echo({ n: 2 }));
    await until(() => heard.length > 0);
    expect(heard).toEqual([4, Echo.id]);
    await client.close();
  });

  test("messages are acknowledged after 64, or after a second", async () => {
    const acks: number[] = [];
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.login();
      await peer.next(PING);
      peer.write(...range(64).map(echo));
      acks.push(Number((await peer.next(ACK)).received));
      peer.write(echo(64));
      const began = Date.now();
      acks.push(Number((await peer.next(ACK)).received));
      acks.push(Date.now() - began);
    });
    const { client } = quick(server.address);
    await client.connect();
    await until(() => acks.length === 3);
    expect(acks.slice(0, 2)).toEqual([64, 65]);
    expect(acks[2]).toBeGreaterThan(500);
    await client.close();
  });
});

describe("a resume", () => {
  test("raises its attempt, has the right count and mac, and sends again from the server's count", async () => {
    const seen: unknown[] = [];
    const first = async (peer: Peer): Promise<void> => {
      await peer.login();
      peer.write(echo(1), echo(2));
      let messages = 0;
      while (messages < 3) if ((await peer.frame()).id === Echo.id) messages++;
      peer.reset();
    };
    const lost = async (peer: Peer): Promise<void> => {
      await peer.hello();
      seen.push((await peer.record() as { attempt: number }).attempt);
      peer.reset(); // in the middle of the resume
    };
    const second = async (peer: Peer): Promise<void> => {
      const record = await peer.resume(1);
      seen.push(record.attempt, Number(record.received));
      for (let messages = 0; messages < 2; ) {
        const frame = await peer.frame();
        if (frame.id === Echo.id) {
          seen.push(Echo.decode(frame.body).n);
          messages++;
        }
      }
      peer.write(echo(3));
    };
    await using server = await ScriptedServer.start(first, lost, second);
    const { client, log } = quick(server.address);
    const got: number[] = [];
    client.on(Echo, ({ n }) => got.push(n));
    await client.connect();
    for (const n of [10, 11, 12]) client.send(Echo({ n }));
    await until(() => got.length === 3);
    expect(seen).toEqual([1, 2, 2, 11, 12]);
    expect(got).toEqual([1, 2, 3]);
    expect(server.errors).toEqual([]);
    expect(log).toEqual(["connected", "suspended", "error", "resumed"]);
    await client.close();
  });

  test.each([
    ["a wrong mac", (peer: Peer) => peer.resume(0, { mac: new Uint8Array(32) })],
    ["an impossible count", (peer: Peer) => peer.resume(9)],
  ])("with %s is refused, and ends the client after three", async (_, script) => {
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.login();
      await peer.next(PING);
      peer.reset();
    }, script);
    const { client, log } = quick(server.address);
    await client.connect();
    expect((await next(client, "disconnected"))[0]).toBe(CloseCode.PROTOCOL_ERROR);
    expect(server.connections).toBe(4);
    expect(log).toEqual(["connected", "suspended", "error", "error", "error", "disconnected 4007"]);
  });

  test("by a server that lost a feature of the session fails", async () => {
    await using server = await ScriptedServer.start(
      async (peer) => {
        await peer.login();
        await peer.next(PING);
        peer.reset();
      },
      (peer) => peer.hello(1),
      (peer) => peer.resume(0),
    );
    const { client, log } = quick(server.address);
    await client.connect();
    await next(client, "resumed");
    expect(log).toEqual(["connected", "suspended", "error", "resumed"]);
    await client.close();
  });

  test.each([4004, 4006, 4011])("follows CLOSE %s; the session goes on", async (code) => {
    await using server = await ScriptedServer.start(
      async (peer) => {
        await peer.login();
        await peer.next(PING);
        peer.write(control({ type: CLOSE, code, reason: "" }));
      },
      (peer) => peer.resume(0),
    );
    const { client, log } = quick(server.address);
    await client.connect();
    await next(client, "resumed");
    expect(log).toEqual(["connected", "suspended", "resumed"]);
    await client.close();
  });

  test.each([4012, 4015])("does not follow CLOSE %s: the client logs in again", async (code) => {
    await using server = await ScriptedServer.start(
      async (peer) => {
        await peer.login();
        await peer.next(PING);
        peer.write(control({ type: CLOSE, code, reason: "" }));
      },
      (peer) => peer.login(),
    );
    const { client, log } = quick(server.address);
    await client.connect();
    await next(client, "connected");
    expect(log).toEqual(["connected", "suspended", "connected"]);
    await client.close();
  });

  test("goes to the ticket's address; GOAWAY's wins over it; a weaker one, or none, counts as not given", async () => {
    const seen: string[] = [];
    const leave = (peer: Peer, address: string): void => peer.write(control({ type: GOAWAY, reconnectWithin: 1, address }));
    await using other = await ScriptedServer.start(async (peer) => {
      await peer.resume(0);
      seen.push("other");
      leave(peer, "tcp://127.0.0.1:1");
    }, async (peer) => {
      await peer.resume(0);
      seen.push("other again");
    });
    await using third = await ScriptedServer.start(async (peer) => {
      await peer.resume(0);
      seen.push("third");
      leave(peer, other.address);
    });
    await using home = await ScriptedServer.start(async (peer) => {
      await peer.login(third.address);
      await peer.next(PING);
      peer.reset();
    });
    const { client } = quick(home.address);
    await client.connect();
    await until(() => seen.length === 3);
    expect(seen).toEqual(["third", "other", "other again"]);
    expect([...home.errors, ...third.errors, ...other.errors]).toEqual([]);
    await client.close();
  });
});

describe("a renewal", () => {
  test("shows a fresh token when the server warns, and again after a break", async () => {
    const seen: string[] = [];
    await using server = await ScriptedServer.start(
      async (peer) => {
        await peer.login();
        peer.write(control({ type: 13, seconds: 60 }));
        seen.push((await peer.next(RENEW)).token);
        peer.reset();
      },
      async (peer) => {
        await peer.resume(0);
        seen.push((await peer.next(RENEW)).token);
        peer.write(control({ type: RENEWED, result: 0, expiresIn: 3600 }));
      },
    );
    let count = 0;
    const { client, log } = quick(server.address, { getToken: () => `token ${++count}` } as never);
    await client.connect();
    await until(() => seen.length === 2);
    expect(seen).toEqual(["token 2", "token 2"]);
    expect(log).toEqual(["connected", "tokenExpiring", "suspended", "resumed"]);
    await client.close();
  });

  test("whose token can't be had is reported, and the session goes on", async () => {
    await using server = await ScriptedServer.start(async (peer) => {
      await peer.login();
      peer.write(control({ type: 13, seconds: 60 }));
    });
    let count = 0;
    const getToken = (): string => {
      if (++count > 1) throw new Error("no token");
      return "token";
    };
    const { client } = quick(server.address, { getToken } as never);
    const failed = next(client, "error");
    await client.connect();
    expect(String((await failed)[0])).toContain("no token");
    expect(client.state).toBe("connected");
    await client.close();
  });
});

test("a request whose time passes before there is a session is never sent, and 64 may wait for one", async () => {
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => (open = resolve));
  const tags: number[] = [];
  await using server = await ScriptedServer.start(async (peer) => {
    await opened;
    await peer.login();
    for (;;) {
      const frame = await peer.frame();
      if (frame.id === Ask.id) tags.push(frame.tag);
    }
  });
  const { client } = quick(server.address);
  const connected = client.connect();
  for (let n = 0; n < 3; n++) await expect(client.request(Ask({ n }), { timeout: 5 })).rejects.toMatchObject({ code: RequestCode.TIMEOUT });
  const waiting = range(64).map((n) => client.request(Ask({ n })).catch((error: unknown) => error));
  await expect(client.request(Ask({ n: 64 }))).rejects.toMatchObject({ code: RequestCode.TOO_MANY });
  open();
  await connected;
  await until(() => tags.length >= 64);
  await client.close();
  expect(tags.length).toBe(64);
  for (const outcome of await Promise.all(waiting)) expect(outcome).toMatchObject({ code: RequestCode.CLOSED });
});

test("a GOAWAY that a break overtakes is still waited for", async () => {
  const times: number[] = [];
  await using server = await ScriptedServer.start(
    async (peer) => {
      await peer.login();
      peer.write(control({ type: GOAWAY, reconnectWithin: 4_000_000, address: "" }));
      await peer.next(PING);
      peer.reset();
    },
    () => times.push(Date.now()),
  );
  const { client, log } = quick(server.address);
  await client.connect();
  await next(client, "suspended");
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(times).toEqual([]);
  expect(log).toEqual(["connected", "goingAway", "suspended"]);
  await client.close();
  expect(client.state).toBe("disconnected");
});

test("without WebCrypto there is a clear error, and a session that is not resumed", async () => {
  const { subtle } = crypto;
  Object.defineProperty(crypto, "subtle", { value: undefined, configurable: true });
  try {
    const features: bigint[] = [];
    await using server = await ScriptedServer.start(async (peer) => {
      features.push((await peer.record() as { features: bigint }).features);
      peer.write(control({ type: 1, version: 1, features: features[0]!, slot: 0, appVersion: "" }));
      await peer.frame();
      peer.write(encodeFrame(2, join([0, uint(7, 8), uint(0, 8), 0])));
    });
    const { client } = quick(server.address);
    const failed = next(client, "error");
    await client.connect();
    expect(String((await failed)[0])).toContain("crypto.subtle is missing");
    expect(features).toEqual([0x2en]);
    expect(client.isResumable).toBe(false);
    await client.close();
  } finally {
    Object.defineProperty(crypto, "subtle", { value: subtle, configurable: true });
  }
});

test("a browser that wrongly says it is offline still connects", async () => {
  Object.defineProperty(navigator, "onLine", { value: false, configurable: true });
  try {
    await using server = await ScriptedServer.start((peer) => peer.login());
    const { client, log } = quick(server.address);
    await client.connect();
    expect(log).toEqual(["connected"]);
    await client.close();
  } finally {
    delete (navigator as { onLine?: boolean }).onLine;
  }
});

test("without WebSocket there is a clear error", () => {
  const before = globalThis.WebSocket;
  try {
    delete (globalThis as { WebSocket?: unknown }).WebSocket;
    expect(() => new Client({ address: "ws://x", uid: 1n, getToken: () => "" })).toThrow("no WebSocket");
  } finally {
    globalThis.WebSocket = before;
  }
});

test("an error of a handler is reported as unhandled, and the session goes on", async () => {
  await using server = await ScriptedServer.start(async (peer) => {
    await peer.login();
    peer.write(echo(1), echo(2));
  });
  const { client } = quick(server.address);
  const got: number[] = [];
  const reported = new Promise<unknown>((resolve) => {
    const others = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    process.once("unhandledRejection", (error) => {
      for (const other of others) process.on("unhandledRejection", other);
      resolve(error);
    });
  });
  client.on(Echo, ({ n }) => {
    got.push(n);
    if (n === 1) throw new Error("of the handler");
  });
  await client.connect();
  await until(() => got.length === 2);
  expect(String(await reported)).toContain("of the handler");
  expect(client.state).toBe("connected");
  await client.close();
});
