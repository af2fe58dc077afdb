/** MessagePack, as msgspec writes and reads it: unknown fields are skipped, wrong types and trailing bytes refused. */

import { decodeUtf8, encodeUtf8, hasLoneSurrogates, viewOf, type Bytes } from "./bytes.ts";
import { BodyError, InvalidMessage } from "./errors.ts";
import type { Schema, Shape } from "./schema.ts";
import { timeOf } from "./times.ts";
import { read, write, type Sink, type Source } from "./walk.ts";

export const msgpack = {
  encode(type: Schema<unknown>, value: unknown): Bytes {
    packer ??= new Packer();
    packer.at = 0;
    write(type, value, packer);
    return packer.packed();
  },
  decode(type: Schema<unknown>, body: Bytes): unknown {
    const from = new Unpacker(body);
    const value = read(type, from);
    if (from.at !== body.length) throw new BodyError("bytes behind the message");
    return value;
  },
};

/** One for all messages, as its bytes take longer to make than most messages to write. */
let packer: Packer | undefined;
/** Bytes that it keeps. */
const KEPT = 65_536;

class Packer implements Sink {
  at = 0;
  #bytes = new Uint8Array(256);
  #view = viewOf(this.#bytes);

  packed(): Bytes {
    const packed = this.#bytes.slice(0, this.at);
    if (this.#bytes.length > KEPT) packer = undefined;
    return packed;
  }

  none(): void {
    this.#head(0xc0);
  }

  bool(value: boolean): void {
    this.#head(value ? 0xc3 : 0xc2);
  }

  int(value: number | bigint): void {
    const number = Number(value);
    if (number >= -32 && number < 128) this.#head(number & 0xff);
    else if (number >= 0 && number < 2 ** 32) this.#number(0xcc, number);
    else if (number < 0 && number >= -(2 ** 31)) this.#number(0xd0, number);
    else {
      const long = BigInt(value);
      if (long >= 2n ** 64n || long < -(2n ** 63n)) throw new InvalidMessage("a whole number of more than 64 bits");
      const at = this.#head(long < 0n ? 0xd3 : 0xcf, 8);
      this.#view.setBigUint64(at, BigInt.asUintN(64, long));
    }
  }

  float(value: number): void {
    const at = this.#head(0xcb, 8);
    this.#view.setFloat64(at, value);
  }

  str(value: string): void {
    const size = value.length;
    if (size < 32) {
      // Short texts are mostly ASCII: they need no encoder.
      const at = this.#head(0xa0 | size, size);
      let i = 0;
      for (; i < size; i++) {
        const code = value.charCodeAt(i);
        if (code > 127) break;
        this.#bytes[at + i] = code;
      }
      if (i === size) return;
      this.at = at - 1;
    }
    if (hasLoneSurrogates(value)) throw new InvalidMessage("a text with a lone surrogate, which UTF-8 can't express");
    const bytes = encodeUtf8(value);
    if (bytes.length < 32) this.#head(0xa0 | bytes.length);
    else this.#number(0xd9, bytes.length);
    this.#raw(bytes);
  }

  bytes(value: Uint8Array): void {
    this.#number(0xc4, value.length);
    this.#raw(value);
  }

  datetime(value: Date): void {
    const ms = value.getTime();
    const seconds = Math.floor(ms / 1000);
    const nanos = (ms - seconds * 1000) * 1_000_000;
    if (seconds < 0 || seconds >= 2 ** 34) {
      const at = this.#head(0xc7, 14);
      this.#view.setUint16(at, 0x0cff);
      this.#view.setUint32(at + 2, nanos);
      this.#view.setBigInt64(at + 6, BigInt(seconds));
    } else if (nanos || seconds >= 2 ** 32) {
      const at = this.#head(0xd7, 9);
      this.#bytes[at] = 0xff;
      this.#view.setBigUint64(at + 1, (BigInt(nanos) << 34n) | BigInt(seconds));
    } else {
      const at = this.#head(0xd6, 5);
      this.#bytes[at] = 0xff;
      this.#view.setUint32(at + 1, seconds);
    }
  }

  array(size: number): void {
    if (size < 16) this.#head(0x90 | size);
    else this.#number(0xdb, Math.max(size, 256), size);
  }

  map(size: number): void {
    if (size < 16) this.#head(0x80 | size);
    else this.#number(0xdd, Math.max(size, 256), size);
  }

  /** Writes a head byte, and gives the offset of `size` bytes behind it. */
  #head(head: number, size = 0): number {
    const at = this.at;
    this.at += 1 + size;
    if (this.at > this.#bytes.length) {
      const bigger = new Uint8Array(this.at * 2);
      bigger.set(this.#bytes);
      this.#bytes = bigger;
      this.#view = viewOf(bigger);
    }
    this.#bytes[at] = head;
    return at + 1;
  }

  /** Writes `value` in 1, 2 or 4 bytes, as `by` needs. head: that of the form with 1 byte. */
  #number(head: number, by: number, value = by): void {
    if (by >= -0x80 && by < 0x100) {
      const at = this.#head(head, 1); // may move the bytes
      this.#bytes[at] = value;
    } else if (by >= -0x8000 && by < 0x10000) {
      const at = this.#head(head + 1, 2);
      this.#view.setUint16(at, value);
    } else {
      const at = this.#head(head + 2, 4);
      this.#view.setUint32(at, value);
    }
  }

