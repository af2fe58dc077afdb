/**
 * Message types: an id on the wire, a codec, and fields. `gatelink messages typescript` writes them.
 *
 * A message is a plain object. A symbol in it names its type: `Say({ text })` and decoding set it, a spread keeps it.
 */

import type { Bytes } from "./bytes.ts";
import { BodyError, ConfigError, GatelinkError, LocalError, ProtocolError } from "./errors.ts";
import { isFramework } from "./frames.ts";
import { filled, struct, type Fields, type Init, type Schema, type Struct, type StructOptions } from "./schema.ts";

export interface Codec {
  encode(type: Schema<unknown>, value: unknown): Bytes;
  decode(type: Schema<unknown>, body: Bytes): unknown;
}

export const TYPE: unique symbol = Symbol("gatelink.type");

/** A message that can be sent. */
export interface Message<T = unknown> {
  readonly [TYPE]: MessageType<T>;
}

/** A message that is answered with an `Answer`. */
export interface Request<Answer> {
  readonly [TYPE]: { readonly answer: () => MessageType<Answer> };
}

/** What encodes and decodes the messages with one id. */
export interface MessageType<T> {
  readonly id: number;
  readonly label: string;
  /** The type of the messages that answer it, if it is a request. */
  readonly answer?: (() => MessageType<unknown>) | undefined;
  /** The body of a message. Throws InvalidMessage if the receiver's decoder would refuse it. */
  encode(message: T): Bytes;
  /** Throws BodyError. */
  decode(body: Bytes): T;
}

/** A message type whose messages are structs. It is a schema, too: messages can be nested in others. */
export type StructMessage<T, Defaults extends keyof T = never> = MessageType<T> &
  Omit<Struct<T, Defaults>, "label"> & { (fields: Init<T, Defaults>): T & Message<T> };

export type RequestMessage<T, Answer, Defaults extends keyof T = never> = MessageType<T> &
  Omit<Struct<T, Defaults>, "label"> & {
    (fields: Init<T, Defaults>): T & Message<T> & Request<Answer>;
    readonly answer: () => MessageType<Answer>;
  };

export function message<T, Defaults extends keyof T = never>(
  id: number,
  label: string,
  codec: Codec,
  fields: Fields<T>,
  options?: StructOptions,
): StructMessage<T, Defaults> {
  return define<T, Defaults>(id, label, codec, fields, undefined, options) as StructMessage<T, Defaults>;
}

/** answer: gives the type of the messages that answer it, which may be defined further down. */
export function request<T, Answer, Defaults extends keyof T = never>(
  id: number,
  label: string,
  codec: Codec,
  fields: Fields<T>,
  answer: () => MessageType<Answer>,
  options?: StructOptions,
): RequestMessage<T, Answer, Defaults> {
  return define<T, Defaults>(id, label, codec, fields, answer as () => MessageType<unknown>, options) as RequestMessage<T, Answer, Defaults>;
}

/** A message that is its body; `value` of protobuf messages and of the application's own codecs. */
export function rawMessage(id: number, label: string): MessageType<Uint8Array> & { (body: Uint8Array): Uint8Array & Message<Uint8Array> } {
  const type = {
    id,
    label,
    encode: (body: Uint8Array): Bytes => body as Bytes,
    decode: (body: Bytes): Uint8Array => tagged(body.slice()),
  };
  const tagged = (body: Uint8Array): Uint8Array & Message<Uint8Array> => {
    const own = body.subarray() as Uint8Array & { [TYPE]: MessageType<Uint8Array> };
    own[TYPE] = type;
    return own;
  };
  checkId(id, label);
  return Object.assign(tagged, type);
}

/** A `rawMessage` that is answered. */
export function rawRequest<Answer>(
  id: number,
  label: string,
  answer: () => MessageType<Answer>,
): MessageType<Uint8Array> & { (body: Uint8Array): Uint8Array & Message<Uint8Array> & Request<Answer> } {
  const type = rawMessage(id, label);
  const tagged = (body: Uint8Array) => {
    const own = type(body) as unknown as { [TYPE]: unknown };
    own[TYPE] = whole;
    return own as unknown as Uint8Array & Message<Uint8Array> & Request<Answer>;
  };
  const whole = Object.assign(tagged, { id, label, answer: answer as () => MessageType<unknown>, encode: type.encode, decode: type.decode });
  return whole;
}

function define<T, Defaults extends keyof T>(
  id: number,
  label: string,
  codec: Codec,
  fields: Fields<T>,
  answer: (() => MessageType<unknown>) | undefined,
  options: StructOptions | undefined,
) {
  checkId(id, label);
  const { kind, ...schema } = struct<T, Defaults>(label, fields, options);
  const tagged = (init: Init<T, Defaults>): T => {
    const value = filled(type, init);
    value[TYPE] = type;
    return value as T;
  };
  const type = Object.assign(tagged, {
    ...schema,
    kind,
    id,
    answer,
    encode: (value: T): Bytes => codec.encode(type, value),
    decode(body: Bytes): T {
      let value: Record<PropertyKey, unknown>;
      try {
        value = codec.decode(type, body) as Record<PropertyKey, unknown>;
      } catch (error) {
        if (error instanceof ProtocolError) throw error;
        const what = error instanceof GatelinkError ? error.message : (error as Error).name;
        throw new BodyError(`${label}: a body that does not decode: ${what}`, undefined, { cause: error });
      }
      value[TYPE] = type;
      return value as T;
    },
  });
  return type;
}

function checkId(id: number, label: string): void {
  if (!Number.isInteger(id) || id > 59_999 || isFramework(id)) {
    throw new ConfigError(`${label} can't have id ${id}: applications have 11000 to 59999`);
  }
}

/** The type of a message to send. Throws LocalError for an object that no message type made. */
export function typeOf(message: Message): MessageType<unknown> {
  const type = (message as Partial<Message> | null | undefined)?.[TYPE];
  if (!type) throw new LocalError("no message: make it by its type, as Say({ text: \"hello\" })");
  return type;
}
