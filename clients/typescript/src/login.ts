/** The login service over HTTP: it gives the token and the addresses for a `Client` (docs/login.md). */

import { ConfigError, GatelinkError } from "./errors.ts";
import { parseJson } from "./parse_json.ts";

const TIMEOUT = 15_000;
/** Characters of a reply; a list of 1,000 gateways has about 200,000. */
const MAX_REPLY = 1_048_576;

/** A successful login. */
export interface LoginReply {
  readonly uid: bigint;
  /** A secret, to be used once and soon. */
  readonly token: string;
  /** Unix milliseconds at which the token ends; 0: never. */
  readonly expiresAt: number;
  /** The gateway's address for each transport it has, as `wss`. */
  readonly addresses: Readonly<Record<string, string>>;
}

/** A gateway. */
export interface ServerEntry {
  readonly id: bigint;
  readonly name: string;
  readonly addresses: Readonly<Record<string, string>>;
  /** It takes players. */
  readonly open: boolean;
}

/** Why the login service refused (docs/login.md, "Errors"). */
export type LoginCode =
  | "malformed-body"
  | "bad-request"
  | "wrong-credentials"
  | "client-too-old"
  | "no-such-path"
  | "no-such-method"
  | "too-slow"
  | "name-taken"
  | "no-json"
  | "too-large"
  | "too-large-head"
  | "invalid-body"
  | "invalid-credential"
  | "too-many-tries"
  | "too-many-requests"
  | "internal-error"
  | "busy"
  | "timeout"
  | "engine-unavailable"
  | "accounts-unavailable"
  | "no-gateway"
  | "unhealthy";

/** The service refused, can't be reached, or is no login service. */
export class LoginFailed extends GatelinkError {
  /** Of HTTP; 0 without an answer. */
  readonly status: number;
  /** Of the problem (RFC 9457), as `wrong-credentials`; "" without one. A newer service may have others. */
  readonly code: LoginCode | (string & {});
  /** Milliseconds to wait before the next try; undefined if the answer has none. */
  readonly retryAfter: number | undefined;

