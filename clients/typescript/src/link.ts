/** One WebSocket: frames in, bytes out. It knows no session. */

import type { Bytes } from "./bytes.ts";
import { closeCode, CloseCode, ConnectError, ProtocolError } from "./errors.ts";
import { FrameDecoder, type Frame } from "./frames.ts";

/** Bytes in the socket's buffer above which nothing more is written. */
const HIGH_WATER = 65_536;

/** How a link ended. code: of the WebSocket's close frame if that is gatelink's; undefined for a break. */
export interface LinkEnd {
  readonly code: CloseCode | undefined;
  readonly text: string;
  /** The server's bytes broke the protocol. */
  readonly error?: ProtocolError;
}

/** Takes the frames of one read; `error` is that of the bytes behind them. */
export type Receive = (frames: Frame[], error: ProtocolError | undefined) => void;

export class Link {
  readonly decoder: FrameDecoder;
  /** Resolves when the link is of no use any more. */
  readonly ended: Promise<LinkEnd>;
  #end: (end: LinkEnd) => void = () => {};
  #isOver = false;
  readonly #socket: WebSocket;
  #receive: Receive | undefined;
  #wake: () => void = () => {};

  constructor(address: string, maxFrame: number) {
    this.decoder = new FrameDecoder(maxFrame);
    this.ended = new Promise((resolve) => (this.#end = resolve));
    const socket = (this.#socket = new WebSocket(address, ["gatelink.1"]));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#wake();
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) {
        this.decoder.push(new Uint8Array(data));
        this.#pump();
      } else {
        const error = new ProtocolError("a text message, where the protocol has bytes");
        if (this.#receive) this.#receive([], error);
        else this.#finish({ code: undefined, text: error.message, error });
      }
    };
    socket.onclose = ({ code, reason }) => {
      const isOurs = code >= 4000 && code <= 4015;
      const text = `the WebSocket ended with ${code}${reason && ` ${reason}`}`;
      this.#finish({ code: isOurs ? closeCode(code) : undefined, text });
    };
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Whether the socket takes bytes now. */
  get isWritable(): boolean {
    return !this.#isOver && this.#socket.readyState === 1 && this.#socket.bufferedAmount < HIGH_WATER;
  }

  /** Waits until the socket is open. Throws ConnectError if it ends first. */
  async opened(): Promise<void> {
    while (this.#socket.readyState !== 1) await this.#event();
  }

  /** The next frame, while nothing is served. Throws ConnectError if the link ends first, and ProtocolError. */
  async next(): Promise<Frame> {
    for (;;) {
      const frame = this.decoder.next();
      if (frame) return frame;
      await this.#event();
    }
  }

  /** From now on all frames of one read go to `receive`. */
  serve(receive: Receive): void {
    this.#receive = receive;
    this.#pump();
  }

  write(bytes: Bytes): void {
    if (!this.#isOver && this.#socket.readyState === 1) this.#socket.send(bytes);
  }

  /** Leaves the link: nothing that still comes is received. Written bytes are still sent, if the path lives. */
  drop(code: CloseCode = CloseCode.NORMAL, text = "this side left"): void {
    this.#finish({ code: undefined, text });
    this.#socket.close(code === CloseCode.UNEXPLAINED ? CloseCode.NORMAL : code);
  }

  /** Closes in order, and waits for the server's close frame, `ms` at most. */
  async close(code: CloseCode, ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
    this.#receive = () => {};
    this.#socket.close(code);
    await Promise.race([this.ended, late]);
    clearTimeout(timer);
    this.drop(code);
  }

  async #event(): Promise<void> {
    if (!this.#isOver) await Promise.race([this.ended, new Promise<void>((resolve) => (this.#wake = resolve))]);
    if (this.#isOver) {
      const { code, text, error } = await this.ended;
      throw error ?? new ConnectError(text, code);
    }
  }

  #pump(): void {
    if (!this.#receive) return this.#wake();
    const frames: Frame[] = [];
    let error: ProtocolError | undefined;
    try {
      for (let frame; (frame = this.decoder.next()); ) frames.push(frame);
    } catch (raised) {
      error = raised as ProtocolError; // the good frames in front of it count
    }
    if (frames.length || error) this.#receive(frames, error);
  }

  #finish(end: LinkEnd): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const socket = this.#socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    this.#end(end);
  }
}
