import { describe, expect, test } from "vitest";
import { decompress, unscramble } from "../../src/body.ts";
import { cutText, decodeText, encodeText, join } from "../../src/bytes.ts";
import { delay } from "../../src/backoff.ts";
import { BodyError, ProtocolError } from "../../src/errors.ts";
import { encodeFrame, FrameDecoder, type Frame } from "../../src/frames.ts";
import { parseJson } from "../../src/parse_json.ts";
import { follow, parseAddress } from "../../src/target.ts";
import { unhex } from "../python.ts";

function frames(decoder: FrameDecoder): Frame[] {
  const found: Frame[] = [];
  for (let frame; (frame = decoder.next()); ) found.push(frame);
  return found;
}

describe("frames", () => {
  test("are the same whole, byte by byte, and in any pieces", () => {
    const sent = Array.from({ length: 50 }, (_, n) => encodeFrame(11_000 + n, new Uint8Array(n * 7).fill(n), n % 3 ? 0 : 8, n));
    const stream = join(sent);
    const whole = new FrameDecoder(1_000);
    whole.allowsTags = true;
    whole.push(stream);
    const expected = frames(whole);
    expect(expected).toHaveLength(50);
    for (const size of [1, 2, 3, 5, 7, 64, 1_000]) {
      const decoder = new FrameDecoder(1_000);
      decoder.allowsTags = true;
      const found: Frame[] = [];
      for (let at = 0; at < stream.length; at += size) {
        decoder.push(stream.slice(at, at + size));
        found.push(...frames(decoder));
      }
      expect(found).toEqual(expected);
    }
  });

  test("with tags are refused before both sides agreed on them", () => {
    const decoder = new FrameDecoder(1_000);
    decoder.push(encodeFrame(11_001, new Uint8Array(0), 8, 1));
    expect(() => decoder.next()).toThrow(ProtocolError);
  });

  test("that are too large are refused by their header alone", () => {
    const decoder = new FrameDecoder(1_000);
    decoder.push(Uint8Array.of(0xe9, 3, 0, 0));
    expect(() => decoder.next()).toThrow("1001");
  });
});

describe("bodies", () => {
  test("of the base cipher are those of the vectors", () => {
    // tests/vectors/base.jsonl is checked end to end; this is the cipher's definition
    const key = [0x29, 0xfd, 0x01, 0x38, 0x34, 0x3e, 0xb0, 0x2a];
    const plain = Uint8Array.from({ length: 200 }, (_, i) => (i * 37) & 0xff);
    const scrambled = plain.map((byte, i) => (((byte << ((i % 7) + 1)) | (byte >> (7 - (i % 7)))) & 0xff) ^ key[i % 8]!);
    expect(unscramble(scrambled)).toEqual(plain);
  });

  test.each([
    ["a literal", "0300ff0000".slice(0, 2) + "08" + "616263", "616263"],
    ["a copy that overlaps", "0a" + "00" + "61" + "1501", "61".repeat(10)],
    ["nothing", "00", ""],
  ])("with %s", (_, block, body) => {
    expect(Buffer.from(decompress(unhex(block), 1_000)).toString("hex")).toBe(body);
  });

  test.each(["", "03", "0308616263ff", "03086162", "0a0061150a", "0a00611500", "ffffffffffff", "0508616263"])("%s are refused", (block) => {
    expect(() => decompress(unhex(block), 1_000)).toThrow(BodyError);
  });
});

test("texts that are no UTF-8 come back as they were", () => {
  for (let round = 0; round < 300; round++) {
    const bytes = Uint8Array.from({ length: round % 20 }, (_, i) => (round * 31 + i * i * 97) & 0xff);
    expect(encodeText(decodeText(bytes))).toEqual(bytes);
  }
  expect(decodeText(Uint8Array.of(0x61, 0xff, 0xc3, 0xa9))).toBe("a\udcffé");
});

test("a reason is cut between characters", () => {
  expect(cutText("é".repeat(100), 123)).toHaveLength(122);
  expect(cutText("short", 123)).toHaveLength(5);
});

test("JSON keeps whole numbers of 64 bits, in texts and beside fractions, too", () => {
  const text = '{"a":9007199254740993,"b":["9007199254740993",1.2345678901234567,-18446744073709551615,1e30],"c\\"9007199254740993":5}';
  expect(parseJson(text)).toEqual({
    a: 9007199254740993n,
    b: ["9007199254740993", 1.2345678901234567, -18446744073709551615n, 1e30],
    'c"9007199254740993': 5,
  });
});

test.each([
  ["wss://a", "wss://b/x", "wss://b/x"],
  ["wss://a", "ws://b", "wss://a"],
  ["ws://a", "ws://b", "ws://b"],
  ["ws://a", "wss://b", "wss://b"],
  ["wss://a", "tls://b", "wss://a"],
  ["wss://a", "no address", "wss://a"],
  ["wss://a", "", "wss://a"],
])("from %s the address %j leads to %s", (here, there, expected) => {
  expect(follow(there, here)).toBe(expected);
});

test("addresses are ws:// or wss:// and a host", () => {
  expect(parseAddress("wss://play.example.com/gates/1").host).toBe("play.example.com");
  for (const wrong of ["", "play.example.com", "https://x", "tcp://x:1", "wss://"]) expect(() => parseAddress(wrong)).toThrow(wrong);
});

test("delays are random, double, and have a longest", () => {
  const most = (failures: number): number => Math.max(...Array.from({ length: 500 }, () => delay({ first: 100, most: 1_000 }, failures)));
  expect(most(0)).toBeLessThanOrEqual(100);
  expect(most(2)).toBeGreaterThan(200);
  expect(most(2)).toBeLessThanOrEqual(400);
  expect(most(60)).toBeLessThanOrEqual(1_000);
});