  constructor(text: string, status = 0, code = "", retryAfter?: number, options?: ErrorOptions) {
    super(text, options);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Whether another try may succeed: there was no answer, or the service asks to wait. */
  get isPassing(): boolean {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** Which of the user's devices logs in, 0 to 255; a login ends the older tokens of that slot. */
export interface LoginOptions {
  readonly slot?: number;
  readonly signal?: AbortSignal;
}

/** Requests to the login service at `url`. Every method rejects with LoginFailed. No redirect is followed. */
export class LoginService {
  readonly #url: string;

  /** Throws ConfigError for a url that is not http:// or https:// and a host. */
  constructor(url: string) {
    let parsed: URL | undefined;
    try {
      parsed = new URL(url);
    } catch {
      // reported below
    }
    if (!parsed?.host || !/^https?:$/.test(parsed.protocol) || parsed.username) {
      throw new ConfigError("the login service's URL is none; write it as https://login.example.com");
    }
    this.#url = (parsed.origin + parsed.pathname).replace(/\/+$/, "");
  }

  /** Makes an account, and logs in to it. */
  register(user: string, password: string, options?: LoginOptions): Promise<LoginReply> {
    return this.#login("register", { user, password }, options);
  }

  /** For wrong credentials, `code` of the error is `wrong-credentials`. */
  login(user: string, password: string, options?: LoginOptions): Promise<LoginReply> {
    return this.#login("login", { user, password }, options);
  }

  /** Logs in by a device's secret (see `deviceId`). The first login makes the account. */
  guest(deviceId: string, options?: LoginOptions): Promise<LoginReply> {
    return this.#login("guest", { device_id: deviceId }, options);
  }

  /** Logs in by an ID token of an OpenID Connect issuer. The first login makes the account. */
  oidc(idToken: string, { nonce, ...options }: LoginOptions & { nonce?: string } = {}): Promise<LoginReply> {
    return this.#login("oidc", { id_token: idToken, ...(nonce === undefined ? {} : { nonce }) }, options);
  }

  /** Ends the token. Open sessions live on. */
  async logout(token: string): Promise<void> {
    await this.#ask("POST", "logout", { token });
  }

  /** The gateways that are known. */
  async servers(): Promise<ServerEntry[]> {
    const found = await this.#ask("GET", "servers");
    if (!Array.isArray(found)) throw this.#noAnswer("servers");
    return found.map((entry: Record<string, unknown> | null) => {
      const { id, name, addresses, open } = entry ?? {};
      if (!isWhole(id) || !isObject(addresses)) throw this.#noAnswer("servers");
      return { id: BigInt(id), name: String(name), addresses, open: open === true };
    });
  }

  async #login(path: string, body: Record<string, string>, options: LoginOptions = {}): Promise<LoginReply> {
    const reply = (await this.#ask("POST", path, { ...body, slot: options.slot ?? 0 }, options.signal)) as Record<string, unknown> | null;
    const { uid, token, expires_at, addresses } = reply ?? {};
    if (!isWhole(uid) || typeof token !== "string" || !isObject(addresses)) throw this.#noAnswer(path);
    return { uid: BigInt(uid), token, expiresAt: Number(expires_at ?? 0) * 1_000, addresses };
  }

  async #ask(method: string, path: string, body?: object, signal?: AbortSignal): Promise<unknown> {
    const url = `${this.#url}/v1/${path}`;
    const deadline = AbortSignal.timeout(TIMEOUT);
    let response: Response;
    let text: string;
    try {
      response = await fetch(url, {
        method,
        redirect: "error",
        credentials: "omit",
        cache: "no-store",
        referrerPolicy: "no-referrer",
        signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
        ...(body && { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
      });
      text = await limitedText(response);
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof LoginFailed) throw error;
      const hint = "is the service there, and may this page ask it (login.origins)?";
      throw new LoginFailed(`${method} ${url}: no answer: ${error}; ${hint}`, 0, "", undefined, { cause: error });
    }
    let found: unknown;
    try {
      found = text ? parseJson(text) : undefined;
    } catch {
      if (response.ok) throw this.#noAnswer(path);
    }
    if (response.ok) return found;
    const { detail, code } = (found ?? {}) as { detail?: unknown; code?: unknown };
    const after = /^\d{1,9}$/.exec(response.headers.get("retry-after") ?? "");
    throw new LoginFailed(
      `${method} ${url}: ${response.status} ${typeof detail === "string" ? detail : response.statusText}`,
      response.status,
      typeof code === "string" ? code : "",
      after ? Number(after[0]) * 1_000 : undefined,
    );
  }

  #noAnswer(path: string): LoginFailed {
    return new LoginFailed(`${this.#url}/v1/${path}: no answer of a login service; is this its address?`, 200);
  }
}

async function limitedText(response: Response): Promise<string> {
  if (!response.body) return "";
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    text += decoder.decode(value, { stream: true });
    if (text.length > MAX_REPLY) {
      await reader.cancel();
      throw new LoginFailed(`a reply of more than ${MAX_REPLY} characters; is this a login service's address?`, response.status);
    }
  }
}

/**
 * This device's secret for `LoginService.guest`, made once and kept in `storage`.
 *
 * Throws ConfigError where nothing can be stored, as with cookies switched off: a new secret each time would be a new
 * account each time. Then keep one yourself, or let the user log in.
 */
export function deviceId(name = "gatelink.device", storage?: Pick<Storage, "getItem" | "setItem">): string {
  try {
    const store = storage ?? localStorage;
    let id = store.getItem(name);
    if (!id) {
      id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
      store.setItem(name, id);
    }
    return id;
  } catch (error) {
    throw new ConfigError("there is no storage to keep the device's secret in; keep one yourself, or log in by a password", { cause: error });
  }
}

function isWhole(value: unknown): value is number | bigint {
  return Number.isSafeInteger(value) || typeof value === "bigint";
}

function isObject(value: unknown): value is Record<string, string> {
  return typeof value === "object" && value !== null;
}
