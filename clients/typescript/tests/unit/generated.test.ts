/** What `gatelink messages typescript` writes: every_type.ts has each type that a messages.json can have. */

import { expect, test } from "vitest";
import { InvalidMessage, type MessageType } from "gatelink";
import { Ask, Disc, Find, Fixed, Line, Mood, Numbers, Spot, Table, TableRow, Texts, Tree, Unions, Circle } from "../every_type.ts";

function back<T>(type: MessageType<T>, message: T): T {
  return type.decode(type.encode(message));
}

const numbers = { any_int: 1, bounded: 2, far: 2n ** 61n, uid: 2n ** 64n - 1n, small: 5, even: 2, any_float: 1.5, share: 0.5 };

test("a field with a default may be left out, and has it then", () => {
  const found = back(Numbers, Numbers(numbers));
  expect(found).toMatchObject({ ...numbers, ids: [], count: 7, uid_or_not: null, zero: 0n });
  expect(Numbers(numbers).ids).not.toBe(Numbers(numbers).ids);
  // @ts-expect-error a field without a default
  expect(() => Numbers.encode(Numbers({ any_int: 1 }))).toThrow(InvalidMessage);
});

test("bounds are checked before a message leaves", () => {
  expect(() => Numbers.encode(Numbers({ ...numbers, bounded: 10 }))).toThrow(/Numbers.bounded/);
  expect(() => Numbers.encode(Numbers({ ...numbers, far: 2n ** 62n + 1n }))).toThrow(/Numbers.far/);
  expect(() => Texts.encode(Texts({ anyText: "", shortText: "A", digits: "x", data: new Uint8Array() }))).toThrow(/Texts.shortText/);
});

test("names on the wire are the properties, and an unset field stays so", () => {
  const found = back(Texts, Texts({ anyText: "é", shortText: "a", digits: "x", data: Uint8Array.of(0) }));
  expect(found).toMatchObject({ defaultText: 'say "hello"', "a-b": "", someData: Uint8Array.of(97, 98) });
  expect("maybeText" in found).toBe(false);
});

test("unions, tags, enums, types that contain themselves and defaults of all of them come back", () => {
  const sent = Unions({
    shape: Disc({ radius: 2 }),
    line: Line({ start: 0.5 }),
    value: [1, 2],
    mood: Mood.HAPPY,
    level: 2,
    rights: 3,
    kind: "b",
    number: null,
    tree: Tree({ name: "root", children: [Tree({ name: "leaf" })] }),
    spot: Spot({ x: 1 }),
    extra: { size: 1 },
    colour: { red: 1, green: 2 },
    flag: true,
  });
  const found = back(Unions, sent);
  expect(found).toMatchObject({ feels: "very sad", start: { x: 1, y: 0 }, line: { type: 3, start: 0.5, end: 1 } });
  expect(found.shape).toEqual({ type: "disc", radius: 2 });
  if (found.shape.type === "disc") expect(found.shape.radius).toBe(2); // narrowed by its tag
  // @ts-expect-error no value of the Enum
  expect(() => Unions.encode(Unions({ ...sent, mood: "angry" }))).toThrow(/Unions.mood/);
});

test("a request knows its answer, a raw one too", () => {
  expect(Ask.answer()).toBe(Table);
  expect((Find as { answer?: () => unknown }).answer?.()).toBe(Table);
  const found = back(Table, Table({ rows: [TableRow({ id: 1 })], circle: Circle({ radius: 1 }) }));
  expect(found.rows[0]).toMatchObject({ id: 1, name: "?" });
});

test("the binary layout has every width", () => {
  const sent = { a: 1, b: 2, c: 3, d: 4n, e: -5, f: -6, g: -7, h: -8n, i: 0.5, j: 0.1, k: true, l: "é", m: Uint8Array.of(9) };
  expect(back(Fixed, Fixed(sent))).toMatchObject(sent);
  expect(Fixed.encode(Fixed(sent)).length).toBe(15 + 15 + 12 + 1 + 4 + 3);
});
