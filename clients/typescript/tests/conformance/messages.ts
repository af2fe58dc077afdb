// Made by `gatelink messages typescript` from messages.json. Do not edit.

import {
  binary,
  bool,
  bytes,
  datetime,
  dict,
  enumOf,
  f32,
  f64,
  float,
  i16,
  i32,
  i64,
  i8,
  int,
  json,
  list,
  literal,
  message,
  msgpack,
  none,
  optional,
  rawMessage,
  request,
  set,
  str,
  struct,
  tuple,
  u16,
  u32,
  u64,
  u8,
  union,
  withDefault,
} from "../../src/index.ts";

/** The message that is counted: each side numbers its own from 0. */
export interface Count {
  number: bigint;
  text: string;
}
export const Count = /* @__PURE__ */ message<Count, "text">(11101, "Count", msgpack, {
  number: u64,
  text: /* @__PURE__ */ withDefault(str, ""),
});

export const Color = { RED: "red", BLUE: "blue" } as const;
export type Color = (typeof Color)[keyof typeof Color];

export interface Point {
  x: number;
  y: number;
}
export const Point = /* @__PURE__ */ struct<Point, "y">("Point", {
  x: float,
  y: /* @__PURE__ */ withDefault(float, 0.5),
});

export interface Pair {
  left: number;
  right: string;
}
export const Pair = /* @__PURE__ */ struct<Pair>("Pair", { left: int, right: str }, { arrayLike: true });

export interface Circle {
  type: "circle";
  radius: number;
}
export const Circle = /* @__PURE__ */ struct<Circle, "type">("Circle", { radius: float }, { tag: ["type", "circle"] });

export interface Square {
  type: "square";
  side: number;
}
export const Square = /* @__PURE__ */ struct<Square, "type">("Square", { side: float }, { tag: ["type", "square"] });

/** All of it as MessagePack. */
export interface Everything {
  smallInt: number;
  largeInt: bigint;
  signedInt: bigint;
  real: number;
  yes: boolean;
  nothing: null;
  maybe: number | null;
  text: string;
  data: Uint8Array;
  numbers: bigint[];
  mixed: [number, string];
  table: Map<string, number>;
  words: Set<string>;
  color: Color;
  state: "off" | "on";
  when: Date;
  point: Point;
  pair: Pair;
  shape: Circle | Square;
  leftOut: number;
  empty: number[];
}
export const Everything = /* @__PURE__ */ message<Everything, "leftOut" | "empty">(11102, "Everything", msgpack, {
  smallInt: u8,
  largeInt: u64,
  signedInt: i64,
  real: float,
  yes: bool,
  nothing: none,
  maybe: /* @__PURE__ */ optional(int),
  text: str,
  data: bytes,
  numbers: /* @__PURE__ */ list(i64),
  mixed: /* @__PURE__ */ tuple(int, str),
  table: /* @__PURE__ */ dict(str, int),
  words: /* @__PURE__ */ set(str),
  color: /* @__PURE__ */ enumOf(Color),
  state: /* @__PURE__ */ literal("off", "on"),
  when: datetime,
  point: Point,
  pair: Pair,
  shape: /* @__PURE__ */ union(Circle, Square),
  leftOut: /* @__PURE__ */ withDefault(int, 7),
  empty: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(int), () => []),
});

/** All of it as JSON. */
export interface EverythingJson {
  smallInt: number;
  largeInt: bigint;
  signedInt: bigint;
  real: number;
  yes: boolean;
  nothing: null;
  maybe: number | null;
  text: string;
  data: Uint8Array;
  numbers: bigint[];
  mixed: [number, string];
  table: Map<string, number>;
  words: Set<string>;
  color: Color;
  state: "off" | "on";
  when: Date;
  point: Point;
  pair: Pair;
  shape: Circle | Square;
  leftOut: number;
  empty: number[];
}
export const EverythingJson = /* @__PURE__ */ message<EverythingJson, "leftOut" | "empty">(11103, "EverythingJson", json, {
  smallInt: u8,
  largeInt: u64,
  signedInt: i64,
  real: float,
  yes: bool,
  nothing: none,
  maybe: /* @__PURE__ */ optional(int),
  text: str,
  data: bytes,
  numbers: /* @__PURE__ */ list(i64),
  mixed: /* @__PURE__ */ tuple(int, str),
  table: /* @__PURE__ */ dict(str, int),
  words: /* @__PURE__ */ set(str),
  color: /* @__PURE__ */ enumOf(Color),
  state: /* @__PURE__ */ literal("off", "on"),
  when: datetime,
  point: Point,
  pair: Pair,
  shape: /* @__PURE__ */ union(Circle, Square),
  leftOut: /* @__PURE__ */ withDefault(int, 7),
  empty: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(int), () => []),
});

/** The binary layout: numbers of each width, text and bytes. */
export interface Fields {
  u8: number;
  u16: number;
  u32: number;
  u64: bigint;
  i8: number;
  i16: number;
  i32: number;
  i64: bigint;
  f32: number;
  f64: number;
  yes: boolean;
  text: string;
  data: Uint8Array;
}
export const Fields = /* @__PURE__ */ message<Fields>(11104, "Fields", binary, {
  u8: u8,
  u16: u16,
  u32: u32,
  u64: u64,
  i8: i8,
  i16: i16,
  i32: i32,
  i64: i64,
  f32: f32,
  f64: f64,
  yes: bool,
  text: str,
  data: bytes,
});

/** Bytes as they are. */
export const Raw = /* @__PURE__ */ rawMessage(11105, "Raw");

/** A request, of either side. From 1000 on it is refused with its number. */
export interface Ask {
  number: bigint;
}
export const Ask = /* @__PURE__ */ request<Ask, Told>(11106, "Ask", msgpack, { number: u64 }, () => Told);

/** The answer to `Ask`. */
export interface Told {
  number: bigint;
}
export const Told = /* @__PURE__ */ message<Told>(11107, "Told", msgpack, { number: u64 });
