/** The client of gatelink for browsers and Node (docs/typescript.md). */

export * from "./errors.ts";
export {
  any, bigint, bool, bytes, datetime, dict, enumOf, f32, f64, float, i16, i32, i64, i8, int, lazy, limited, list, literal, maybe,
  none, optional, set, str, struct, tuple, u16, u32, u64, u8, union, withDefault,
} from "./schema.ts";
export type { Fields, Init, Limit, Of, Schema, Struct, StructOptions, StructSchema } from "./schema.ts";
export { message, rawMessage, rawRequest, request, TYPE } from "./messages.ts";
export type { Codec, Message, MessageType, Request, RequestMessage, StructMessage } from "./messages.ts";
export { binary, binaryStrict } from "./binary.ts";
export { json } from "./json.ts";
export { msgpack } from "./msgpack.ts";
export { Client } from "./client.ts";
export type { ClientEvents, Reason, State } from "./events.ts";
export type { ClientLimits, ClientOptions, RequestOptions, SendOptions } from "./options.ts";
export { deviceId, LoginFailed, LoginService } from "./login.ts";
export type { LoginCode, LoginOptions, LoginReply, ServerEntry } from "./login.ts";
export type { Backoff } from "./backoff.ts";
export type { Full, Key } from "./outbox.ts";
