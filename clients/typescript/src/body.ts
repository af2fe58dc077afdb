/** Bodies that a server has compressed, scrambled or both (docs/protocol.md, "Frames"). This client sends neither. */

import { viewOf, type Bytes } from "./bytes.ts";
import { BodyError, CloseCode, ProtocolError } from "./errors.ts";
import { COMPRESSED, SCRAMBLED, type Frame } from "./frames.ts";

const DEFAULT_KEY = [0x29, 0xfd, 0x01, 0x38, 0x34, 0x3e, 0xb0, 0x2a];

/** The encoded message in a frame. limit: bytes it may have when decompressed. key: the server's scramble key. */
export function openBody(frame: Frame, limit: number, key: ArrayLike<number> = DEFAULT_KEY): Bytes {
  let body = frame.body;
  if (frame.flags & SCRAMBLED) body = unscramble(body, key);
  return frame.flags & COMPRESSED ? decompress(body, limit) : body;
}

/** Undo the base cipher: XOR `key[i mod 8]`, then rotate right by `i mod 7 + 1` bits. */
export function unscramble(body: Bytes, key: ArrayLike<number> = DEFAULT_KEY): Bytes {
  return body.map((byte, i) => {
    const mixed = byte ^ key[i % 8]!;
    const bits = (i % 7) + 1;
    return (mixed >> bits) | (mixed << (8 - bits));
  });
}

/** The contents of one raw snappy block. Its declared size is checked before anything is allocated. */
export function decompress(block: Bytes, limit: number): Bytes {
  let at = 0;
  let size = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = block[at++];
    if (byte === undefined || shift > 28) throw corrupt(block);
    size += (byte & 0x7f) * 2 ** shift;
    if (byte < 128) break;
  }
  if (size > limit) throw new ProtocolError(`body of ${size} bytes when decompressed is over ${limit}`, CloseCode.FRAME_TOO_LARGE);
  if (size * 3 > block.length * 64) throw corrupt(block); // three bytes of snappy make at most 64
  const out = new Uint8Array(size);
  const view = viewOf(block);
  let end = 0;
  while (at < block.length) {
    const tag = block[at++]!;
    const kind = tag & 3;
    let length = (tag >> 2) + 1;
    if (kind === 0) {
      if (length > 60) {
        const bytes = length - 60;
        if (at + bytes > block.length) throw corrupt(block);
        length = 1;
        for (let i = 0; i < bytes; i++) length += block[at++]! * 2 ** (8 * i);
      }
      if (at + length > block.length || end + length > size) throw corrupt(block);
      out.set(block.subarray(at, at + length), end);
      at += length;
      end += length;
      continue;
    }
    const bytes = kind === 3 ? 4 : kind;
    if (at + bytes > block.length) throw corrupt(block);
    let offset: number;
    if (kind === 1) {
      length = ((tag >> 2) & 7) + 4;
      offset = ((tag >> 5) << 8) | block[at]!;
    } else offset = kind === 2 ? view.getUint16(at, true) : view.getUint32(at, true);
    at += bytes;
    if (!offset || offset > end || end + length > size) throw corrupt(block);
    if (offset >= length) out.copyWithin(end, end - offset, end - offset + length);
    else for (let i = 0; i < length; i++) out[end + i] = out[end + i - offset]!;
    end += length;
  }
  if (end !== size) throw corrupt(block);
  return out;
}

function corrupt(block: Bytes): BodyError {
  return new BodyError(`snappy block of ${block.length} bytes is corrupt`);
}
