import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Client, CloseCode, ConfigError, ConnectError, deviceId, LoginFailed, LoginService } from "../../src/index.ts";
import { Add, Order } from "../messages.ts";
import { next, TestServer, until } from "./support.ts";

let server: TestServer;
let service: LoginService;
beforeAll(async () => {
  server = await TestServer.start({ login: 600 });
  service = new LoginService(server.login);
});
afterAll(() => server.end());

const DEVICE = "6f1d0c3a9be84275a0e3c1d2f4b59687";
const reconnect = { first: 20, most: 100, attempts: 100 };

async function failure(promise: Promise<unknown>): Promise<LoginFailed> {
  const error = await promise.catch((error: unknown) => error);
  expect(error).toBeInstanceOf(LoginFailed);
  return error as LoginFailed;
}

describe("LoginService", () => {
  test("registers, logs in, and out", async () => {
    const made = await service.register("anna", "correct horse");
    expect(made.addresses).toEqual({ ws: server.address });
    expect(made.expiresAt).toBeGreaterThan(Date.now());
    const again = await service.login("anna", "correct horse");
    expect(again.uid).toBe(made.uid);
    expect(again.token).not.toBe(made.token);
    await service.logout(again.token);
    expect(await service.servers()).toEqual([{ id: 1n, name: "here", addresses: { ws: server.address }, open: true }]);
  });

  test("gives the problem's code, status and time to wait", async () => {
    await service.register("bob", "battery staple");
    expect(await failure(service.login("bob", "wrong"))).toMatchObject({ status: 403, code: "wrong-credentials", isPassing: false });
    expect(await failure(service.register("bob", "battery staple"))).toMatchObject({ status: 409, code: "name-taken" });
    expect(await failure(service.guest("short"))).toMatchObject({ status: 403 });
    expect((await failure(service.login("bob", "wrong"))).message).not.toContain("wrong,");
  });

  test.each([
    ["7", 7_000],
    ["0", 0],
    ["Wed, 21 Oct 2026 07:28:00 GMT", undefined],
    [undefined, undefined],
  ])("gives a Retry-After of %s as %s ms", async (text, ms) => {
    const http = createServer((_, response) => {
      if (text !== undefined) response.setHeader("retry-after", text);
      response.writeHead(429, { "content-type": "application/problem+json" }).end('{"code": "too-many-tries", "detail": "wait"}');
    });
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    const busy = new LoginService(`http://127.0.0.1:${(http.address() as AddressInfo).port}`);
    expect(await failure(busy.guest(DEVICE))).toMatchObject({ status: 429, code: "too-many-tries", retryAfter: ms });
    http.closeAllConnections();
    http.close();
  });

  test("gives a uid of 64 bits whole", async () => {
    expect((await service.oidc("an ID token")).uid).toBe(2n ** 53n + 1n);
  });

  test.each<[string, RequestListener]>([
    ["a page of HTML", (_, response) => response.end("<html>hello</html>")],
    ["JSON of another kind", (_, response) => response.end('{"uid": "x"}')],
    ["a uid that is no whole number", (_, response) => response.end('{"uid": 1.5, "token": "t", "addresses": {}}')],
    ["a redirect", (_, response) => response.writeHead(302, { location: "https://example.com" }).end()],
    ["a reply of 2 MB", (_, response) => response.end("x".repeat(2_000_000))],
    ["an error without a problem", (_, response) => response.writeHead(502).end("bad gateway")],
  ])("rejects %s with LoginFailed", async (_, listener) => {
    const http = createServer(listener);
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    const wrong = new LoginService(`http://127.0.0.1:${(http.address() as AddressInfo).port}/`);
    await failure(wrong.guest(DEVICE));
    http.closeAllConnections();
    http.close();
  });

  test.each(["[null]", "[1]", "{}", '[{"id": 1}]', '[{"id": 1.5, "addresses": {}}]', '[{"id": "1", "addresses": {}}]'])(
    "rejects %s for the servers with LoginFailed",
    async (body) => {
      const http = createServer((_, response) => void response.setHeader("content-type", "application/json").end(body));
      await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
      const wrong = new LoginService(`http://127.0.0.1:${(http.address() as AddressInfo).port}`);
      await failure(wrong.servers());
      http.closeAllConnections();
      http.close();
    },
  );

  test("rejects with LoginFailed where nothing answers, and with the signal's reason if that is aborted", async () => {
    const nobody = new LoginService("http://127.0.0.1:1");
    const failed = await failure(nobody.guest(DEVICE));
    expect(failed).toMatchObject({ status: 0, isPassing: true });
    expect(failed.message).toContain("POST http://127.0.0.1:1/v1/guest: no answer: TypeError: fetch failed; is the service there");
    await expect(nobody.guest(DEVICE, { signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
  });

  test.each(["", "ftp://x", "https://", "https://user:password@x"])("refuses the url %j", (url) => {
    expect(() => new LoginService(url)).toThrow(ConfigError);
  });
});

describe("deviceId", () => {
  test("is made once and kept", () => {
    const kept = new Map<string, string>();
    const storage = { getItem: (name: string) => kept.get(name) ?? null, setItem: (name: string, value: string) => void kept.set(name, value) };
    const id = deviceId("name", storage);
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    expect(deviceId("name", storage)).toBe(id);
  });

  test("throws where nothing can be stored", () => {
    const setItem = (): never => {
      throw new Error("quota");
    };
    expect(() => deviceId("name", { getItem: () => null, setItem })).toThrow(ConfigError);
  });
});

describe("a client with a login", () => {
  test("connects to the gateway that the login names, resumes there, and logs in again if that fails", async () => {
    let logins = 0;
    const login = () => {
      logins++;
      return service.guest(DEVICE);
    };
    const client = new Client({ login, servers: () => service.servers(), reconnect });
    expect(client.uid).toBe(0n);
    await client.connect();
    expect(client.uid).toBeGreaterThan(0n);
    const resumed = next(client, "resumed");
    await server.do("cut");
    await resumed;
    expect(logins).toBe(1);
    client.send(Order({ what: "lose-ticket" }));
    await client.request(Add({ numbers: [1n] }));
    const again = next(client, "connected");
    await server.do("cut");
    expect((await again)[0]).toMatchObject({ uid: client.uid, restarted: true });
    expect(logins).toBe(2);
    await client.close();
  });

  test("keeps a uid of 64 bits whole", async () => {
    const client = new Client({ login: () => service.oidc("an ID token"), reconnect });
    await client.connect();
    expect(client.uid).toBe(2n ** 53n + 1n);
    expect((await server.state(2n ** 53n + 1n)).state).toBe("OPEN");
    await client.close();
  });

  test("ends at once when the service refuses, and tries again when it is away", async () => {
    const refused = new Client({ login: () => service.login("nobody", "wrong"), reconnect });
    const error = (await refused.connect().catch((error: unknown) => error)) as ConnectError;
    expect(error).toMatchObject({ code: CloseCode.VERIFY_FAILED, cause: expect.any(LoginFailed) as unknown });
    let times = 0;
    const away = new Client({
      login: () => (times++ ? service.guest(DEVICE) : new LoginService("http://127.0.0.1:1").guest(DEVICE)),
      reconnect,
    });
    await away.connect();
    expect(times).toBe(2);
    await away.close();
  });

  test("fails where the gateway has no WebSocket address", async () => {
    const login = async () => ({ ...(await service.guest(DEVICE)), addresses: { tcp: "tcp://x:1" } });
    const client = new Client({ login, reconnect: { ...reconnect, attempts: 1 } });
    await expect(client.connect()).rejects.toThrow("no address over WebSocket; the login gave tcp");
  });

  test("leaves a gateway that is registered no more", async () => {
    let isGone = false;
    const servers = async () => (isGone ? [{ id: 2n, name: "other", addresses: { ws: "ws://x" }, open: true }] : service.servers());
    const client = new Client({ login: () => service.guest(DEVICE), servers, reconnect });
    await client.connect();
    isGone = true;
    const again = next(client, "connected");
    await server.do("refuse", { seconds: 0.7 });
    expect((await again)[0]).toMatchObject({ restarted: true });
    await client.close();
  });

  test("renews its login before that ends, so that the session goes on", async () => {
    const short = await TestServer.start({ login: 8, warn: 4 }); // before the client would renew by itself, after 5.4 s
    const shortService = new LoginService(short.login);
    const client = new Client({ login: () => shortService.guest(DEVICE), reconnect });
    const codes: number[] = [];
    client.on("disconnected", (code) => codes.push(code));
    await client.connect();
    await next(client, "tokenExpiring");
    await until(async () => (await short.state(client.uid)).expires_in > 5); // a newer token's
    const state = await short.state(client.uid);
    expect(state).toMatchObject({ opened: 1, ended: [], state: "OPEN" });
    expect(codes).toEqual([]);
    await client.close();
    await short.end();
  });

  test("logs in again when the server ends the session because the token has expired", async () => {
    const short = await TestServer.start({ login: 3, warn: 0.1 });
    const shortService = new LoginService(short.login);
    let logins = 0;
    const login = async () => {
      if (++logins === 2) throw new Error("the renewal fails");
      return { ...(await shortService.guest(DEVICE)), expiresAt: 0 };
    };
    const client = new Client({ login, reconnect });
    await client.connect();
    expect((await next(client, "connected"))[0].restarted).toBe(true);
    expect((await short.state(client.uid)).ended).toEqual([CloseCode.TOKEN_EXPIRED]);
    await client.close();
    await short.end();
  });
});

test("a client that was closed leaves nothing behind", async () => {
  const client = new Client({ login: () => service.guest(DEVICE), reconnect });
  const connecting = client.connect();
  await client.close();
  await expect(connecting).rejects.toBeInstanceOf(ConnectError);
  await until(() => client.state === "disconnected");
});
