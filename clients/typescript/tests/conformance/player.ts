/** What a driver of `gatelink conform` does with this SDK, in Node and in a page: commands in, events out. */

import { Client, Refuse, RequestFailed, type Message, type MessageType } from "../../src/index.ts";
import { Ask, Count, Everything, EverythingJson, Fields, Raw } from "./messages.ts";

interface Connect {
  s: number;
  address: string;
  uid: string;
  tokens: string[];
  slot: number;
  backoff: [number, number];
  attempts: number;
  heartbeat: [number, number];
}

const seconds = { clock: 0 };
const now = Date.now;
Date.now = () => now() + seconds.clock * 1_000;

/** A message as the contract has it. */
function asJson(value: unknown): unknown {
  if (typeof value === "bigint") return String(value);
  if (value instanceof Uint8Array) return btoa(Array.from(value, (byte) => String.fromCharCode(byte)).join(""));
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Set || Array.isArray(value)) return [...value].map(asJson);
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [key, asJson(item)]));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, asJson(item)]));
  }
  return value;
}

/** Takes an event. */
export type Say = (event: string, fields: Record<string, unknown>) => void;

class Player {
  readonly client: Client;
  readonly #s: number;
  readonly #say: Say;

  constructor(say: Say, { s, address, uid, tokens, slot, backoff: [first, most], attempts, heartbeat: [interval, timeout] }: Connect) {
    this.#s = s;
    this.#say = say;
    this.client = new Client({
      address,
      uid: BigInt(uid),
      slot,
      getToken: () => (tokens.length > 1 ? tokens.shift()! : tokens[0]!),
      reconnect: { first: first * 1_000, most: most * 1_000, attempts },
      limits: { heartbeatInterval: interval * 1_000, heartbeatTimeout: timeout * 1_000 },
    });
    const { client } = this;
    client.on("connected", ({ restarted }) => say(restarted ? "restarted" : "connected", { s }));
    client.on("suspended", () => say("suspended", { s }));
    client.on("resumed", () => say("resumed", { s }));
    client.on("disconnected", (code, reason) => say("closed", { s, code, reason }));
    client.on("lost", (type, toServer, toClient) => say("lost", { s, type, to_server: toServer, to_client: toClient }));
    client.on(Count, (message) => this.#got("Count", message));
    this.#echo(Everything, "Everything");
    this.#echo(EverythingJson, "EverythingJson");
    this.#echo(Fields, "Fields");
    this.#echo(Raw, "Raw");
    client.handle(Ask, ({ number }) => {
      if (number >= 1000n) throw new Refuse(Number(number), "no");
      return { number };
    });
    client.connect().catch(() => {}); // `disconnected` says it
  }

  #got(name: string, message: unknown): void {
    this.#say("message", { s: this.#s, name, fields: asJson(message) });
  }

  #echo<T>(type: MessageType<T>, name: string): void {
    this.client.on(type, (message) => {
      this.#got(name, message);
      this.client.send(message as Message);
    });
  }

  send(number: string, count: number, text: string): void {
    for (let index = 0n; index < BigInt(count); index++) this.client.send(Count({ number: BigInt(number) + index, text }));
  }

  async request(n: number, number: string, timeout: number): Promise<void> {
    const s = this.#s;
    try {
      const told = await this.client.request(Ask({ number: BigInt(number) }), { timeout: timeout * 1_000 });
      this.#say("answer", { s, n, number: String(told.number) });
    } catch (error) {
      if (!(error instanceof RequestFailed)) throw error;
      this.#say("failed", { s, n, code: error.code < 256 ? error.code : 0, detail: error.detail, reason: error.reason });
    }
  }
}

/** Says that the driver is ready. Gives a function that takes a command, as a line of JSON. */
export function drive(say: Say): (line: string) => void {
  const players = new Map<number, Player>();
  say("ready", { sdk: "gatelink-typescript 0.1.0", can: ["ws", "clock", "restart"] });
  return (line) => {
    const command = JSON.parse(line);
    const player = players.get(command.s);
    if (command.do === "connect") players.set(command.s, new Player(say, command));
    else if (command.do === "send") player!.send(command.number, command.count, command.text);
    else if (command.do === "request") void player!.request(command.n, command.number, command.timeout);
    else if (command.do === "close") void player!.client.close();
    else if (command.do === "clock") seconds.clock += command.seconds;
    else if (command.do === "reset") {
      for (const { client } of players.values()) {
        client.suspend();
        void client.close();
      }
      players.clear();
      say("reset", {});
    }
  };
}
