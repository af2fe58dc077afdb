/**
 * One user at a server or cluster, over any number of sessions and connections.
 *
 * A connection that breaks is resumed, and nothing is lost. If that is not possible, the client logs in again and begins a
 * new session. It ends after `close`, a newer login, a kick, a refusal, or too many attempts in vain.
 */

import { delay, MAX_TIMER, type Backoff } from "./backoff.ts";
import { openBody } from "./body.ts";
import type { Bytes } from "./bytes.ts";
import { Feature } from "./control.ts";
import { Emitter } from "./emitter.ts";
import {
  CloseCode,
  ConfigError,
  ConnectError,
  GatelinkError,
  LocalError,
  MessageTooLarge,
  ProtocolError,
  RequestCode,
  RequestFailed,
  SessionClosed,
} from "./errors.ts";
import type { ClientEvents, Reason, State } from "./events.ts";
import { encodeFrame, REQUEST, type Frame } from "./frames.ts";
import { logIn, resume, type Offer } from "./handshake.ts";
import { Link } from "./link.ts";
import { LoginFailed } from "./login.ts";
import { LoginSource } from "./login_source.ts";
import { typeOf, type Message, type MessageType, type Request } from "./messages.ts";
import { isOffline, watchNetwork } from "./network.ts";
import { check, LIMITS, type ClientLimits, type ClientOptions, type RequestOptions, type SendOptions } from "./options.ts";
import { Outbox, OutboxFull, type Full, type Key } from "./outbox.ts";
import { Renewal } from "./renewal.ts";
import { within } from "./requests.ts";
import { canProve } from "./resume.ts";
import { Session, type End, type Receiver } from "./session.ts";
import { follow } from "./target.ts";
import { Waiters } from "./waiters.ts";

const FEATURES = Feature.PING | Feature.REQUESTS | Feature.RENEWAL | Feature.LOSSES;

/** Codes of a CLOSE that leave a session that can be resumed. */
const DETACHING: ReadonlySet<CloseCode> = new Set([CloseCode.HEARTBEAT_TIMEOUT, CloseCode.SLOW_CONSUMER, CloseCode.GOING_AWAY]);

/** Codes of a session's end after which the client logs in again. All others are final. */
const RESTARTING: ReadonlySet<CloseCode> = new Set([
  ...DETACHING,
  CloseCode.RESUME_REFUSED,
  CloseCode.TOKEN_EXPIRED,
  CloseCode.UNEXPLAINED,
]);

/** Codes of a refused attempt after which the next one may succeed. */
const PASSING: ReadonlySet<CloseCode> = new Set([
  ...DETACHING,
  CloseCode.VERIFY_TIMEOUT,
  CloseCode.SERVER_FULL,
  CloseCode.INTERNAL_ERROR,
]);

/** Milliseconds. If the server ends a connection sooner, the delays go on growing: the next connection may end the same way. */
const SHORT_LIFE = 5_000;
/** Attempts in a row whose answers broke the protocol, after which the client ends. */
const MOST_PROTOCOL_ERRORS = 3;
/** The delays between attempts to resume, unless `reconnect` has shorter ones: other clients wait for nothing there. */
const RESUMING = { first: 250, most: 5_000 };
/** Between two attempts while the browser says that it is offline. Some say so where there is a network. */
const OFFLINE_MS = 30_000;

const SUSPENDED: Reason = { code: CloseCode.GOING_AWAY, text: "suspended by the application" };
const OFFLINE: Reason = { code: CloseCode.GOING_AWAY, text: "the browser is offline" };

