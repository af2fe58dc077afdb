/** Control records: how connections begin, stay alive and end (docs/protocol.md, "The extension: control records"). */

import { cutText, decodeText, encodeText, join, uint, viewOf, type Bytes } from "./bytes.ts";
import { ProtocolError } from "./errors.ts";
import { encodeControlFrame } from "./frames.ts";

export const HELLO = 1;
export const TICKET = 3;
export const RESUME = 4;
export const RESUMED = 5;
export const PING = 6;
export const PONG = 7;
export const ACK = 8;
export const CLOSE = 9;
export const GOAWAY = 10;
export const RENEW = 11;
export const RENEWED = 12;
export const EXPIRING = 13;
export const LOST = 14;

export const VERSION = 1;
export const MAX_REASON = 123;

export const Feature = { RESUME: 1, PING: 2, REQUESTS: 4, RENEWAL: 8, LOSSES: 32 } as const;

/** A decoded record. Counts and features are bigints, as the wire has 64 bits for them. */
export type Control =
  | { type: typeof HELLO; version: number; features: bigint; slot: number; appVersion: string }
  | { type: typeof TICKET; sessionId: Bytes; resumeKey: Bytes; window: number; address: string }
  | { type: typeof RESUME; sessionId: Bytes; received: bigint; attempt: number; mac: Bytes }
  | { type: typeof RESUMED; received: bigint; mac: Bytes }
  | { type: typeof PING; sentAt: bigint; received: bigint }
  | { type: typeof PONG; sentAt: bigint; received: bigint; serverTime: bigint }
  | { type: typeof ACK; received: bigint }
  | { type: typeof CLOSE; code: number; reason: string }
  | { type: typeof GOAWAY; reconnectWithin: number; address: string }
  | { type: typeof RENEW; token: string }
  | { type: typeof RENEWED; result: number; expiresIn: number }
  | { type: typeof EXPIRING; seconds: number }
  | { type: typeof LOST; server: number; toServer: number; toClient: number };

export type Ticket = Extract<Control, { type: typeof TICKET }>;

/** Fields with their sizes in bytes: 1 to 8 a number, more the bytes, 0 a text with a u16 length. */
type Layout = readonly (readonly [name: string, size: number])[];

const LAYOUTS: Readonly<Record<number, Layout>> = {
  [TICKET]: layout("sessionId 16 resumeKey 32 window 4 address 0"),
  [RESUME]: layout("sessionId 16 received 8 attempt 4 mac 32"),
  [RESUMED]: layout("received 8 mac 32"),
  [PING]: layout("sentAt 8 received 8"),
  [PONG]: layout("sentAt 8 received 8 serverTime 8"),
  [ACK]: layout("received 8"),
  [CLOSE]: layout("code 2 reason 0"),
  [GOAWAY]: layout("reconnectWithin 4 address 0"),
  [RENEW]: layout("token 0"),
  [RENEWED]: layout("result 1 expiresIn 4"),
  [EXPIRING]: layout("seconds 4"),
  [LOST]: layout("server 1 toServer 4 toClient 4"),
};

function layout(text: string): Layout {
  return Array.from(text.matchAll(/(\w+) (\d+)/g), ([, name, size]) => [name!, Number(size)] as const);
}

/** The whole frame of a record. */
export function controlFrame(record: Control): Bytes {
  if (record.type === HELLO) return helloFrame(record);
  const parts: (Bytes | number)[] = [record.type];
  const fields = record as unknown as Record<string, number | bigint | string | Bytes>;
  for (const [name, size] of LAYOUTS[record.type]!) {
    const value = fields[name]!;
    if (typeof value === "string") {
      const text = record.type === CLOSE ? cutText(value, MAX_REASON) : encodeText(value);
      parts.push(uint(text.length, 2), text);
    } else parts.push(size > 8 ? (value as Bytes) : uint(value as number | bigint, size));
  }
  return encodeControlFrame(join(parts));
}

function helloFrame(hello: Extract<Control, { type: typeof HELLO }>): Bytes {
  const keys: Bytes[] = [];
  if (hello.slot) keys.push(join([1, uint(1, 2), hello.slot]));
  const version = encodeText(hello.appVersion);
  if (version.length) keys.push(join([2, uint(version.length, 2), version]));
  return encodeControlFrame(join([HELLO, hello.version, uint(hello.features, 8), keys.length, ...keys]));
}

/** The record in the payload of a CONTROL frame; undefined for the types 128 to 255, which are ignored. Throws ProtocolError. */
export function decodeControl(payload: Bytes): Control | undefined {
  const type = payload[0]!;
  const view = viewOf(payload);
  if (type >= 128) return undefined;
  if (type === HELLO) return decodeHello(payload, view);
  const layout = LAYOUTS[type];
  if (!layout) throw new ProtocolError(`control record of unknown type ${type}`);
  const record: Record<string, unknown> = { type };
  let at = 1;
  for (const [name, size] of layout) {
    const start = at;
    at += size || 2;
    if (at > payload.length) throw wrongSize(type, payload);
    if (size > 8) record[name] = payload.slice(start, at);
    else if (size === 8) record[name] = view.getBigUint64(start, true);
    else if (size === 4) record[name] = view.getUint32(start, true);
    else if (size === 1) record[name] = payload[start];
    else {
      const number = view.getUint16(start, true);
      record[name] = size ? number : decodeText(payload.subarray(at, (at += number)));
      if (!size && type === CLOSE && number > MAX_REASON) throw wrongSize(type, payload);
    }
  }
  if (at !== payload.length) throw wrongSize(type, payload);
  return record as unknown as Control;
}

function decodeHello(payload: Bytes, view: DataView): Control {
  if (payload.length < 11 || !payload[1]) throw wrongSize(HELLO, payload);
  const values = new Map<number, Bytes>();
  let at = 11;
  for (let left = payload[10]!; left > 0; left--) {
    if (at + 3 > payload.length) throw wrongSize(HELLO, payload);
    const end = at + 3 + view.getUint16(at + 1, true);
    if (end > payload.length || values.has(payload[at]!)) throw wrongSize(HELLO, payload);
    values.set(payload[at]!, payload.subarray(at + 3, end));
    at = end;
  }
  const slot = values.get(1) ?? [0];
  if (at !== payload.length || slot.length !== 1) throw wrongSize(HELLO, payload);
  const appVersion = decodeText(values.get(2) ?? new Uint8Array(0));
  return { type: HELLO, version: payload[1], features: view.getBigUint64(2, true), slot: slot[0]!, appVersion };
}

function wrongSize(type: number, payload: Bytes): ProtocolError {
  return new ProtocolError(`control record of type ${type} with ${payload.length} bytes, which do not fit its fields`);
}
