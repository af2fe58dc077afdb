/** A real server behind a chaos proxy, and clients of it. */

import { Client, type ClientEvents, type ClientOptions } from "../../src/index.ts";
import { Python } from "../python.ts";

export interface ServerState {
  heard: number[];
  opened: number;
  ended: number[];
  connections: number;
  breaks: number;
  answers: unknown[];
  state: string | null;
  kept: number;
  expires_in: number;
}

export interface Settings {
  limits?: Record<string, number>;
  wire?: Record<string, unknown>;
  warn?: number;
  resume?: boolean;
  /** Seconds that tokens of its login service live; without it there is no login service. */
  login?: number;
  seed?: number;
  /** Mean bytes between two resets of a connection, by direction. */
  breaks?: Record<string, number>;
}

export class TestServer {
  readonly #python: Python;
  readonly address: string;
  /** The URL of its login service, if it has one. */
  readonly login: string;

  private constructor(python: Python, started: { address: string; login: string }) {
    this.#python = python;
    this.address = started.address;
    this.login = started.login;
  }

  static async start(settings: Settings = {}): Promise<TestServer> {
    const python = new Python("server", JSON.stringify(settings));
    return new TestServer(python, await python.line<{ address: string; login: string }>());
  }

  do(command: string, args: object = {}): Promise<unknown> {
    return this.#python.ask({ do: command, ...args });
  }

  state(uid: bigint): Promise<ServerState> {
    return this.#python.ask<ServerState>({ do: "state", uid: String(uid) });
  }

  end(): Promise<void> {
    return this.#python.end();
  }
}

/** A client that is not connected yet, and what happens to it. */
export function clientOf(server: TestServer, uid: bigint, more: Partial<ClientOptions> = {}): { client: Client; log: string[] } {
  const client = new Client({
    address: server.address,
    uid,
    getToken: () => String(uid).padStart(32, "0"),
    reconnect: { first: 20, most: 200, attempts: 20 },
    ...more,
  } as ClientOptions);
  const log: string[] = [];
  for (const name of ["connected", "suspended", "resumed", "disconnected", "goingAway", "tokenExpiring", "error"] as const) {
    client.on(name, ((...args: unknown[]) => {
      log.push(name === "disconnected" ? `disconnected ${String(args[0])}` : name);
    }) as ClientEvents[typeof name]);
  }
  return { client, log };
}

/** Resolves at the next event of this name. */
export function next<Name extends keyof ClientEvents>(client: Client, name: Name): Promise<Parameters<ClientEvents[Name]>> {
  return new Promise((resolve) => {
    const off = client.on(name, ((...args: Parameters<ClientEvents[Name]>) => {
      off();
      resolve(args);
    }) as ClientEvents[Name]);
  });
}

/** Waits until `is` gives true. */
export async function until(is: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await is())) await new Promise((resolve) => setTimeout(resolve, 10));
}

export function range(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n);
}
