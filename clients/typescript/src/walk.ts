/** Values in and out by their schema, over the tokens of MessagePack or JSON. */

import type { Bytes } from "./bytes.ts";
import { BodyError, InvalidMessage } from "./errors.ts";
import {
  ANY,
  any,
  fits,
  inField,
  memberFor,
  none,
  requireFit,
  resolve,
  setDefault,
  takes,
  typeFor,
  type Schema,
  type Shape,
  type StructSchema,
} from "./schema.ts";

/** Takes tokens. `array` and `map` say how many items, or keys and values, come next. */
export interface Sink {
  none(): void;
  bool(value: boolean): void;
  int(value: number | bigint): void;
  float(value: number): void;
  str(value: string): void;
  bytes(value: Uint8Array): void;
  datetime(value: Date): void;
  array(size: number): void;
  map(size: number): void;
}

/** Gives tokens; `shape` says what is next. Each method throws BodyError if that is cut short or malformed. */
export interface Source {
  /** A place, to come back to. */
  at: number;
  shape(): Shape;
  none(): null;
  bool(): boolean;
  int(): number | bigint;
  float(): number;
  str(): string;
  bytes(): Bytes;
  datetime(): Date;
  array(): number;
  map(): number;
  /** A key of a dict. JSON has numbers there as text. */
  key(type: Schema<unknown>): unknown;
}

/** Throws InvalidMessage for a value that a decoder of `schema` would refuse. */
export function write(schema: Schema<unknown>, value: unknown, out: Sink): void {
  let type = resolve(schema);
  if (type.kind === "optional") type = resolve(value === null ? none : type.items[0]);
  if (type.kind === "union") type = resolve(memberFor(type.items, value) ?? type);
  if (type.kind === "literal") {
    requireFit(type, value);
    type = any as typeof type;
  }
  if (type.kind === "any") {
    type = resolve(typeFor(value));
    if (type.kind === "any") return writeObject(value, out);
    if (Object.is(value, -0)) type = resolve(ANY.float);
  } else requireFit(type, value);
  switch (type.kind) {
    case "struct":
      return writeStruct(type, value as Record<string, unknown>, out);
    case "list":
    case "set":
    case "tuple": {
      const { items, kind } = type;
      const values = [...(value as Iterable<unknown>)];
      if (kind === "tuple" && values.length !== items.length) throw new InvalidMessage(`expected ${items.length} items`);
      out.array(values.length);
      return values.forEach((item, i) => write(items[kind === "tuple" ? i : 0]!, item, out));
    }
    case "dict": {
      const [key, item] = type.items;
      const entries = value as Map<unknown, unknown>;
      out.map(entries.size);
      return entries.forEach((found, name) => {
        write(key!, name, out);
        write(item!, found, out);
      });
    }
    case "bigint":
      return out.int(value as bigint);
    case "optional":
    case "union":
      throw new InvalidMessage("a value of none of the union's types");
    default:
      out[type.kind as "str"](value as string);
  }
}

function writeObject(value: unknown, out: Sink): void {
  if (typeof value !== "object") throw new InvalidMessage(`a ${typeof value}, which no message can hold`);
  write(ANY.object, new Map(Object.entries(value!)), out);
}

function writeStruct({ label, fields, options: { tag, arrayLike } }: StructSchema<unknown>, value: Record<string, unknown>, out: Sink): void {
  const present = arrayLike ? fields : fields.filter(([field, type]) => !type.isMaybe || value[field] !== undefined);
  const size = present.length + (tag ? 1 : 0);
  if (arrayLike) out.array(size);
  else out.map(size);
  if (tag) {
    if (!arrayLike) out.str(tag[0]);
    write(any, tag[1], out);
  }
  let name = "";
  try {
    for (const [field, type] of present) {
      name = field;
      if (!arrayLike) out.str(field);
      write(type, value[field], out);
    }
  } catch (error) {
    throw inField(label, name, error);
  }
}

/** Throws BodyError for tokens that are no value of `schema`. */
export function read(schema: Schema<unknown>, from: Source): unknown {
  let type = resolve(schema);
  const shape = from.shape();
  if (type.kind === "optional") type = resolve(shape === "none" ? none : type.items[0]);
  if (type.kind === "any") {
    if (shape !== "int") return read(ANY[shape], from);
    const whole = from.int();
    return Number.isSafeInteger(Number(whole)) ? Number(whole) : whole;
  }
  if (shape !== type.kind && !takes(type, shape)) throw new BodyError(`expected ${type.kind}, got ${shape}`);
  const value = readAs(type, shape, from);
  const wrong = type.check?.(value);
  if (wrong) throw new BodyError(`expected ${type.kind} ${wrong}`);
  return value;
}

