/** What an application says to a client: its options, and those of one message or request. */

import type { Backoff } from "./backoff.ts";
import { ConfigError } from "./errors.ts";
import type { LoginReply, ServerEntry } from "./login.ts";
import type { Full, Key, OutboxLimits } from "./outbox.ts";
import type { SessionLimits } from "./session.ts";
import { parseAddress } from "./target.ts";

export interface ClientLimits extends OutboxLimits, SessionLimits {
  /** Bytes of payload of a message to send: the server's limits.max_frame. */
  maxMessage: number;
  /** Bytes of payload of a frame from the server, and of its decompressed body. */
  maxFrame: number;
  /** Milliseconds for one dial and login. */
  connectTimeout: number;
  /** Milliseconds to deliver what is queued at `close`. */
  closeTimeout: number;
}

export const LIMITS: ClientLimits = {
  queueFrames: 8_192,
  queueBytes: 1_048_576,
  queueAge: 30_000,
  windowFrames: 1_024,
  windowBytes: 262_144,
  heartbeatInterval: 10_000,
  heartbeatTimeout: 30_000,
  checkTimeout: 5_000,
  maxMessage: 102_400,
  maxFrame: 4 * 1_048_576,
  connectTimeout: 10_000,
  closeTimeout: 5_000,
};

interface CommonOptions {
  /** Which of the user's devices this is, 0 to 255. Give the login the same slot. */
  readonly slot?: number;
  /** For the server's logs and rules. */
  readonly appVersion?: string;
  /** The delays between logins; 500 ms, doubling to 30 s, 20 attempts. A resume waits at most 250 ms, doubling to 5 s. */
  readonly reconnect?: Partial<Backoff>;
  readonly limits?: Partial<ClientLimits>;
  /** The 8 bytes of the server's key of the base cipher, if it has its own. */
  readonly scrambleKey?: Uint8Array;
}

/** How a client logs in: at a login service, which names the gateway; or with tokens from elsewhere, at a fixed address. */
export type ClientOptions = CommonOptions &
  (
    | {
        /** Called for each login, as `() => service.guest(deviceId())`. */
        readonly login: () => Promise<LoginReply>;
        /** The gateways, as `() => service.servers()`. With it a client leaves a gateway that is gone without waiting. */
        readonly servers?: () => Promise<ServerEntry[]>;
      }
    | {
        /** ws:// or wss:// and a host. */
        readonly address: string;
        readonly uid: bigint;
        /** Called for each login and renewal. */
        readonly getToken: () => string | Promise<string>;
      }
  );

export interface SendOptions {
  /** A queued message of the same key is replaced. */
  readonly key?: Key;
  /** What happens when the queue is full; "close" by default. */
  readonly full?: Full;
}

export interface RequestOptions {
  /** Milliseconds for the answer; 10,000 by default. */
  readonly timeout?: number;
  readonly signal?: AbortSignal;
}

/** Throws ConfigError for options that can't work, and where there is no WebSocket. */
export function check(options: ClientOptions): void {
  const { slot = 0 } = options;
  if (typeof WebSocket === "undefined") throw new ConfigError("there is no WebSocket here; Node has it from version 22");
  if (!Number.isInteger(slot) || slot < 0 || slot > 255) throw new ConfigError(`slot is ${slot}; a user's devices are numbered 0 to 255`);
  if ("address" in options) {
    parseAddress(options.address);
    if (typeof options.uid !== "bigint" || BigInt.asUintN(64, options.uid) !== options.uid) {
      throw new ConfigError("uid must be a bigint of 64 bits, as 7n: a number does not hold all of them");
    }
  }
}
