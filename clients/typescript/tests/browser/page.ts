/** What the page of tests/browser/sdk.py loads: the SDK and the tests' messages, and a client that counts. */

import * as gatelink from "../../src/index.ts";
import * as messages from "../messages.ts";

const { Echo } = messages;

/** A client whose echoes and events are kept, with ways for the test to see and drive it. */
class Player {
  readonly client: gatelink.Client;
  readonly got: number[] = [];
  readonly log: string[] = [];
  readonly times: number[] = []; // ms from a break to its end: a resume, or another session
  #brokenAt = 0;

  constructor(options: gatelink.ClientOptions) {
    this.client = new gatelink.Client(options);
    this.client.on(Echo, ({ n }) => void this.got.push(n));
    this.client.on("suspended", ({ code }) => {
      this.#brokenAt = performance.now();
      this.log.push(`suspended ${code}`);
    });
    this.client.on("connected", ({ restarted }) => {
      if (restarted) this.times.push(performance.now() - this.#brokenAt);
      this.log.push("connected");
    });
    this.client.on("resumed", () => {
      this.times.push(performance.now() - this.#brokenAt);
      this.log.push("resumed");
    });
    this.client.on("disconnected", (code) => void this.log.push(`disconnected ${code}`));
    this.client.on("error", (error) => void this.log.push(`error ${String(error)}`));
  }

  static at(address: string, uid: string, more: object = {}): Player {
    const getToken = (): string => uid.padStart(32, "0");
    return new Player({ address, uid: BigInt(uid), getToken, reconnect: { first: 20, most: 200 }, ...more });
  }

  static login(url: string): Player {
    const service = new gatelink.LoginService(url);
    return new Player({ login: () => service.guest(gatelink.deviceId()), servers: () => service.servers() });
  }

  say(from: number, to: number): void {
    for (let n = from; n < to; n++) this.client.send(Echo({ n }));
  }
}

Object.assign(globalThis, { gatelink, messages, Player });
