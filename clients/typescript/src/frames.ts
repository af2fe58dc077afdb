/**
 * Frames: bytes in chunks of any size in, whole frames out (docs/protocol.md, "Frames").
 *
 *     length u24 | flags u8 | payload         payload of a message: id u16 | body
 *                                             of a request, answer or failure: id u16 | tag u32 | body
 */

import { EMPTY, join, viewOf, type Bytes } from "./bytes.ts";
import { CloseCode, MessageTooLarge, ProtocolError } from "./errors.ts";

export const COMPRESSED = 0x01;
export const SCRAMBLED = 0x02;
export const REQUEST = 0x08;
export const ANSWER = 0x10;
export const FAILED = 0x18;
export const CONTROL = 0x80;

export const MAX_LENGTH = 0xffffff;

/** Bytes of a FAILED payload with an empty reason. */
const FAILED_SIZE = 14;

/** Whether the id is of the framework's own messages. */
export function isFramework(id: number): boolean {
  return id < 5 || id === 24 || (id >= 100 && id < 200);
}

/** body: of a CONTROL frame its payload, and `id` is 0. `tag` is 0 for frames without one. */
export interface Frame {
  readonly id: number;
  readonly flags: number;
  readonly tag: number;
  readonly body: Bytes;
}

/** The frame of a message; with a kind REQUEST, ANSWER or FAILED, one with a tag. Throws MessageTooLarge. */
export function encodeFrame(id: number, body: Uint8Array, kind = 0, tag = 0): Bytes {
  const head = kind ? 10 : 6;
  const length = head - 4 + body.length;
  if (length > MAX_LENGTH) throw new MessageTooLarge(`message ${id} with a body of ${body.length} bytes; a frame holds ${MAX_LENGTH}`);
  const frame = new Uint8Array(4 + length);
  const view = viewOf(frame);
  view.setUint32(0, (length | (kind << 24)) >>> 0, true);
  view.setUint16(4, id, true);
  if (kind) view.setUint32(6, tag, true);
  frame.set(body, head);
  return frame;
}

/** The CONTROL frame of a record's payload: its type and fields. */
export function encodeControlFrame(payload: Uint8Array): Bytes {
  return join([payload.length & 0xff, payload.length >> 8, 0, CONTROL, payload]);
}

/**
 * Turns the server's byte stream into frames.
 *
 * `allowsTags`: both sides agreed on requests. `maxLength`: bytes of payload that a frame may declare. A buffer grows with
 * the bytes that arrived, never to a declared length.
 */
export class FrameDecoder {
  allowsTags = false;
  readonly #maxLength: number;
  #rest: Bytes = EMPTY;
  #parts: Bytes[] = [];
  #size = 0;
  #need = 4;

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  push(data: Bytes): void {
    this.#parts.push(data);
    this.#size += data.length;
  }

  /** The next whole frame; undefined if it has not arrived. Throws ProtocolError for a bad header. */
  next(): Frame | undefined {
    if (this.#rest.length + this.#size < this.#need) return undefined;
    if (this.#size) {
      const isOne = !this.#rest.length && this.#parts.length === 1;
      this.#rest = isOne ? this.#parts[0]! : join([this.#rest, ...this.#parts]);
      this.#parts = [];
      this.#size = 0;
    }
    const rest = this.#rest;
    this.#need = 4;
    if (rest.length < 4) return undefined;
    const length = rest[0]! | (rest[1]! << 8) | (rest[2]! << 16);
    const flags = rest[3]!;
    this.#check(length, flags);
    if (rest.length < 4 + length) {
      this.#need = 4 + length;
      return undefined;
    }
    const payload = rest.subarray(4, 4 + length);
    this.#rest = rest.subarray(4 + length);
    if (flags === CONTROL) return { id: 0, flags, tag: 0, body: payload };
    const view = viewOf(payload);
    const id = view.getUint16(0, true);
    const isTagged = flags >= REQUEST;
    if (!id || (isTagged && isFramework(id))) throw new ProtocolError(`a message with id ${id} and flags ${flags}`);
    return { id, flags, tag: isTagged ? view.getUint32(2, true) : 0, body: payload.subarray(isTagged ? 6 : 2) };
  }

  #check(length: number, flags: number): void {
    const isTagged = (flags >= REQUEST && flags < REQUEST + 4) || (flags >= ANSWER && flags < ANSWER + 4) || flags === FAILED;
    if (flags > 3 && flags !== CONTROL && !(isTagged && this.allowsTags)) throw new ProtocolError(`flags byte ${flags}`);
    if (length > this.#maxLength) {
      throw new ProtocolError(`frame of ${length} bytes is over ${this.#maxLength} (maxFrame)`, CloseCode.FRAME_TOO_LARGE);
    }
    const least = flags === CONTROL ? 1 : flags === FAILED ? FAILED_SIZE : isTagged ? 6 : 2;
    if (length < least) throw new ProtocolError(`frame of length ${length} with flags ${flags}; the least is ${least}`);
  }
}
