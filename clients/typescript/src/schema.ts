/**
 * Types of fields, as data. Generated code puts them together; the codecs walk them (msgpack.ts, json.ts, binary.ts).
 *
 * A schema is inert: an unused one costs nothing, and a codec that no message names is not in the bundle.
 */

import { GatelinkError, InvalidMessage } from "./errors.ts";

export interface Limit {
  gt?: number | bigint;
  ge?: number | bigint;
  lt?: number | bigint;
  le?: number | bigint;
  multipleOf?: number | bigint;
  /** Code points of a text, else items or bytes. */
  minLength?: number;
  maxLength?: number;
  /** The source of a regular expression; it may match anywhere in the text. */
  pattern?: string;
}

export type Width = "u8" | "u16" | "u32" | "u64" | "i8" | "i16" | "i32" | "i64" | "f32" | "f64";

interface Common<T> {
  /** Only for the type checker. */
  readonly of?: T;
  /** For fields: what a receiver takes if the field is missing, or a function that makes it. */
  readonly default?: unknown;
  /** For fields: it may be missing, and stays so. */
  readonly isMaybe?: true;
  /** What a value of this type lacks, in words; "" if nothing. */
  readonly check?: (value: unknown) => string;
}

interface Scalar<T> extends Common<T> {
  readonly kind: "any" | "none" | "bool" | "int" | "bigint" | "float" | "str" | "bytes" | "datetime";
  readonly width?: Width;
}

interface Container<T> extends Common<T> {
  readonly kind: "list" | "set" | "tuple" | "dict" | "union";
  readonly items: readonly Schema<unknown>[];
}

interface Optional<T> extends Common<T> {
  readonly kind: "optional";
  readonly items: readonly [Schema<unknown>];
}

interface Literal<T> extends Common<T> {
  readonly kind: "literal";
  readonly values: readonly unknown[];
}

interface Lazy<T> extends Common<T> {
  readonly kind: "lazy";
  readonly get: () => Schema<T>;
}

export interface StructSchema<T> extends Common<T> {
  readonly kind: "struct";
  readonly label: string;
  readonly fields: readonly (readonly [name: string, type: Schema<unknown>])[];
  readonly options: StructOptions;
}

export interface StructOptions {
  /** Written as an array in the order of the fields. */
  readonly arrayLike?: boolean;
  /** The name of the field that holds the tag, and this struct's tag. */
  readonly tag?: readonly [field: string, value: string | number];
}

export type Schema<T> = Scalar<T> | Container<T> | Optional<T> | Literal<T> | Lazy<T> | StructSchema<T>;

/** The TypeScript type of a schema's values. */
export type Of<S> = S extends { readonly of?: infer T } ? T : never;

export const any: Schema<unknown> = { kind: "any" };
export const none: Schema<null> = { kind: "none" };
export const bool: Schema<boolean> = { kind: "bool" };
/** A whole number that a double holds exactly; others are refused, never rounded. */
export const int: Schema<number> = { kind: "int" };
export const bigint: Schema<bigint> = { kind: "bigint" };
export const float: Schema<number> = { kind: "float" };
export const str: Schema<string> = { kind: "str" };
export const bytes: Schema<Uint8Array> = { kind: "bytes" };
/** A moment, in whole milliseconds: smaller parts are cut off. */
export const datetime: Schema<Date> = { kind: "datetime" };

// Widths hold in the codec binary. In the others a number has no width.
export const u8: Schema<number> = { kind: "int", width: "u8" };
export const u16: Schema<number> = { kind: "int", width: "u16" };
export const u32: Schema<number> = { kind: "int", width: "u32" };
export const u64: Schema<bigint> = { kind: "bigint", width: "u64" };
export const i8: Schema<number> = { kind: "int", width: "i8" };
export const i16: Schema<number> = { kind: "int", width: "i16" };
export const i32: Schema<number> = { kind: "int", width: "i32" };
export const i64: Schema<bigint> = { kind: "bigint", width: "i64" };
export const f32: Schema<number> = { kind: "float", width: "f32" };
export const f64: Schema<number> = { kind: "float", width: "f64" };

export function optional<T>(type: Schema<T>): Schema<T | null> {
  return { kind: "optional", items: [type] };
}

export function list<T>(type: Schema<T>): Schema<T[]> {
  return { kind: "list", items: [type] };
}

export function set<T>(type: Schema<T>): Schema<Set<T>> {
  return { kind: "set", items: [type] };
}