/** The public client. The loop of `#live` connects again and again; `Session` and `Outbox` have what outlives a connection. */
export class Client {
  readonly #options: ClientOptions;
  readonly #limits: ClientLimits;
  readonly #backoff: Backoff;
  readonly #resuming: Pick<Backoff, "first" | "most">;
  readonly #offer: Offer;
  readonly #events = new Emitter<ClientEvents>();
  readonly #handlers = new Map<number, { type: MessageType<unknown>; handlers: Set<(message: never) => unknown> }>();
  readonly #answerers = new Map<number, { type: MessageType<unknown>; handler: (request: never) => unknown }>();
  readonly #outbox: Outbox;
  readonly #source: LoginSource;
  readonly #waiters = new Waiters();
  #state: State = "disconnected";
  #reason: Reason = { code: CloseCode.NORMAL, text: "not connected yet" };
  #life: object | undefined; // of this `connect`, until the client ends
  #loop: Promise<void> = Promise.resolve();
  #isSuspended = false;
  #isClosing = false;
  #hasEnded = false;
  #uid = 0n;
  #session: Session | undefined;
  #renewal: Renewal | undefined;
  #dialing: Link | undefined;
  #address = ""; // where a session is resumed, or begun with a token
  #resumeUntil = 0;
  #connectedAt = 0;
  #hadSession = false;
  #unconfirmed = 0;
  #failures = 0; // logins in a row
  #resumes = 0; // failed attempts to resume this session
  #protocolErrors = 0;
  #shortLives = 0;
  #leave: { at: number; isSpread: boolean; timer: ReturnType<typeof setTimeout> | undefined } | undefined;
  #connectionEnded: (end: End) => void = () => {};
  #endSleep: () => void = () => {};

  /** Throws ConfigError for options that can't work, and where there is no WebSocket. */
  constructor(options: ClientOptions) {
    check(options);
    const { slot = 0, appVersion = "", reconnect, limits, scrambleKey } = options;
    if ("address" in options) {
      this.#uid = options.uid;
      this.#address = options.address;
    }
    this.#options = options;
    this.#source = new LoginSource(options);
    this.#limits = { ...LIMITS, ...limits };
    this.#backoff = { first: 500, most: 30_000, attempts: 20, ...reconnect };
    const { first, most } = this.#backoff;
    this.#resuming = { first: Math.min(RESUMING.first, first), most: Math.min(RESUMING.most, most) };
    this.#outbox = new Outbox(this.#limits);
    this.#offer = { features: FEATURES | (canProve() ? Feature.RESUME : 0), slot, appVersion, scrambleKey };
  }

  get state(): State {
    return this.#state;
  }

  get reason(): Reason {
    return this.#reason;
  }

  /** The user; 0n before the first login at a login service. */
  get uid(): bigint {
    return this.#uid;
  }

  /** Milliseconds of a round trip, smoothed; undefined while it is not measured. */
  get rtt(): number | undefined {
    return this.#session?.rtt;
  }

  /** Whether the session outlives its connection. Not over `ws://`, unless the server allows it; nor without WebCrypto. */
  get isResumable(): boolean {
    return this.#session?.ticket !== undefined;
  }

