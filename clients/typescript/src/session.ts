/**
 * One session over any number of links: what was sent and received, acknowledged and measured.
 *
 * The frames of one read are handled in one call. All frames of one turn of the loop leave in one WebSocket message.
 */

import { join, printable, type Bytes } from "./bytes.ts";
import {
  ACK,
  CLOSE,
  controlFrame,
  decodeControl,
  EXPIRING,
  Feature,
  GOAWAY,
  LOST,
  PING,
  PONG,
  RENEWED,
  TICKET,
  type Control,
  type Ticket,
} from "./control.ts";
import { closeCode, CloseCode, ProtocolError } from "./errors.ts";
import { ANSWER, CONTROL, encodeFrame, isFramework, type Frame } from "./frames.ts";
import type { Link } from "./link.ts";
import { Outbox } from "./outbox.ts";
import { Requests } from "./requests.ts";
import { clientMac, importKey } from "./resume.ts";
import type { Proof } from "./handshake.ts";

export const ACK_FRAMES = 64;
export const ACK_BYTES = 32_768;
const ACK_MS = 1_000;
const PONGS_PER_SECOND = 4;
const WRITE_BYTES = 65_536;
/** Between two looks at a socket that takes nothing: browsers do not say when it takes bytes again. */
const POLL_MS = 20;
/** A peer that is never silent gets a PING after so many intervals, so that `rtt` stays current. */
const MEASURE_INTERVALS = 3;
const HEARTBEAT = 4;

export interface SessionLimits {
  heartbeatInterval: number;
  heartbeatTimeout: number;
  /** Milliseconds that the server may take nothing of what is queued. */
  queueAge: number;
  /** Milliseconds for the answer to a PING after which a doubted connection counts as broken. */
  checkTimeout: number;
}

/** Why a session has no connection any more. */
export interface End {
  readonly code: CloseCode;
  readonly reason: string;
  /** The server said so, with CLOSE. */
  readonly isByPeer: boolean;
  readonly error?: ProtocolError;
}

/** What a session hands on. */
export interface Receiver {
  /** A message, or a REQUEST. */
  message(frame: Frame): void;
  /** An ANSWER or FAILED. */
  answer(frame: Frame): void;
  goAway(reconnectWithin: number, address: string): void;
  expiring(seconds: number): void;
  renewed(result: number, expiresIn: number): void;
  lost(server: number, toServer: number, toClient: number): void;
  /** Everything that was queued has been handed to the socket. */
  drained(): void;
  ended(end: End): void;
}

