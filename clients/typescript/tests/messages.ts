// Made by `gatelink messages typescript` from messages.json. Do not edit.

import {
  any,
  binary,
  binaryStrict,
  bool,
  bytes,
  datetime,
  dict,
  enumOf,
  f32,
  f64,
  float,
  i16,
  i64,
  int,
  json,
  lazy,
  limited,
  list,
  literal,
  maybe,
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
  type Schema,
} from "gatelink";

/** Comes back as it was sent. */
export interface Echo {
  n: number;
  text: string;
}
export const Echo = /* @__PURE__ */ message<Echo, "text">(11001, "Echo", msgpack, {
  n: int,
  text: /* @__PURE__ */ withDefault(str, ""),
});

/** Comes back as it was sent. */
export const Blob = /* @__PURE__ */ rawMessage(11002, "Blob");

export interface Add {
  numbers: bigint[];
}
export const Add = /* @__PURE__ */ request<Add, Sum>(11003, "Add", msgpack, {
  numbers: /* @__PURE__ */ list(u64),
}, () => Sum);

export interface Sum {
  total: bigint;
}
export const Sum = /* @__PURE__ */ message<Sum>(11004, "Sum", msgpack, { total: u64 });

/** The server asks the client: what is this number, doubled? */
export interface Ask {
  n: number;
}
export const Ask = /* @__PURE__ */ request<Ask, Told>(11005, "Ask", msgpack, { n: int }, () => Told);

export interface Told {
  n: number;
}
export const Told = /* @__PURE__ */ message<Told>(11006, "Told", msgpack, { n: int });

/** Tells the server to do something to this session. */
export interface Order {
  what: string;
  n: number;
}
export const Order = /* @__PURE__ */ message<Order, "n">(11007, "Order", msgpack, {
  what: str,
  n: /* @__PURE__ */ withDefault(int, 0),
});

export interface Point {
  x: number;
  y: number;
}
export const Point = /* @__PURE__ */ struct<Point, "y">("Point", {
  x: float,
  y: /* @__PURE__ */ withDefault(float, 0),
});

export const Mood = { HAPPY: "happy", SAD: "sad" } as const;
export type Mood = (typeof Mood)[keyof typeof Mood];

export interface Pair {
  a: number;
  b: string;
}
export const Pair = /* @__PURE__ */ struct<Pair>("Pair", { a: int, b: str }, { arrayLike: true });

export interface Circle {
  type: "circle";
  r: number;
}
export const Circle = /* @__PURE__ */ struct<Circle, "type">("Circle", { r: float }, { tag: ["type", "circle"] });

export interface Square {
  type: "square";
  side: number;
}
export const Square = /* @__PURE__ */ struct<Square, "type">("Square", { side: int }, { tag: ["type", "square"] });

export interface Tree {
  value: number;
  children: Tree[];
}
export const Tree = /* @__PURE__ */ struct<Tree, "children">("Tree", {
  value: int,
  children: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(/* @__PURE__ */ lazy((): Schema<Tree> => Tree)), () => []),
});

export interface InMsgpack {
  flag: boolean;
  whole: number;
  long: bigint;
  real: number;
  text: string;
  data: Uint8Array;
  nothing: null;
  perhaps: string | null;
  items: number[];
  pair: [number, string];
  names: Set<string>;
  ages: Map<string, number>;
  byId: Map<bigint, Point>;
  mood: Mood;
  level: 1 | 2 | 3;
  when: Date;
  at: Point;
  both: Pair;
  shape: Circle | Square;
  mixed: number | string | null;
  number: number;
  tree: Tree;
  bounded: number;
  word: string;
  camelCase: number;
  unset?: number;
  defaulted: number[];
  whatever: unknown;
}
export const InMsgpack = /* @__PURE__ */ message<InMsgpack, "defaulted">(11010, "InMsgpack", msgpack, {
  flag: bool,
  whole: int,
  long: i64,
  real: float,
  text: str,
  data: bytes,
  nothing: none,
  perhaps: /* @__PURE__ */ optional(str),
  items: /* @__PURE__ */ list(int),
  pair: /* @__PURE__ */ tuple(int, str),
  names: /* @__PURE__ */ set(str),
  ages: /* @__PURE__ */ dict(str, int),
  byId: /* @__PURE__ */ dict(u64, Point),
  mood: /* @__PURE__ */ enumOf(Mood),
  level: /* @__PURE__ */ literal(1, 2, 3),
  when: datetime,
  at: Point,
  both: Pair,
  shape: /* @__PURE__ */ union(Circle, Square),
  mixed: /* @__PURE__ */ union(int, str, none),
  number: /* @__PURE__ */ union(int, float),
  tree: Tree,
  bounded: /* @__PURE__ */ limited(int, { ge: 0, lt: 10 }),
  word: /* @__PURE__ */ limited(str, { minLength: 1, maxLength: 4, pattern: "^[a-zé]+$" }),
  camelCase: u8,
  unset: /* @__PURE__ */ maybe(int),
  defaulted: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(int), () => []),
  whatever: any,
});