function readAs(type: ReturnType<typeof resolve>, shape: Shape, from: Source): unknown {
  switch (type.kind) {
    case "struct":
      return type.options.arrayLike ? readArray(type, from) : readObject(type, from);
    case "int": {
      const whole = Number(from.int());
      if (!fits(type, whole)) throw new BodyError("a whole number that a double can't hold; declare it as 64 bits (U64, I64)");
      return whole;
    }
    case "bigint":
      return BigInt(from.int());
    case "float":
      return shape === "int" ? Number(from.int()) : from.float();
    case "literal": {
      const value = read(any, from);
      if (!fits(type, value)) throw new BodyError("a value that is not in the list");
      return value;
    }
    case "list":
    case "set":
    case "tuple": {
      const size = from.array();
      if (type.kind === "tuple") {
        if (size !== type.items.length) throw new BodyError(`expected ${type.items.length} items, got ${size}`);
        return type.items.map((item) => read(item, from));
      }
      const items: unknown[] = [];
      for (let left = size; left > 0; left--) items.push(read(type.items[0]!, from));
      return type.kind === "list" ? items : new Set(items);
    }
    case "dict": {
      const entries = new Map<unknown, unknown>();
      for (let left = from.map(); left > 0; left--) entries.set(from.key(type.items[0]!), read(type.items[1]!, from));
      return entries;
    }
    case "union":
      return read(memberOf(type.items, shape, from), from);
    default:
      return from[type.kind as "str"]();
  }
}

function memberOf(types: readonly Schema<unknown>[], shape: Shape, from: Source): Schema<unknown> {
  const all = types.filter((type) => takes(type, shape));
  let found = all.filter((type) => shape !== "int" || resolve(type).kind !== "float"); // a float takes ints, too
  if (found.length > 1) {
    const tag = peekTag(resolve(found[0]!) as StructSchema<unknown>, from);
    found = found.filter((type) => (resolve(type) as StructSchema<unknown>).options?.tag?.[1] === tag);
  }
  const member = found[0] ?? (shape === "int" ? all[0] : undefined);
  if (!member) throw new BodyError("a value of none of the union's types");
  return member;
}

/** The tag of the struct that comes next. */
function peekTag({ options }: StructSchema<unknown>, from: Source): unknown {
  const { at } = from;
  let tag: unknown;
  if (options?.arrayLike) tag = from.array() ? read(any, from) : undefined;
  else {
    for (let left = from.map(); left > 0 && tag === undefined; left--) {
      const isTag = from.str() === options?.tag?.[0];
      const value = read(any, from);
      if (isTag) tag = value;
    }
  }
  from.at = at;
  return tag;
}

function readObject({ label, fields, options: { tag } }: StructSchema<unknown>, from: Source): Record<string, unknown> {
  const value: Record<string, unknown> = {};
  if (tag) value[tag[0]] = tag[1];
  let next = 0;
  let isInOrder = true;
  let name = "";
  try {
    for (let left = from.map(); left > 0; left--) {
      name = from.str();
      let at = next; // senders write fields in order
      if (fields[at]?.[0] !== name) {
        isInOrder = false;
        at = fields.findIndex(([field]) => field === name);
      }
      if (at >= 0) {
        value[name] = read(fields[at]![1], from);
        next = at + 1;
      } else {
        const skipped = read(any, from);
        if (tag?.[0] === name && skipped !== tag[1]) throw new BodyError("another struct's tag");
      }
    }
    if (isInOrder && next === fields.length) return value;
    for (const [field, type] of fields) {
      name = field;
      if (!Object.hasOwn(value, field) && !setDefault(value, field, type)) throw new BodyError("is missing");
    }
  } catch (error) {
    throw inField(label, name, error);
  }
  return value;
}

function readArray({ label, fields, options: { tag } }: StructSchema<unknown>, from: Source): Record<string, unknown> {
  const value: Record<string, unknown> = {};
  let left = from.array();
  let name = "";
  try {
    if (tag) {
      name = tag[0];
      if (left-- < 1 || read(any, from) !== tag[1]) throw new BodyError("another struct's tag");
      value[name] = tag[1];
    }
    for (const [field, type] of fields) {
      name = field;
      if (left-- > 0) value[field] = read(type, from);
      else if (!setDefault(value, field, type)) throw new BodyError("is missing");
    }
    for (; left > 0; left--) read(any, from);
  } catch (error) {
    throw inField(label, name, error);
  }
  return value;
}