  #raw(bytes: Uint8Array): void {
    if (!bytes.length) return;
    const at = this.#head(0, bytes.length - 1) - 1;
    this.#bytes.set(bytes, at);
  }
}

/** The shapes of the heads c0 to df. */
const HEADS = "none,,bool,bool,bytes,bytes,bytes,time,time,time,float,float,int,int,int,int,int,int,int,int,time,time,time,time,time,str,str,str,array,array,object,object".split(",") as Shape[];

class Unpacker implements Source {
  at = 0;
  readonly #bytes: Bytes;
  readonly #view: DataView;

  constructor(bytes: Bytes) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  shape(): Shape {
    const head = this.#bytes[this.at];
    if (head === undefined) throw new BodyError("the message is cut short");
    if (head < 0x80 || head >= 0xe0) return "int";
    const shape = head < 0x90 ? "object" : head < 0xa0 ? "array" : head < 0xc0 ? "str" : HEADS[head - 0xc0];
    if (!shape) throw new BodyError("the byte c1, which MessagePack does not have");
    return shape;
  }

  none(): null {
    this.at++;
    return null;
  }

  bool(): boolean {
    return this.#head() === 0xc3;
  }

  int(): number | bigint {
    const head = this.#head();
    if (head < 0x80) return head;
    if (head >= 0xe0) return head - 256;
    const size = 1 << (head & 3);
    if (head < 0xd0) return size === 8 ? this.#view.getBigUint64(this.#take(8)) : this.#uint(size);
    const at = this.#take(size);
    if (size === 8) return this.#view.getBigInt64(at);
    return size === 1 ? this.#view.getInt8(at) : size === 2 ? this.#view.getInt16(at) : this.#view.getInt32(at);
  }

  float(): number {
    return this.#head() === 0xcb ? this.#view.getFloat64(this.#take(8)) : this.#view.getFloat32(this.#take(4));
  }

  str(): string {
    if (this.shape() !== "str") throw new BodyError(`expected str, got ${this.shape()}`);
    const head = this.#head();
    const size = head < 0xc0 ? head & 31 : this.#uint(1 << (head - 0xd9));
    const at = this.#take(size);
    if (size < 24) {
      let text = "";
      let i = at;
      for (; i < at + size; i++) {
        const byte = this.#bytes[i]!;
        if (byte > 127) break;
        text += String.fromCharCode(byte);
      }
      if (i === at + size) return text;
    }
    return decodeUtf8(this.#bytes.subarray(at, at + size));
  }

  bytes(): Bytes {
    if (this.shape() !== "bytes") throw new BodyError("expected bytes, got str");
    const size = this.#uint(1 << (this.#head() - 0xc4));
    const at = this.#take(size);
    return this.#bytes.slice(at, at + size);
  }

  datetime(): Date {
    if (this.shape() === "str") return timeOf(this.str());
    const head = this.#head();
    const size = head < 0xd0 ? this.#uint(1 << (head - 0xc7)) : 1 << (head - 0xd4);
    const type = this.#uint(1);
    const at = this.#take(size);
    if (type !== 0xff || (size !== 4 && size !== 8 && size !== 12)) throw new BodyError(`an extension of type ${type}`);
    if (size === 4) return new Date(this.#view.getUint32(at) * 1000);
    const both = size === 8 ? this.#view.getBigUint64(at) : 0n;
    const seconds = size === 8 ? both & 0x3ffffffffn : this.#view.getBigInt64(at + 4);
    const nanos = size === 8 ? Number(both >> 34n) : this.#view.getUint32(at);
    return new Date(Number(seconds) * 1000 + Math.floor(nanos / 1_000_000));
  }

  array(): number {
    return this.#size(0xdc);
  }

  map(): number {
    return this.#size(0xde);
  }

  key(type: Schema<unknown>): unknown {
    return read(type, this);
  }

  #size(head16: number): number {
    const head = this.#head();
    return head < 0xc0 ? head & 15 : this.#uint(2 << (head - head16));
  }

  #head(): number {
    return this.#bytes[this.#take(1)]!;
  }

  /** The offset of so many bytes, which are taken. */
  #take(size: number): number {
    const { at } = this;
    this.at += size;
    if (this.at > this.#bytes.length) throw new BodyError("the message is cut short");
    return at;
  }

  /** A big-endian number of 1, 2 or 4 bytes. */
  #uint(size: number): number {
    const at = this.#take(size);
    return size === 1 ? this.#bytes[at]! : size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }
}