export class Session {
  /** Messages received since the session's start. */
  received = 0;
  /** Milliseconds of a round trip, smoothed; undefined before the first is measured. */
  rtt: number | undefined;
  ticket: Ticket | undefined;
  readonly features: number;
  readonly outbox: Outbox;
  readonly requests = new Requests();
  readonly #receiver: Receiver;
  readonly #limits: SessionLimits;
  #link: Link | undefined;
  #key: Promise<CryptoKey> | undefined;
  #attempt = 0;
  #controls: Bytes[] = [];
  #fresh = 0; // messages received and not acknowledged, and their bytes
  #freshBytes = 0;
  #isFlushDue = false;
  readonly #lost = new Map<number, { toServer: number; toClient: number }>();
  #pongs = { since: -Infinity, count: 0 };
  #ping = { sentAt: 0n, at: 0 }; // the PING without an answer; 0n: none
  #pingedAt = -Infinity; // the last PING or heartbeat, answered or not
  #measureAt = -Infinity; // a page may have been loaded just now: `performance.now` begins at 0
  #heardAt = 0;
  #progressAt = 0;
  #sentBefore = 0;
  #beatAt = 0;
  #checkBy = Infinity;
  #ackTimer: ReturnType<typeof setTimeout> | undefined;
  #beatTimer: ReturnType<typeof setTimeout> | undefined;
  #pollTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(features: number, ticket: Ticket | undefined, outbox: Outbox, receiver: Receiver, limits: SessionLimits) {
    this.features = features;
    this.outbox = outbox;
    this.#receiver = receiver;
    this.#limits = limits;
    outbox.restart(ticket !== undefined);
    this.#setTicket(ticket);
  }

  /** The next RESUME. It is made before the socket opens, as WebCrypto takes a turn of the loop or more. */
  async prove(): Promise<Proof> {
    const { received } = this;
    const attempt = ++this.#attempt;
    const ticket = this.ticket!;
    const key = await this.#key!;
    return { ticket, key, received, attempt, mac: await clientMac(key, ticket.sessionId, received, attempt) };
  }

  /** Goes on with `link`. isResumed: first sends again what the server has not acknowledged. */
  attach(link: Link, isResumed: boolean): void {
    if (isResumed) this.#fresh = this.#freshBytes = 0; // RESUME had the count
    this.#link = link;
    this.#controls = [];
    this.#ping = { sentAt: 0n, at: 0 };
    this.#heardAt = this.#progressAt = this.#beatAt = performance.now();
    this.#measureAt = -Infinity;
    this.#checkBy = Infinity;
    const again = isResumed ? this.outbox.unacknowledged() : [];
    if (again.length) link.write(join(again));
    void link.ended.then((end) => {
      if (this.#link !== link) return;
      this.#end({ code: end.code ?? CloseCode.UNEXPLAINED, reason: end.text, isByPeer: end.code !== undefined });
    });
    link.serve((frames, error) => {
      if (this.#link === link) this.#receive(link, frames);
      if (this.#link === link && error) this.#broken(error);
    });
    this.flushSoon();
    if (this.#link === link) this.#beat();
  }

  /** Leaves the link, as if it had broken. The session can go on with another one. */
  detach(): void {
    this.#link?.drop();
    this.#link = undefined;
    this.#checkBy = Infinity;
    clearTimeout(this.#ackTimer);
    clearTimeout(this.#beatTimer);
    clearTimeout(this.#pollTimer);
    this.#ackTimer = undefined;
  }

  /** Leaves the link as if it had broken, and says so. Frames that are due are still sent, if the path lives. */
  leave(reason: string): void {
    if (!this.#link) return;
    this.flush();
    if (this.#link) this.#end({ code: CloseCode.GOING_AWAY, reason, isByPeer: false });
  }

  /** Sends CLOSE behind everything that is queued, and ends the link. It takes `ms` at most. */
  async close(code: CloseCode, reason: string, ms: number): Promise<void> {
    const link = this.#link;
    if (!link) return;
    this.outbox.lift();
    const until = performance.now() + ms;
    while (this.outbox.count && !link.isOver && performance.now() < until) {
      this.flush();
      if (this.outbox.count) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    this.#controls.push(controlFrame({ type: CLOSE, code, reason }));
    this.flush();
    this.#link = undefined;
    this.detach();
    await link.close(code, Math.max(1, until - performance.now()));
  }

  /** Sends a control record with the next write. The record is forgotten if there is no link, or the link ends first. */
  control(record: Control): void {
    if (!this.#link) return;
    this.#controls.push(controlFrame(record));
    this.flushSoon();
  }

  /** Doubts the link: drops it if the server does not answer a PING within `checkTimeout`. */
  check(): void {
    if (!this.#link || !(this.features & Feature.PING)) return;
    this.#checkBy = Math.min(this.#checkBy, performance.now() + this.#limits.checkTimeout);
    this.#sendPing(performance.now());
    this.#beat();
  }

  flushSoon(): void {
    if (this.#isFlushDue) return;
    this.#isFlushDue = true;
    queueMicrotask(() => {
      this.#isFlushDue = false;
      this.flush();
    });
  }

  /** Writes what is due and queued, as far as the socket takes it. */
  flush(): void {
    const link = this.#link;
    while (link?.isWritable) {
      if (this.#fresh >= ACK_FRAMES || this.#freshBytes >= ACK_BYTES) this.#controls.push(this.#ack());
      const parts = [...this.#controls, ...this.outbox.take(WRITE_BYTES)];
      this.#controls = [];
      if (!parts.length) break;
      link.write(join(parts));
    }
    if (!this.outbox.count && link) this.#receiver.drained();
    clearTimeout(this.#pollTimer);
    if (link && !link.isOver && !link.isWritable && (this.outbox.count || this.#controls.length)) {
      this.#pollTimer = setTimeout(() => this.flush(), POLL_MS);
    }
  }

  #setTicket(ticket: Ticket | undefined): void {
    if (!ticket) return;
    this.ticket = ticket;
    this.#key = importKey(ticket);
    this.#key.catch(() => {}); // `prove` reports it
  }

  // -- what the server sent --

  #receive(link: Link, frames: Frame[]): void {
    this.#heardAt = performance.now();
    this.#checkBy = Infinity;
    try {
      for (const frame of frames) {
        if (this.#link !== link) return; // a handler ended it: the rest counts as not received
        if (frame.flags === CONTROL) this.#record(decodeControl(frame.body));
        else if (!isFramework(frame.id)) this.#message(frame);
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#broken(error);
    }
    if (this.#link !== link) return;
    if (this.outbox.count) this.flushSoon(); // an acknowledgement may have opened a full window
    if (this.#fresh >= ACK_FRAMES || this.#freshBytes >= ACK_BYTES || this.#controls.length) this.flushSoon();
    else if (this.#fresh && !this.#ackTimer && this.ticket) {
      this.#ackTimer = setTimeout(() => {
        this.#ackTimer = undefined;
        if (this.#fresh) this.#controls.push(this.#ack());
        this.flush();
      }, ACK_MS);
    }
  }

  #message(frame: Frame): void {
    this.received++;
    if (this.ticket) {
      this.#fresh++;
      this.#freshBytes += frame.body.length;
    }
    if (frame.flags >= ANSWER) this.#receiver.answer(frame);
    else this.#receiver.message(frame);
  }

  #record(record: Control | undefined): void {
    switch (record?.type) {
      case undefined:
        return;
      case ACK:
        return this.outbox.acknowledge(record.received);
      case PING:
        this.outbox.acknowledge(record.received);
        return this.#answerPing(record.sentAt);
      case PONG:
        this.outbox.acknowledge(record.received);
        if (record.sentAt && record.sentAt === this.#ping.sentAt) {
          const rtt = performance.now() - this.#ping.at;
          this.rtt = this.rtt === undefined ? rtt : this.rtt + (rtt - this.rtt) / 8;
          this.#ping = { sentAt: 0n, at: 0 };
        }
        return;
      case CLOSE:
        return this.#end({ code: closeCode(record.code), reason: printable(record.reason), isByPeer: true });
      case TICKET:
        if (this.ticket) return this.#setTicket(record);
        break;
      case GOAWAY:
        return this.#receiver.goAway(record.reconnectWithin, record.address);
      case EXPIRING:
        if (this.features & Feature.RENEWAL) return this.#receiver.expiring(record.seconds);
        break;
      case RENEWED:
        if (this.features & Feature.RENEWAL) return this.#receiver.renewed(record.result, record.expiresIn);
        break;
      case LOST:
        if (this.features & Feature.LOSSES) return this.#noteLoss(record.server, record.toServer, record.toClient);
        break;
    }
    throw new ProtocolError(`control record ${record!.type} from a server that may not send it now`);
  }

  #noteLoss(server: number, toServer: number, toClient: number): void {
    const before = this.#lost.get(server) ?? { toServer: 0, toClient: 0 };
    this.#lost.set(server, { toServer, toClient });
    if (toServer < before.toServer || toClient < before.toClient) throw new ProtocolError("a LOST with smaller numbers than the one before");
    if (toServer > before.toServer || toClient > before.toClient) {
      this.#receiver.lost(server, toServer - before.toServer, toClient - before.toClient);
    }
  }

  #answerPing(sentAt: bigint): void {
    const now = performance.now();
    if (now - this.#pongs.since >= 1_000) this.#pongs = { since: now, count: 0 };
    if (this.#pongs.count++ >= PONGS_PER_SECOND) return;
    this.#controls.push(controlFrame({ type: PONG, sentAt, received: this.#count(), serverTime: 0n }));
  }

  #ack(): Bytes {
    return controlFrame({ type: ACK, received: this.#count() });
  }

  /** The count for a record that is sent now. */
  #count(): bigint {
    this.#fresh = this.#freshBytes = 0;
    return BigInt(this.received);
  }

  #broken(error: ProtocolError): void {
    const link = this.#link;
    if (!link) return;
    link.write(join([...this.#controls, controlFrame({ type: CLOSE, code: error.code, reason: "" })]));
    this.#controls = [];
    this.#end({ code: error.code, reason: error.message, isByPeer: false, error });
  }

  #end(end: End): void {
    this.detach();
    this.#receiver.ended(end);
  }

  // -- heartbeats --

  #beat(): void {
    clearTimeout(this.#beatTimer);
    if (!this.#link) return;
    const now = performance.now();
    const { heartbeatInterval, heartbeatTimeout, queueAge } = this.#limits;
    if (now - this.#beatAt > heartbeatInterval + 2_000) {
      // The page was frozen or the machine slept. Messages that arrived meanwhile are handled after this.
      this.#heardAt = this.#progressAt = now;
      this.#checkBy = now + this.#limits.checkTimeout;
      this.#sendPing(now);
    }
    this.#beatAt = now;
    const silent = now - this.#heardAt;
    if (!this.outbox.count || this.outbox.sent !== this.#sentBefore) this.#progressAt = now;
    this.#sentBefore = this.outbox.sent;
    if (silent >= heartbeatTimeout || now >= this.#checkBy) {
      return this.#end({ code: CloseCode.HEARTBEAT_TIMEOUT, reason: `silent for ${Math.round(silent)} ms`, isByPeer: false });
    }
    if (now - this.#progressAt >= queueAge) {
      return this.#end({ code: CloseCode.SLOW_CONSUMER, reason: "the server took none of the queued messages", isByPeer: false });
    }
    const patience = ACK_MS + 4 * (this.rtt ?? 0);
    const isDoubtful = this.outbox.kept > 0 && silent > patience && now - this.#pingedAt > patience;
    if (!(this.features & Feature.PING)) {
      if (now - this.#pingedAt >= heartbeatInterval) {
        this.#pingedAt = now;
        this.#controls.push(encodeFrame(HEARTBEAT, new Uint8Array(0)));
        this.flushSoon();
      }
    } else if (isDoubtful || now >= this.#measureAt || (silent >= heartbeatInterval && now - this.#pingedAt >= heartbeatInterval)) {
      this.#sendPing(now);
    }
    const next = Math.min(
      heartbeatInterval,
      Math.max(this.outbox.kept ? ACK_MS : 250, heartbeatInterval - silent),
      this.outbox.kept ? ACK_MS : Infinity,
      Math.max(1, this.#checkBy - now),
      Math.max(250, heartbeatTimeout - silent),
    );
    this.#beatTimer = setTimeout(() => this.#beat(), next);
  }

  #sendPing(now: number): void {
    this.#pingedAt = now;
    this.#measureAt = now + MEASURE_INTERVALS * this.#limits.heartbeatInterval;
    // An unanswered PING is repeated, so that its PONG measures from the first one.
    if (!this.#ping.sentAt) this.#ping = { sentAt: BigInt(Math.max(1, Math.round(now * 1_000))), at: now };
    this.#controls.push(controlFrame({ type: PING, sentAt: this.#ping.sentAt, received: this.#count() }));
    this.flushSoon();
  }
}
