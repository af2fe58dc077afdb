/** A server that a test scripts byte by byte: WebSocket frames by hand, gatelink frames by the SDK's own encoders. */

import { createHash, createHmac } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { join, uint } from "../../src/bytes.ts";
import { controlFrame, decodeControl, HELLO, RESUME, TICKET, type Control } from "../../src/control.ts";
import { CONTROL, encodeFrame, FrameDecoder, type Frame } from "../../src/frames.ts";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
export const KEY = new Uint8Array(32).fill(7);
export const SESSION_ID = new Uint8Array(16).fill(8);

export class Peer {
  readonly #socket: Duplex;
  readonly #decoder = new FrameDecoder(1 << 24);
  #input = Buffer.alloc(0);
  #wake: () => void = () => {};
  isClosed = false;

  constructor(socket: Duplex) {
    this.#socket = socket;
    this.#decoder.allowsTags = true;
    socket.on("data", (data: Buffer) => this.#take(data));
    socket.on("error", () => {});
    socket.on("close", () => {
      this.isClosed = true;
      this.#wake();
    });
  }

  /** Writes a WebSocket message. */
  write(...parts: Uint8Array[]): void {
    this.#frame(0x82, join(parts));
  }

  text(words: string): void {
    this.#frame(0x81, Buffer.from(words));
  }

  close(code: number): void {
    this.#frame(0x88, Uint8Array.of(code >> 8, code & 0xff));
    this.#socket.end();
  }

  reset(): void {
    this.#socket.destroy();
  }

  async frame(): Promise<Frame> {
    for (;;) {
      const frame = this.#decoder.next();
      if (frame) return frame;
      if (this.isClosed) throw new Error("the client has closed");
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  async record(): Promise<Control> {
    const frame = await this.frame();
    if (frame.flags !== CONTROL) throw new Error(`message ${frame.id} where a record was expected`);
    return decodeControl(frame.body)!;
  }

  /** The next record of a type; others are skipped. */
  async next<T extends Control["type"]>(type: T): Promise<Extract<Control, { type: T }>> {
    for (;;) {
      const frame = await this.frame();
      const record = frame.flags === CONTROL ? decodeControl(frame.body) : undefined;
      if (record?.type === type) return record as Extract<Control, { type: T }>;
    }
  }

  async hello(features = 0x2f): Promise<void> {
    await this.record();
    this.write(controlFrame({ type: HELLO, version: 1, features: BigInt(features), slot: 0, appVersion: "" }));
  }

  /** Verifies the client's login and gives it a ticket. Returns its uid. */
  async login(address = "", features?: number): Promise<bigint> {
    await this.hello(features);
    const request = await this.frame();
    const uid = new DataView(request.body.buffer, request.body.byteOffset).getBigUint64(1, true);
    const verified = encodeFrame(2, join([0, uint(uid, 8), uint(0, 8), 0]));
    this.write(verified, controlFrame({ type: TICKET, sessionId: SESSION_ID, resumeKey: KEY, window: 60, address }));
    return uid;
  }

  /** Takes RESUME, after HELLO, and answers it. received: this side's count. */
  async resume(received: number, wrong: { mac?: Uint8Array<ArrayBuffer> } = {}): Promise<Extract<Control, { type: typeof RESUME }>> {
    await this.hello();
    const record = await this.next(RESUME);
    const signed = (side: string, count: bigint) =>
      createHmac("sha256", KEY)
        .update(join([Buffer.from(`gatelink resume ${side}`), new Uint8Array(32), SESSION_ID, uint(count, 8), uint(record.attempt, 4)]))
        .digest();
    if (!signed("c", record.received).equals(record.mac)) throw new Error("RESUME with a wrong mac");
    const mac = wrong.mac ?? Uint8Array.from(signed("s", BigInt(received)));
    this.write(controlFrame({ type: 5, received: BigInt(received), mac }));
    return record;
  }

  #frame(head: number, payload: Uint8Array): void {
    const size = payload.length;
    const length = size < 126 ? [size] : size < 65536 ? [126, size >> 8, size & 0xff] : [127, 0, 0, 0, 0, (size >>> 24) & 0xff, (size >> 16) & 0xff, (size >> 8) & 0xff, size & 0xff];
    if (!this.#socket.destroyed) this.#socket.write(join([head, ...length, payload]));
  }

  #take(data: Buffer): void {
    this.#input = Buffer.concat([this.#input, data]);
    for (;;) {
      const input = this.#input;
      if (input.length < 6) return;
      let size = input[1]! & 0x7f;
      let at = 2;
      if (size === 126) [size, at] = [input.readUInt16BE(2), 4];
      else if (size === 127) [size, at] = [Number(input.readBigUInt64BE(2)), 10];
      if (input.length < at + 4 + size) return;
      const mask = input.subarray(at, at + 4);
      const payload = Uint8Array.from(input.subarray(at + 4, at + 4 + size), (byte, i) => byte ^ mask[i % 4]!);
      this.#input = input.subarray(at + 4 + size);
      if ((input[0]! & 15) === 2) this.#decoder.push(payload);
      else if ((input[0]! & 15) === 8) this.#socket.end();
      this.#wake();
    }
  }
}

/** Each connection is handled by the next of `scripts`, the last one for all further ones. */
export class ScriptedServer {
  readonly #http: Server;
  readonly #sockets = new Set<Socket>();
  readonly address: string;
  readonly errors: unknown[] = [];
  connections = 0;

  private constructor(http: Server, scripts: ((peer: Peer) => unknown)[]) {
    this.#http = http;
    this.address = `ws://127.0.0.1:${(http.address() as AddressInfo).port}`;
    http.on("connection", (socket) => this.#sockets.add(socket));
    http.on("upgrade", (request, socket) => {
      const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64");
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\nSec-WebSocket-Protocol: gatelink.1\r\n\r\n`,
      );
      const script = scripts[Math.min(this.connections++, scripts.length - 1)]!;
      Promise.resolve(script(new Peer(socket))).catch((error: unknown) => this.errors.push(error));
    });
  }

  static async start(...scripts: ((peer: Peer) => unknown)[]): Promise<ScriptedServer> {
    const http = createServer();
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    return new ScriptedServer(http, scripts);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#http.close(resolve));
  }
}