export function tuple<T extends readonly Schema<unknown>[]>(...types: T): Schema<{ -readonly [K in keyof T]: Of<T[K]> }> {
  return { kind: "tuple", items: types };
}

export function dict<K, V>(key: Schema<K>, value: Schema<V>): Schema<Map<K, V>> {
  return { kind: "dict", items: [key, value] };
}

/** One of several types that a decoder can tell apart: by their kind, and structs by their tags. */
export function union<T extends readonly Schema<unknown>[]>(...types: T): Schema<Of<T[number]>> {
  return { kind: "union", items: types } as Schema<Of<T[number]>>;
}

export function literal<const T extends readonly (string | number | null)[]>(...values: T): Schema<T[number]> {
  return { kind: "literal", values };
}

/** The values of an enum's const object. */
export function enumOf<T extends string | number>(members: Readonly<Record<string, T>>): Schema<T> {
  return { kind: "literal", values: Object.values(members) };
}

/** A type that is defined further down, or that contains itself. */
export function lazy<T>(get: () => Schema<T>): Schema<T> {
  return { kind: "lazy", get };
}

/** A field that its message may leave out; then its receiver takes `value`, or what that function makes. */
export function withDefault<T>(type: Schema<T>, value: T | (() => T)): Schema<T> {
  return { ...type, default: value };
}

/** A field that may be missing, as msgspec's UNSET. */
export function maybe<T>(type: Schema<T>): Schema<T | undefined> {
  return { ...type, isMaybe: true } as Schema<T | undefined>;
}

export function limited<T>(type: Schema<T>, limit: Limit): Schema<T> {
  const pattern = limit.pattern === undefined ? undefined : new RegExp(limit.pattern, "u");
  const words = `within ${Object.entries(limit).map(([name, bound]) => `${name} ${bound}`).join(", ")}`;
  const check = (value: unknown): string => {
    if (typeof value !== "number" && typeof value !== "bigint") {
      const size = sizeOf(value);
      if (!(size >= (limit.minLength ?? 0)) || !(size <= (limit.maxLength ?? size))) return words;
      return pattern && !pattern.test(value as string) ? words : "";
    }
    const { gt = -Infinity, ge = gt, lt = Infinity, le = lt, multipleOf } = limit;
    const isWithin = value >= ge && value <= le && value !== limit.gt && value !== limit.lt;
    const isMultiple = !multipleOf || Number(typeof value === "bigint" ? value % BigInt(multipleOf) : value % Number(multipleOf)) === 0;
    return isWithin && isMultiple ? "" : words;
  };
  return { ...type, check };
}

function sizeOf(value: unknown): number {
  if (typeof value === "string") return [...value].length;
  const sized = value as { length?: number; size?: number };
  return sized.length ?? sized.size ?? 0;
}

/** A nested struct. Calling it makes one, with the defaults of the fields that are left out. */
export interface Struct<T, Defaults extends keyof T> extends StructSchema<T> {
  (fields: Init<T, Defaults>): T;
}

/** The fields of a `T` of which those in `Defaults` may be left out. */
export type Init<T, Defaults extends keyof T> = Omit<T, Defaults> & Partial<Pick<T, Defaults>>;

/** The fields of a `T`, each with its type. A tag is no field. */
export type Fields<T> = { readonly [K in keyof T]?: Schema<T[K]> };

export function struct<T, Defaults extends keyof T = never>(
  label: string,
  fields: Fields<T>,
  options: StructOptions = {},
): Struct<T, Defaults> {
  const schema = { kind: "struct", label, fields: Object.entries(fields), options } as StructSchema<T>;
  return Object.assign((init: Init<T, Defaults>): T => filled(schema, init) as T, schema);
}

/** A copy of `init` with the defaults of the fields that it lacks, and the tag. */
export function filled(type: StructSchema<unknown>, init: object): Record<PropertyKey, unknown> {
  const value = { ...init } as Record<PropertyKey, unknown>;
  for (const [name, field] of type.fields) if (!Object.hasOwn(value, name) || value[name] === undefined) setDefault(value, name, field);
  if (type.options.tag) value[type.options.tag[0]] = type.options.tag[1];
  return value;
}

/** Sets a missing field to its default; false if it has none and must not be missing. */
export function setDefault(value: Record<PropertyKey, unknown>, name: string, field: Schema<unknown>): boolean {
  if (!("default" in field)) return field.isMaybe === true;
  value[name] = typeof field.default === "function" ? (field.default as () => unknown)() : field.default;
  return true;
}

