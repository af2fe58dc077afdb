// Made by `gatelink messages typescript` from messages.json. Do not edit.

import {
  any,
  bigint,
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
  i32,
  i64,
  i8,
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
  rawRequest,
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

/**
 * Numbers, with bounds
 * and without.
 *
 * A comment can't be ended by *\/ in it.
 */
export interface Numbers {
  any_int: number;
  bounded: number;
  far: bigint;
  uid: bigint;
  small: number;
  even: number;
  any_float: number;
  /** A part of the whole. */
  share: number;
  ids: bigint[];
  count: number;
  uid_or_not: bigint | null;
  zero: bigint;
}
export const Numbers = /* @__PURE__ */ message<Numbers, "ids" | "count" | "uid_or_not" | "zero">(21001, "Numbers", msgpack, {
  any_int: int,
  bounded: /* @__PURE__ */ limited(int, { ge: 0, lt: 10 }),
  far: /* @__PURE__ */ limited(bigint, { ge: -9223372036854775808n, le: 4611686018427387904n }),
  uid: u64,
  small: u8,
  even: /* @__PURE__ */ limited(int, { multipleOf: 2 }),
  any_float: float,
  share: /* @__PURE__ */ limited(float, { gt: 0.0, le: 1.0 }),
  ids: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(u64), () => []),
  count: /* @__PURE__ */ withDefault(int, 7),
  uid_or_not: /* @__PURE__ */ withDefault(/* @__PURE__ */ optional(u64), null),
  zero: /* @__PURE__ */ withDefault(u64, 0n),
});

export interface Texts {
  anyText: string;
  shortText: string;
  /** The server checks it with a pattern that JavaScript may read otherwise. */
  digits: string;
  data: Uint8Array;
  someData: Uint8Array;
  defaultText: string;
  maybeText?: string;
  made?: string;
  "a-b": string;
}
export const Texts = /* @__PURE__ */ message<Texts, "someData" | "defaultText" | "a-b">(21002, "Texts", msgpack, {
  anyText: str,
  shortText: /* @__PURE__ */ limited(str, { minLength: 1, maxLength: 20, pattern: "^[a-z]+$" }),
  digits: str,
  data: bytes,
  someData: /* @__PURE__ */ withDefault(/* @__PURE__ */ limited(bytes, { maxLength: 4 }), () => new Uint8Array([97, 98])),
  defaultText: /* @__PURE__ */ withDefault(str, "say \"hello\""),
  maybeText: /* @__PURE__ */ maybe(str),
  made: /* @__PURE__ */ maybe(str),
  "a-b": /* @__PURE__ */ withDefault(str, ""),
});

export interface Times {
  at: Date;
  zoned: Date;
  /** As text: a date. */
  day: string;
  /** As text: a time. */
  hour: string;
  /** As text: a timedelta. */
  pause: string;
  /** As text: a UUID. */
  id: string;
  /** As text: a Decimal. */
  price: string;
  since: Date;
}
export const Times = /* @__PURE__ */ message<Times, "since">(21003, "Times", msgpack, {
  at: datetime,
  zoned: datetime,
  day: str,
  hour: str,
  pause: str,
  id: str,
  price: str,
  since: /* @__PURE__ */ withDefault(datetime, () => new Date("2026-01-02T00:00:00.000Z")),
});

export interface BoxInt {
  content: number;
}
export const BoxInt = /* @__PURE__ */ struct<BoxInt>("BoxInt", { content: int });

export interface BoxListStr {
  content: string[];
}
export const BoxListStr = /* @__PURE__ */ struct<BoxListStr>("BoxListStr", { content: /* @__PURE__ */ list(str) });

export interface Containers {
  names: string[];
  several: number[];
  pair: [number, string];
  row: number[];
  unique: Set<number>;
  frozen: Set<string>;
  scores: Map<string, number>;
  by_id: Map<number, (number | null)[]>;
  anything: unknown;
  boxed: BoxInt;
  boxes: BoxListStr;
  tags: Set<string>;
  limits: Map<string, number>;
  origin: [number, number];
  nothing: null;
}
export const Containers = /* @__PURE__ */ message<Containers, "tags" | "limits" | "origin" | "nothing">(21004, "Containers", msgpack, {
  names: /* @__PURE__ */ list(str),
  several: /* @__PURE__ */ limited(/* @__PURE__ */ list(int), { minLength: 1, maxLength: 3 }),
  pair: /* @__PURE__ */ tuple(int, str),
  row: /* @__PURE__ */ list(int),
  unique: /* @__PURE__ */ set(int),
  frozen: /* @__PURE__ */ set(str),
  scores: /* @__PURE__ */ dict(str, int),
  by_id: /* @__PURE__ */ dict(int, /* @__PURE__ */ list(/* @__PURE__ */ optional(float))),
  anything: any,
  boxed: BoxInt,
  boxes: BoxListStr,
  tags: /* @__PURE__ */ withDefault(/* @__PURE__ */ set(str), () => new Set()),
  limits: /* @__PURE__ */ withDefault(/* @__PURE__ */ dict(str, int), () => new Map()),
  origin: /* @__PURE__ */ withDefault(/* @__PURE__ */ tuple(int, int), () => [0, 0]),
  nothing: /* @__PURE__ */ withDefault(none, null),
});

export interface Disc {
  type: "disc";
  radius: number;
}
export const Disc = /* @__PURE__ */ struct<Disc, "type">("Disc", { radius: float }, { tag: ["type", "disc"] });

export interface Square {
  type: "square";
  side: number;
}
export const Square = /* @__PURE__ */ struct<Square, "type">("Square", { side: float }, { tag: ["type", "square"] });

