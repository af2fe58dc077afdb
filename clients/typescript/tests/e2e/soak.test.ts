/** Many sessions over a path that breaks at random places. SOAK=10 makes it ten times as long. */

import { expect, test } from "vitest";
import { Echo } from "../messages.ts";
import { clientOf, range, TestServer, until } from "./support.ts";

const SCALE = Number(process.env["SOAK"] ?? 1);
const SESSIONS = 20;
const MESSAGES = 250 * SCALE;

test(
  "each message arrives once and in order, both ways, whatever breaks",
  async () => {
    const limits = { message_rate: 1e5, message_burst: 1e5, byte_rate: 1e8, byte_burst: 1e8, max_per_address: 10_000, max_unverified_per_address: 4_000, connect_burst: 1e5, connect_rate: 1e5 };
    const server = await TestServer.start({ limits, seed: 1, breaks: { up: 6_000, down: 9_000 } });
    const players = range(SESSIONS).map((n) => {
      const { client, log } = clientOf(server, BigInt(n + 1), { reconnect: { first: 20, most: 200, attempts: 1_000 } });
      const got: number[] = [];
      client.on(Echo, (echo) => got.push(echo.n));
      return { client, log, got };
    });
    await Promise.all(players.map(({ client }) => client.connect()));
    for (const start of range(Math.ceil(MESSAGES / 25))) {
      for (const { client } of players) for (const n of range(25)) client.send(Echo({ n: start * 25 + n }));
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (start % 20 === 19) await server.do("cut");
    }
    await until(() => players.every(({ got }) => got.length >= MESSAGES));
    let resumes = 0;
    for (const [n, { client, log, got }] of players.entries()) {
      const state = await server.state(BigInt(n + 1));
      expect(got).toEqual(range(MESSAGES));
      expect(state.heard).toEqual(range(MESSAGES));
      expect(state.opened).toBe(1);
      resumes += log.filter((event) => event === "resumed").length;
      await client.close();
    }
    const { breaks } = await server.state(1n);
    console.log(`${SESSIONS} sessions, ${MESSAGES} messages each way, ${breaks} breaks, ${resumes} resumes`);
    expect(breaks).toBeGreaterThan(SESSIONS);
    await server.end();
  },
  60_000 * (1 + SCALE),
);