export interface InJson {
  flag: boolean;
  whole: number;
  long: bigint;
  real: number;
  text: string;
  data: Uint8Array;
  nothing: null;
  perhaps: string | null;
  items: number[];
  pair: [number, string];
  names: Set<string>;
  ages: Map<string, number>;
  byId: Map<bigint, Point>;
  mood: Mood;
  level: 1 | 2 | 3;
  when: Date;
  at: Point;
  both: Pair;
  shape: Circle | Square;
  mixed: number | string | null;
  number: number;
  tree: Tree;
  bounded: number;
  word: string;
  camelCase: number;
  unset?: number;
  defaulted: number[];
  whatever: unknown;
}
export const InJson = /* @__PURE__ */ message<InJson, "defaulted">(11011, "InJson", json, {
  flag: bool,
  whole: int,
  long: i64,
  real: float,
  text: str,
  data: bytes,
  nothing: none,
  perhaps: /* @__PURE__ */ optional(str),
  items: /* @__PURE__ */ list(int),
  pair: /* @__PURE__ */ tuple(int, str),
  names: /* @__PURE__ */ set(str),
  ages: /* @__PURE__ */ dict(str, int),
  byId: /* @__PURE__ */ dict(u64, Point),
  mood: /* @__PURE__ */ enumOf(Mood),
  level: /* @__PURE__ */ literal(1, 2, 3),
  when: datetime,
  at: Point,
  both: Pair,
  shape: /* @__PURE__ */ union(Circle, Square),
  mixed: /* @__PURE__ */ union(int, str, none),
  number: /* @__PURE__ */ union(int, float),
  tree: Tree,
  bounded: /* @__PURE__ */ limited(int, { ge: 0, lt: 10 }),
  word: /* @__PURE__ */ limited(str, { minLength: 1, maxLength: 4, pattern: "^[a-zé]+$" }),
  camelCase: u8,
  unset: /* @__PURE__ */ maybe(int),
  defaulted: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(int), () => []),
  whatever: any,
});

export interface InBinary {
  a: number;
  b: number;
  c: number;
  d: bigint;
  e: number;
  f: bigint;
  g: number;
  h: number;
  flag: boolean;
  text: string;
  data: Uint8Array;
  last: number;
}
export const InBinary = /* @__PURE__ */ message<InBinary>(11012, "InBinary", binary, {
  a: u8,
  b: u16,
  c: u32,
  d: u64,
  e: i16,
  f: i64,
  g: f32,
  h: f64,
  flag: bool,
  text: str,
  data: bytes,
  last: u8,
});

export interface InBinaryStrict {
  a: number;
  b: number;
  c: number;
  d: bigint;
  e: number;
  f: bigint;
  g: number;
  h: number;
  flag: boolean;
  text: string;
  data: Uint8Array;
  last: number;
}
export const InBinaryStrict = /* @__PURE__ */ message<InBinaryStrict>(11013, "InBinaryStrict", binaryStrict, {
  a: u8,
  b: u16,
  c: u32,
  d: u64,
  e: i16,
  f: i64,
  g: f32,
  h: f64,
  flag: bool,
  text: str,
  data: bytes,
  last: u8,
});