/** An array on the wire: [3, from, to]. */
export interface Line {
  type: 3;
  start: number;
  end: number;
}
export const Line = /* @__PURE__ */ struct<Line, "type" | "end">("Line", {
  start: float,
  end: /* @__PURE__ */ withDefault(float, 1.0),
}, { arrayLike: true, tag: ["type", 3] });

/** How a player feels. */
export const Mood = { HAPPY: "happy", VERY_SAD: "very sad" } as const;
export type Mood = (typeof Mood)[keyof typeof Mood];

export const Level = { LOW: 1, HIGH: 2 } as const;
export type Level = (typeof Level)[keyof typeof Level];

/** What a player may do. */
export const Rights = { TALK: 1, BAN: 2 } as const;
/** Any union of the bits in {@link Rights}. */
export type Rights = number;

/** A type that contains itself. */
export interface Tree {
  name: string;
  children: Tree[];
}
export const Tree = /* @__PURE__ */ struct<Tree, "children">("Tree", {
  name: str,
  children: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(/* @__PURE__ */ lazy((): Schema<Tree> => Tree)), () => []),
});

export interface Spot {
  x: number;
  y: number;
}
export const Spot = /* @__PURE__ */ struct<Spot, "y">("Spot", {
  x: int,
  y: /* @__PURE__ */ withDefault(int, 0),
}, { arrayLike: true });

export interface Extra {
  note?: string;
  size: number;
}
export const Extra = /* @__PURE__ */ struct<Extra>("Extra", { note: /* @__PURE__ */ maybe(str), size: int });

export interface Colour {
  red: number;
  green: number;
}
export const Colour = /* @__PURE__ */ struct<Colour, "red" | "green">("Colour", {
  red: /* @__PURE__ */ withDefault(int, 0),
  green: /* @__PURE__ */ withDefault(int, 0),
});

export interface Unions {
  shape: Disc | Square;
  line: Line;
  value: number | string | number[] | null;
  mood: Mood;
  level: Level | null;
  rights: Rights;
  kind: "a" | "b";
  number: null | 1 | 2;
  tree: Tree;
  spot: Spot;
  extra: Extra;
  colour: Colour;
  flag: boolean;
  feels: Mood;
  start: Spot;
  best?: Disc | Square;
}
export const Unions = /* @__PURE__ */ message<Unions, "feels" | "start">(21005, "Unions", msgpack, {
  shape: /* @__PURE__ */ union(Disc, Square),
  line: Line,
  value: /* @__PURE__ */ union(int, str, /* @__PURE__ */ list(int), none),
  mood: /* @__PURE__ */ enumOf(Mood),
  level: /* @__PURE__ */ optional(/* @__PURE__ */ enumOf(Level)),
  rights: int,
  kind: /* @__PURE__ */ literal("a", "b"),
  number: /* @__PURE__ */ literal(null, 1, 2),
  tree: Tree,
  spot: Spot,
  extra: Extra,
  colour: Colour,
  flag: bool,
  feels: /* @__PURE__ */ withDefault(/* @__PURE__ */ enumOf(Mood), Mood.VERY_SAD),
  start: /* @__PURE__ */ withDefault(Spot, () => Spot({ x: 1, y: 0 })),
  best: /* @__PURE__ */ maybe(/* @__PURE__ */ union(Disc, Square)),
});

export interface TableRow {
  id: number;
  name: string;
}
export const TableRow = /* @__PURE__ */ message<TableRow, "name">(21006, "table.row", msgpack, {
  id: int,
  name: /* @__PURE__ */ withDefault(str, "?"),
}, { arrayLike: true });

export interface Circle {
  type: "circle";
  radius: number;
}
export const Circle = /* @__PURE__ */ struct<Circle, "type">("Circle", { radius: float }, { tag: ["type", "circle"] });

export interface Table {
  rows: TableRow[];
  circle: Circle;
}
export const Table = /* @__PURE__ */ message<Table>(21007, "Table", msgpack, {
  rows: /* @__PURE__ */ list(TableRow),
  circle: Circle,
});

/** A request. */
export interface Ask {
  page: number;
}
export const Ask = /* @__PURE__ */ request<Ask, Table, "page">(21008, "Ask", msgpack, {
  page: /* @__PURE__ */ withDefault(int, 0),
}, () => Table);

export interface Profile {
  name: string;
  moods: Map<Mood, number>;
}
export const Profile = /* @__PURE__ */ message<Profile>(21009, "Profile", json, {
  name: str,
  moods: /* @__PURE__ */ dict(/* @__PURE__ */ enumOf(Mood), int),
});

export interface Fixed {
  a: number;
  b: number;
  c: number;
  d: bigint;
  e: number;
  f: number;
  g: number;
  h: bigint;
  i: number;
  j: number;
  k: boolean;
  l: string;
  m: Uint8Array;
}
export const Fixed = /* @__PURE__ */ message<Fixed>(21010, "Fixed", binary, {
  a: u8,
  b: u16,
  c: u32,
  d: u64,
  e: i8,
  f: i16,
  g: i32,
  h: i64,
  i: f32,
  j: f64,
  k: bool,
  l: str,
  m: bytes,
});

export interface Exact {
  a: number;
}
export const Exact = /* @__PURE__ */ message<Exact>(21011, "Exact", binaryStrict, { a: u8 });

/** Raw bytes. */
export const Voice = /* @__PURE__ */ rawMessage(21012, "Voice");

/** The body is of the server's own codec: encode and decode it yourself. */
export const Spell = /* @__PURE__ */ rawMessage(21013, "Spell");

export const Find = /* @__PURE__ */ rawRequest(21014, "Find", () => Table);