export function resolve(type: Schema<unknown>): Exclude<Schema<unknown>, { kind: "lazy" }> {
  let found = type;
  while (found.kind === "lazy") found = found.get();
  return found;
}

/** What a decoder sees before it decodes a value. */
export type Shape = "none" | "bool" | "int" | "float" | "str" | "bytes" | "array" | "object" | "time";

/** The shapes that a value of a kind may have. JSON has bytes and times as text. */
const SHAPES: Readonly<Record<string, string>> = {
  none: "none",
  bool: "bool",
  int: "int",
  bigint: "int",
  float: "float int",
  str: "str",
  bytes: "bytes str",
  datetime: "time str",
  list: "array",
  set: "array",
  tuple: "array",
  dict: "object",
  any: "none bool int float str bytes array object time",
};

/** Whether a value of this shape may be of the type. */
export function takes(schema: Schema<unknown>, shape: Shape): boolean {
  const type = resolve(schema);
  switch (type.kind) {
    case "struct":
      return shape === (type.options.arrayLike ? "array" : "object");
    case "literal":
      return type.values.some((value) => shape === (value === null ? "none" : typeof value === "string" ? "str" : "int"));
    case "optional":
      return shape === "none" || takes(type.items[0], shape);
    case "union":
      return type.items.some((item) => takes(item, shape));
    default:
      return SHAPES[type.kind]!.includes(shape);
  }
}

const FITS: Readonly<Record<string, (value: unknown) => boolean>> = {
  none: (value) => value === null,
  bool: (value) => typeof value === "boolean",
  int: Number.isSafeInteger,
  bigint: (value) => typeof value === "bigint",
  float: (value) => typeof value === "number",
  str: (value) => typeof value === "string",
  bytes: (value) => value instanceof Uint8Array,
  datetime: (value) => value instanceof Date && !Number.isNaN(value.getTime()),
  list: Array.isArray,
  tuple: Array.isArray,
  set: (value) => value instanceof Set,
  dict: (value) => value instanceof Map,
  any: () => true,
};

/** Whether a value to encode may be of the type; of a struct, only its tag is looked at. */
export function fits(schema: Schema<unknown>, value: unknown): boolean {
  const type = resolve(schema);
  switch (type.kind) {
    case "literal":
      return type.values.includes(value);
    case "struct": {
      if (typeof value !== "object" || value === null || typeFor(value) !== object) return false;
      const tag = type.options.tag;
      return !tag || (value as Record<string, unknown>)[tag[0]] === tag[1];
    }
    case "optional":
      return value === null || fits(type.items[0], value);
    case "union":
      return type.items.some((item) => fits(item, value));
    default:
      return FITS[type.kind]!(value);
  }
}

const anyList: Schema<unknown> = { kind: "list", items: [any] };
const anySet: Schema<unknown> = { kind: "set", items: [any] };
const anyDict: Schema<unknown> = { kind: "dict", items: [any, any] };
/** Any other object: its properties are written as those of a dict. */
const object: Schema<unknown> = { kind: "any" };
const INFERRED = [none, bool, int, bigint, float, str, bytes, datetime, anyList, anySet, anyDict];

/** The type of a value of any type. */
export function typeFor(value: unknown): Schema<unknown> {
  return INFERRED.find((type) => fits(type, value)) ?? object;
}

/** The types as which a field of any type is decoded. */
export const ANY: Readonly<Record<Shape, Schema<unknown>>> = {
  none,
  bool,
  int,
  float,
  str,
  bytes,
  array: anyList,
  object: anyDict,
  time: datetime,
};

/** The member of a union that a value to encode is of. A float fits a whole number, too, so it is looked for last. */
export function memberFor(types: readonly Schema<unknown>[], value: unknown): Schema<unknown> | undefined {
  return types.find((type) => resolve(type).kind !== "float" && fits(type, value)) ?? types.find((type) => fits(type, value));
}

/** Throws InvalidMessage unless `value` fits `type` and is within its limit. */
export function requireFit(type: Schema<unknown>, value: unknown): void {
  if (!fits(type, value)) throw new InvalidMessage(`expected ${type.kind}, got ${value === null ? "null" : typeof value}`);
  const wrong = type.check?.(value);
  if (wrong) throw new InvalidMessage(`expected ${type.kind} ${wrong}`);
}

/** The error of a field, with the field's name in front of its text. */
export function inField(label: string, name: string, error: unknown): unknown {
  if (!(error instanceof GatelinkError)) return error;
  error.message = `${label}.${name}: ${error.message.replace(/^\w+\./, "")}`;
  return error;
}