  /** What waits to be sent, and what the queue's policies have dropped since the start. */
  get queue(): { readonly frames: number; readonly bytes: number; readonly dropped: number } {
    return { frames: this.#outbox.count, bytes: this.#outbox.bytes, dropped: this.#outbox.dropped };
  }

  /** Calls `handler` for an event, or for each message of a type, in order. Returns a function that takes it off again. */
  on<Name extends keyof ClientEvents>(event: Name, handler: ClientEvents[Name]): () => void;
  on<T>(type: MessageType<T>, handler: (message: T) => void): () => void;
  on(what: unknown, handler: unknown): () => void {
    if (typeof what === "string") return this.#events.add(what as keyof ClientEvents, handler as () => void);
    const type = what as MessageType<unknown>;
    const entry = this.#handlers.get(type.id) ?? { type, handlers: new Set() };
    if (entry.type !== type) throw new LocalError(`message ${type.id} is ${entry.type.label} and ${type.label}; an id has one type`);
    this.#handlers.set(type.id, entry);
    entry.handlers.add(handler as (message: never) => unknown);
    return () => void entry.handlers.delete(handler as (message: never) => unknown);
  }

  /**
   * Answers the server's requests of a type with what `handler` gives: the fields of the answer. It may throw `Refuse`.
   * Returns a function that takes the handler off again.
   */
  handle<T, Answer>(
    type: MessageType<T> & { readonly answer: () => MessageType<Answer> },
    handler: (request: T) => Answer | Promise<Answer>,
  ): () => void {
    if (this.#answerers.has(type.id)) throw new LocalError(`${type.label} has a handler already`);
    this.#answerers.set(type.id, { type, handler });
    return () => void this.#answerers.delete(type.id);
  }

  /**
   * Connects, and stays connected. Resolves when there is a session.
   *
   * Rejects if the client ends first: with ConnectError, whose `cause` is the last failure.
   */
  connect(): Promise<void> {
    if (this.#state === "connected") return Promise.resolve();
    const connected = this.#waiters.connect();
    this.#isSuspended = false;
    if (this.#life) this.#endSleep();
    else {
      const life = (this.#life = {});
      this.#isClosing = this.#hasEnded = false;
      this.#loop = this.#loop.then(() => this.#live(life));
    }
    return connected;
  }

  /**
   * Queues a message; never blocks. It leaves with everything else of this turn of the loop. While there is no connection
   * it waits, in order, within the limits.
   *
   * Throws SessionClosed if the client has ended, or ends because too much waits; InvalidMessage; MessageTooLarge.
   */
  send(message: Message, { key, full = "close" }: SendOptions = {}): void {
    const type = typeOf(message);
    this.#push(this.#frame(type, message), full, key);
  }

  /**
   * Sends a request, and gives its answer. It keeps its place among the messages of `send`.
   *
   * Rejects with RequestFailed, whose `code` says why; with the reason of `signal`; and with what `send` throws.
   */
  request<Answer>(message: Request<Answer>, { timeout = 10_000, signal }: RequestOptions = {}): Promise<Answer> {
    return within<Answer>(timeout, signal, ({ resolve, reject }) => {
      const type = typeOf(message as unknown as Message);
      if (!type.answer) throw new LocalError(`${type.label} is no request; define it with request(...)`);
      const answer = type.answer();
      const ask = (): void => {
        const session = this.#session;
        if (!session) return reject(new RequestFailed(RequestCode.CLOSED, "the client has ended"));
        if (!(session.features & Feature.REQUESTS)) return reject(new RequestFailed(RequestCode.UNSUPPORTED, "the server knows no requests"));
        let tag: number | undefined;
        try {
          tag = session.requests.add({ answer, resolve, reject });
          this.#push(this.#frame(type, message as unknown as Message, REQUEST, tag), "close");
        } catch (error) {
          if (tag !== undefined) session.requests.remove(tag);
          reject(error);
        }
      };
      this.#checkOpen();
      if (this.#session) return ask();
      return this.#waiters.ask(ask);
    });
  }

  /** Resolves when all queued messages have been handed to the socket. Rejects with SessionClosed if the client ends first. */
  async drain(): Promise<void> {
    this.#checkOpen();
    if (this.#state !== "connected" || this.#outbox.count) await this.#waiters.drain();
  }

  /** Leaves the connection without ending the session, as an app in the background should, until `wake`. */
  suspend(): void {
    if (!this.#life || this.#isSuspended) return;
    this.#isSuspended = true;
    this.#leaveConnection(SUSPENDED.text);
    this.#become("disconnected", SUSPENDED);
  }

  /** Ends `suspend`: connects again, and resumes the session if it still can. */
  wake(): void {
    if (!this.#isSuspended) return;
    this.#isSuspended = false;
    this.#endSleep();
  }

  /** Ends the session: queued messages are delivered first, if there is a connection. Resolves when nothing is left of it. */
  async close(reason = ""): Promise<void> {
    if (!this.#life || this.#isClosing) return;
    this.#isClosing = true;
    const session = this.#session;
    if (session && this.#state === "connected") await session.close(CloseCode.NORMAL, reason, this.#limits.closeTimeout);
    this.#finish(CloseCode.NORMAL, reason);
  }

  // -- one connection after the other --

  async #live(life: object): Promise<void> {
    this.#failures = this.#protocolErrors = this.#shortLives = 0;
    if (!canProve()) {
      const text = "crypto.subtle is missing, as on pages of http:// that are not localhost: sessions can't be resumed here";
      this.#events.emit("error", new ConfigError(text));
    }
    const unwatch = watchNetwork(
      () => this.#leaveConnection(OFFLINE.text),
      () => {
        this.#session?.check();
        this.#endSleep();
      },
    );
    let wait = 0;
    let isFirst = true;
    while (this.#life === life) {
      if (this.#isSuspended) {
        this.#become("disconnected", SUSPENDED);
        await this.#sleep(Infinity);
        wait = 0;
        continue;
      }
      this.#become("connecting", isOffline() ? OFFLINE : this.#reason);
      if (isOffline() && !isFirst) wait = OFFLINE_MS;
      isFirst = false;
      if (wait > 0) await this.#sleep(wait);
      wait = 0;
      if (this.#life !== life || this.#isSuspended) continue;
      try {
        const end = await this.#open();
        if (this.#life === life) wait = this.#afterEnd(end);
      } catch (error) {
        if (this.#life === life && !this.#isSuspended && !isOffline()) wait = await this.#afterFailure(error);
      }
    }
    unwatch();
  }

  /** Resumes the session or begins one. Gives the end of the connection. Throws if there was none. */
  #open(): Promise<End> {
    const session = this.#session;
    if (session?.ticket && performance.now() < this.#resumeUntil) return this.#resume(session);
    this.#dropSession();
    return this.#begin();
  }

  async #resume(session: Session): Promise<End> {
    const proof = await session.prove();
    const [link, received] = await this.#dial(this.#address, (link) => resume(link, this.#offer, session.features, proof));
    return this.#attach(session, link, true, () => {
      this.#outbox.acknowledge(received);
      this.#become("connected", { code: CloseCode.NORMAL, text: "resumed" });
      this.#events.emit("resumed");
    });
  }

  async #begin(): Promise<End> {
    const life = this.#life;
    const { address, uid, token, expiresAt } = await this.#source.login(this.#address);
    if (this.#life !== life) throw new ConnectError("the client has ended");
    const [link, { features, ticket }] = await this.#dial(address, (link) => logIn(link, this.#offer, uid, token));
    const session = new Session(features, ticket, this.#outbox, this.#receiver(), this.#limits);
    this.#uid = uid;
    this.#address = ticket ? follow(ticket.address, address) : address;
    this.#session = session;
    const failed = (error: unknown): void => void this.#events.emit("error", error);
    this.#renewal = new Renewal(async () => (await this.#source.login(this.#address)).token, (record) => session.control(record), failed);
    if (expiresAt > Date.now()) this.#renewal.expiresIn(expiresAt - Date.now());
    return this.#attach(session, link, false, () => {
      const restarted = this.#hadSession;
      this.#hadSession = true;
      this.#become("connected", { code: CloseCode.NORMAL, text: "logged in" });
      this.#events.emit("connected", { uid, restarted, unconfirmed: this.#unconfirmed });
      this.#unconfirmed = 0;
      this.#waiters.begun();
    });
  }

  #attach(session: Session, link: Link, isResumed: boolean, tell: () => void): Promise<End> {
    const over = new Promise<End>((resolve) => (this.#connectionEnded = resolve));
    this.#connectedAt = performance.now();
    try {
      tell();
    } catch (error) {
      link.drop();
      throw error;
    }
    this.#failures = this.#resumes = this.#protocolErrors = 0;
    this.#waiters.connected();
    if (this.#life && !this.#isSuspended && !this.#isClosing) {
      session.attach(link, isResumed);
      this.#renewal?.attached();
    } else {
      link.drop();
      this.#connectionEnded({ code: CloseCode.GOING_AWAY, reason: "left at once", isByPeer: false });
    }
    return over;
  }

  /** Opens a link, and logs in or resumes on it with `use`. Both must be done within `connectTimeout`. */
  async #dial<T>(address: string, use: (link: Link) => Promise<T>): Promise<[Link, T]> {
    if (!this.#life || this.#isSuspended) throw new ConnectError("the client has left");
    const { connectTimeout, maxFrame } = this.#limits;
    let link: Link;
    try {
      link = new Link(address, maxFrame);
    } catch (error) {
      throw new ConfigError(`${address}: ${(error as Error).message}`, { cause: error });
    }
    this.#dialing = link;
    const timer = setTimeout(() => link.drop(CloseCode.NORMAL, `not verified within ${connectTimeout} ms`), connectTimeout);
    try {
      return [link, await use(link)];
    } catch (error) {
      link.drop();
      if (error instanceof GatelinkError) error.message = `${address}: ${error.message}`;
      throw error;
    } finally {
      clearTimeout(timer);
      this.#dialing = undefined;
    }
  }

  /** Milliseconds to wait before the next attempt, after a connection has ended. */
  #afterEnd(end: End): number {
    const leave = this.#leave;
    clearTimeout(leave?.timer);
    this.#leave = undefined;
    const { code, reason, isByPeer, error } = end;
    const session = this.#session;
    if (error || (isByPeer && !RESTARTING.has(code))) {
      this.#finish(code, reason, error);
      return 0;
    }
    const now = performance.now();
    const isSuspect = isByPeer || leave !== undefined || (code === CloseCode.UNEXPLAINED && !session?.ticket);
    this.#shortLives = isSuspect && now - this.#connectedAt < SHORT_LIFE ? this.#shortLives + 1 : 0;
    this.#resumeUntil = now + (session?.ticket?.window ?? 0) * 1_000;
    if (!session?.ticket || (isByPeer && !DETACHING.has(code))) this.#dropSession();
    this.#reason = { code, text: reason };
    this.#events.emit("suspended", this.#reason);
    const wait = delay(this.#session ? this.#resuming : this.#backoff, Math.max(0, this.#shortLives - 1));
    if (!leave) return wait;
    // The server said when. If that is "at once", or again and again, all its clients would dial without a pause.
    const rest = Math.max(0, leave.at - now);
    return leave.isSpread && this.#shortLives < 2 ? rest : Math.max(rest, wait);
  }

  /** Milliseconds to wait before the next attempt, after one that failed. */
  async #afterFailure(error: unknown): Promise<number> {
    const code = error instanceof ConnectError || error instanceof ProtocolError ? error.code : undefined;
    const text = error instanceof Error ? error.message : String(error);
    this.#events.emit("error", error);
    const isResuming = this.#session !== undefined;
    if (error instanceof ProtocolError) {
      if (++this.#protocolErrors >= MOST_PROTOCOL_ERRORS) return this.#finish(error.code, text, error);
    } else if (isResuming && code === CloseCode.RESUME_REFUSED) {
      this.#dropSession();
      return delay(this.#backoff, 0);
    } else if (code !== undefined && !PASSING.has(code)) return this.#finish(code, text, error);
    if (error instanceof LoginFailed && !error.isPassing) return this.#finish(CloseCode.VERIFY_FAILED, text, error);
    if (error instanceof LocalError) return this.#finish(CloseCode.INTERNAL_ERROR, text, error);
    this.#reason = { code: code ?? CloseCode.UNEXPLAINED, text };
    if (isResuming) {
      if (await this.#source.isGatewayGone()) this.#dropSession();
      return delay(this.#resuming, ++this.#resumes);
    }
    if (++this.#failures >= this.#backoff.attempts) {
      return this.#finish(CloseCode.GOING_AWAY, `not connected by ${this.#failures} attempts: ${text}`, error);
    }
    if ("address" in this.#options) this.#address = this.#options.address; // the one that the server sent does not work
    return Math.max(error instanceof LoginFailed ? (error.retryAfter ?? 0) : 0, delay(this.#backoff, this.#failures + this.#shortLives));
  }

  #receiver(): Receiver {
    return {
      message: (frame) => this.#message(frame),
      answer: (frame) => this.#session?.requests.answered(frame, this.#body(frame)),
      goAway: (ms, address) => this.#goAway(ms, address),
      expiring: (seconds) => {
        this.#events.emit("tokenExpiring", seconds * 1_000);
        void this.#renewal?.now();
      },
      renewed: (result, seconds) => {
        if (result) this.#events.emit("error", new ConnectError("the server refused to renew the login"));
        this.#renewal?.answered(!result, seconds * 1_000);
      },
      lost: (...args) => void this.#events.emit("lost", ...args),
      drained: () => this.#waiters.drained(),
      ended: (end) => this.#connectionEnded(end),
    };
  }

  #message(frame: Frame): void {
    const { id } = frame;
    if (frame.flags >= REQUEST) return this.#serve(frame);
    const entry = this.#handlers.get(id);
    if (!entry?.handlers.size) return;
    const message = entry.type.decode(this.#body(frame));
    for (const handler of [...entry.handlers]) {
      try {
        handler(message as never);
      } catch (error) {
        void Promise.reject(error); // reported as any other error that nothing caught; the session goes on
      }
    }
  }

  #serve(frame: Frame): void {
    const session = this.#session;
    if (!session) return;
    session.requests.checkFree(frame.tag);
    const found = this.#answerers.get(frame.id);
    const request = found && (found.type.decode(this.#body(frame)) as never);
    const send = (reply: Bytes): void => {
      if (this.#session === session && this.#life) this.#push(reply, "close");
    };
    void session.requests.serve(frame, found && (() => found.handler(request!)), found?.type.answer, send).then((error) => {
      if (error !== undefined) throw error; // the handler's: reported as any error that nothing caught
    });
  }

  #body(frame: Frame): Bytes {
    return openBody(frame, this.#limits.maxFrame, this.#options.scrambleKey);
  }

  #goAway(within: number, address: string): void {
    clearTimeout(this.#leave?.timer);
    const ms = Math.random() * within;
    this.#address = follow(address, this.#address);
    const leave = () => this.#session?.leave("the server goes away");
    const timer = within ? setTimeout(leave, Math.min(ms, MAX_TIMER)) : undefined;
    this.#leave = { at: performance.now() + ms, isSpread: within > 0, timer };
    this.#events.emit("goingAway", within);
    if (!within) leave();
  }

  // -- its parts --

  #frame(type: MessageType<unknown>, message: unknown, kind = 0, tag = 0): Bytes {
    const frame = encodeFrame(type.id, type.encode(message), kind, tag);
    if (frame.length - 4 > this.#limits.maxMessage) {
      throw new MessageTooLarge(`${type.label} of ${frame.length - 4} bytes; the server takes ${this.#limits.maxMessage} (maxMessage)`);
    }
    return frame;
  }

  #push(frame: Bytes, full: Full, key?: Key): void {
    this.#checkOpen();
    try {
      this.#outbox.push(frame, full, key);
    } catch (error) {
      if (!(error instanceof OutboxFull)) throw error;
      try {
        this.#session?.flush(); // one turn of the loop may fill the queue of a server that reads
        this.#outbox.push(frame, full, key);
      } catch {
        this.#finish(CloseCode.SLOW_CONSUMER, error.message);
        throw new SessionClosed(CloseCode.SLOW_CONSUMER, error.message);
      }
    }
    this.#session?.flushSoon();
  }

  #checkOpen(): void {
    if (this.#isClosing || this.#hasEnded) throw new SessionClosed(this.#reason.code, this.#reason.text);
  }

  #become(state: State, reason: Reason): void {
    this.#reason = reason;
    if (this.#state === state) return;
    this.#state = state;
    this.#events.emit("state", state, reason);
  }

  /** Leaves the connection, or the attempt to get one. The session can go on. */
  #leaveConnection(text: string): void {
    this.#source.stop();
    this.#dialing?.drop(CloseCode.NORMAL, text);
    this.#session?.leave(text);
    this.#endSleep();
  }

  /** The session can't be resumed: its requests get no answers, and what it had queued is for the next one. */
  #dropSession(): void {
    const session = this.#session;
    if (!session) return;
    this.#session = undefined;
    session.detach();
    session.requests.close();
    this.#renewal?.stop();
    this.#unconfirmed += this.#outbox.kept;
    this.#outbox.restart(false);
  }

  /** Ends the client. Gives 0, the wait of a caller that gives one. */
  #finish(code: CloseCode, reason: string, cause?: unknown): number {
    if (!this.#life) return 0;
    this.#life = undefined;
    this.#hasEnded = true;
    clearTimeout(this.#leave?.timer);
    this.#leave = undefined;
    this.#dropSession();
    this.#outbox.clear();
    this.#source.stop();
    this.#dialing?.drop(CloseCode.NORMAL, "the client has ended");
    this.#waiters.ended(new ConnectError(`not connected: ${reason || code}`, code, { cause }), new SessionClosed(code, reason));
    this.#connectionEnded({ code, reason, isByPeer: false });
    this.#become("disconnected", { code, text: reason });
    this.#events.emit("disconnected", code, reason);
    this.#hadSession = false;
    this.#endSleep();
    return 0;
  }

  async #sleep(ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#endSleep = resolve;
      if (ms < Infinity) timer = setTimeout(resolve, Math.min(ms, MAX_TIMER));
    });
    clearTimeout(timer);
  }
}
