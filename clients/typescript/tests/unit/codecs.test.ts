import { afterAll, describe, expect, test } from "vitest";
import { BodyError, InvalidMessage, type Init, MessageTooLarge, type MessageType } from "../../src/index.ts";
import { Circle, Echo, InBinary, InBinaryStrict, InJson, InMsgpack, Point, Sum, Tree } from "../messages.ts";
import { hex, Python, unhex } from "../python.ts";

const python = new Python("codec");
afterAll(() => python.end());

const TYPES = [InMsgpack, InJson, InBinary, InBinaryStrict] as unknown as MessageType<unknown>[];
const ROUNDS = 100;

const valid: Init<InMsgpack, "defaulted"> = {
  flag: true,
  whole: 1,
  long: 2n ** 53n + 1n,
  real: 1.5,
  text: "é",
  data: Uint8Array.of(1, 2),
  nothing: null,
  perhaps: null,
  items: [1, -1],
  pair: [1, "a"],
  names: new Set(["a"]),
  ages: new Map([["__proto__", 3]]),
  byId: new Map([[2n ** 64n - 1n, Point({ x: 1 })]]),
  mood: "sad",
  level: 3,
  when: new Date(1_700_000_000_123),
  at: Point({ x: 0.5 }),
  both: { a: 1, b: "b" },
  shape: Circle({ r: 2 }),
  mixed: "x",
  number: 2.5,
  tree: Tree({ value: 1, children: [Tree({ value: 2 })] }),
  bounded: 9,
  word: "zé",
  camelCase: 7,
  whatever: [1, "a", null, new Map([["k", 2n ** 60n]])],
};

function bad(change: Record<string, unknown>): Init<InMsgpack, "defaulted"> {
  return { ...valid, ...change } as Init<InMsgpack, "defaulted">;
}

describe.each(TYPES.map((type) => [type.label, type] as const))("%s", (_, type) => {
  test("takes what Python makes, and writes it so that Python reads the same", async () => {
    const { id } = type;
    const checks = Array.from({ length: ROUNDS }, async (_, seed) => {
      const { body } = await python.ask<{ body: string }>({ make: id, seed });
      const again = hex(type.encode(type.decode(unhex(body))));
      if (type.label !== "InJson") expect(again === body, `seed ${seed}`).toBe(true); // JSON has several texts for one float
      const { same } = await python.ask<{ same: boolean }>({ same: id, a: body, b: again });
      expect(same, `seed ${seed}`).toBe(true);
    });
    await Promise.all(checks);
  });

  test("gives a message or BodyError for any bytes", async () => {
    let random = 12345;
    const next = (below: number): number => (random = (random * 1103515245 + 12345) % 2 ** 31) % below;
    let refused = 0;
    for (let seed = 1000; seed < 1030; seed++) {
      const { body } = await python.ask<{ body: string }>({ make: type.id, seed });
      const bytes = unhex(body);
      for (let i = 0; i < 30; i++) {
        const broken = bytes.slice(0, next(3) ? bytes.length : next(bytes.length));
        for (let change = next(4); change > 0 && broken.length; change--) broken[next(Math.min(400, broken.length))] = next(256);
        try {
          type.decode(broken);
        } catch (error) {
          expect(error).toBeInstanceOf(BodyError);
          refused++;
        }
      }
    }
    expect(refused).toBeGreaterThan(10);
  });
});

describe.each([
  ["msgpack", InMsgpack],
  ["json", InJson],
] as const)("%s", (_, type) => {
  test("comes back as it was, and Python takes it", async () => {
    const body = type.encode(type(valid));
    expect(type.decode(body)).toEqual(type(valid));
    expect(await python.ask({ take: type.id, body: hex(body) })).toHaveProperty("body");
  });

  test.each([
    ["whole", 1.5],
    ["whole", 2 ** 53],
    ["whole", 1n],
    ["whole", undefined],
    ["long", 1],
    ["real", "1"],
    ["text", 1],
    ["text", "\ud800"],
    ["data", [1]],
    ["nothing", undefined],
    ["perhaps", undefined],
    ["items", [1, "a"]],
    ["pair", [1]],
    ["names", ["a"]],
    ["ages", { a: 1 }],
    ["byId", new Map([[1, { x: 1, y: 1 }]])],
    ["mood", "angry"],
    ["level", 4],
    ["when", 5],
    ["when", new Date(NaN)],
    ["at", { x: 1 }],
    ["shape", { r: 1 }],
    ["mixed", true],
    ["bounded", 10],
    ["bounded", -1],
    ["word", ""],
    ["word", "abcde"],
    ["word", "A"],
    ["whatever", () => 1],
  ])("refuses to write %s = %s", (field, value) => {
    expect(() => type.encode(type(bad({ [field]: value })))).toThrow(InvalidMessage);
    expect(() => type.encode(type(bad({ [field]: value })))).toThrow(field);
  });
});

test("JSON can't write NaN, MessagePack can", () => {
  expect(() => InJson.encode(InJson(bad({ real: NaN })))).toThrow(InvalidMessage);
  expect(InMsgpack.decode(InMsgpack.encode(InMsgpack(bad({ real: NaN })))).real).toBeNaN();
});

test("a number that a double can't hold is refused, not rounded", () => {
  const sum = Sum.encode(Sum({ total: 2n ** 53n + 1n }));
  expect(Sum.decode(sum).total).toBe(2n ** 53n + 1n);
  expect(() => Echo.decode(unhex("81a16ecf0020000000000001"))).toThrow(/n: .*double/);
  expect(() => Sum.encode(Sum({ total: 2n ** 64n }))).toThrow(InvalidMessage);
});

test("unknown fields are skipped, missing ones get their default", () => {
  // {"z": [1, {"a": null}], "n": 5}
  const echo = Echo.decode(unhex("82a17a9201" + "81a161c0" + "a16e05"));
  expect(echo).toEqual(Echo({ n: 5 }));
  expect(echo.text).toBe("");
  expect(() => Echo.decode(unhex("80"))).toThrow("Echo.n: is missing");
  expect(() => Echo.decode(unhex("81a16e05c0"))).toThrow("bytes behind the message");
});

test("each message gets a default of its own", () => {
  expect(InMsgpack(valid).defaulted).not.toBe(InMsgpack(valid).defaulted);
  expect(Tree({ value: 1 }).children).not.toBe(Tree({ value: 1 }).children);
});

test("the binary codec refuses what does not fit its widths", () => {
  const fixed: InBinary = { a: 1, b: 2, c: 3, d: 4n, e: -5, f: -6n, g: 0.5, h: 0.1, flag: true, text: "t", data: new Uint8Array(2), last: 9 };
  const change = (field: object) => () => InBinary.encode(InBinary({ ...fixed, ...field }));
  expect(change({ a: 256 })).toThrow(InvalidMessage);
  expect(change({ e: -32_769 })).toThrow("InBinary.e");
  expect(change({ d: -1n })).toThrow(InvalidMessage);
  expect(change({ d: 2n ** 64n })).toThrow(InvalidMessage);
  expect(change({ g: 1e300 })).toThrow(InvalidMessage);
  expect(change({ text: "x".repeat(65_536) })).toThrow(MessageTooLarge);
  const body = InBinary.encode(InBinary(fixed));
  const longer = Uint8Array.from([...body, 0]);
  expect(InBinary.decode(longer)).toMatchObject(fixed);
  expect(() => InBinaryStrict.decode(longer)).toThrow(BodyError);
});
