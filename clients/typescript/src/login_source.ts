/** Where a client gets its logins from: it asks the application for tokens, for logins, and for the list of servers. */

import { ConfigError, ConnectError } from "./errors.ts";
import type { LoginReply } from "./login.ts";
import type { ClientOptions } from "./options.ts";

/** Between two questions whether the gateway of a suspended session is still there. */
const CHECK_MS = 3_000;
/** For a token, or the list of servers; `LoginService` gives up as soon. */
const TOKEN_MS = 15_000;
/** Characters; servers take 1,000 bytes. */
const MAX_TOKEN = 16_000;

interface Login {
  readonly address: string;
  readonly uid: bigint;
  readonly token: string;
  /** 0: not known. */
  readonly expiresAt: number;
}

export class LoginSource {
  readonly #options: ClientOptions;
  #gateway: LoginReply["addresses"] | undefined; // the addresses that the login gave
  #checkedAt = -Infinity; // a page may have been loaded just now: `performance.now` begins at 0
  #stop: () => void = () => {};

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** The next login; address: where to log in with a token. Throws what the application throws, ConfigError and ConnectError. */
  async login(address: string): Promise<Login> {
    const options = this.#options;
    if ("getToken" in options) {
      const token = await this.#inTime(async () => options.getToken());
      if (typeof token !== "string" || token.length > MAX_TOKEN) throw new ConfigError(`getToken must give a string of up to ${MAX_TOKEN} characters`);
      return { address, uid: options.uid, token, expiresAt: 0 };
    }
    const { uid, token, expiresAt, addresses } = await this.#inTime(options.login);
    const found = addresses["wss"] ?? addresses["ws"];
    if (!found) throw new ConnectError(`the gateway has no address over WebSocket; the login gave ${Object.keys(addresses).join(", ") || "none"}`);
    this.#gateway = addresses;
    return { address: found, uid, token, expiresAt };
  }

  /** Whether the suspended session's gateway is no longer listed, and another one is. Then nothing can resume the session. */
  async isGatewayGone(): Promise<boolean> {
    const now = performance.now();
    const ask = "servers" in this.#options ? this.#options.servers : undefined;
    if (!ask || now - this.#checkedAt < CHECK_MS) return false;
    this.#checkedAt = now;
    try {
      const servers = await this.#inTime(ask);
      const ours = JSON.stringify(sorted(this.#gateway));
      return servers.some(({ open }) => open) && !servers.some(({ addresses }) => JSON.stringify(sorted(addresses)) === ours);
    } catch {
      return false; // the network of this side may be at fault
    }
  }

  /** Ends the question to the application that is under way: the client leaves. */
  stop(): void {
    this.#stop();
  }

  /** What a function of the application gives. Throws ConnectError if that takes too long, or the client leaves meanwhile. */
  async #inTime<T>(call: () => Promise<T>): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      this.#stop = () => reject(new ConnectError("the client has left"));
      timer = setTimeout(() => reject(new ConnectError(`no token or servers within ${TOKEN_MS} ms`)), TOKEN_MS);
    });
    try {
      return await Promise.race([call(), late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

function sorted(addresses: Readonly<Record<string, string>> | undefined): [string, string][] {
  return Object.entries(addresses ?? {}).sort();
}
