/** The vectors of the extension (docs/vectors), as far as a client without Noise meets them. */

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { controlFrame, decodeControl, type Control } from "../../src/control.ts";
import { ProtocolError, RequestCode, requestCode } from "../../src/errors.ts";
import { ANSWER, encodeFrame, FAILED, FrameDecoder, REQUEST, type Frame } from "../../src/frames.ts";
import { parseJson } from "../../src/parse_json.ts";
import { Requests } from "../../src/requests.ts";
import { clientMac, importKey, isServerMac } from "../../src/resume.ts";
import { hex, unhex } from "../python.ts";

interface Vector {
  kind: string;
  name: string;
  note: string;
  frame: string;
  body?: string;
  fields: Record<string, string | number | bigint>;
  mac_of: Record<string, string | number>;
}

const LINES = readFileSync(new URL("../../../../docs/vectors/extension.jsonl", import.meta.url), "utf8").trim().split("\n");
const VECTORS = LINES.map((line) => parseJson(line) as Vector);
const TYPES: Record<string, number> = {
  HELLO: 1, TICKET: 3, RESUME: 4, RESUMED: 5, PING: 6, PONG: 7, ACK: 8, CLOSE: 9, GOAWAY: 10, RENEW: 11, RENEWED: 12, EXPIRING: 13, LOST: 14,
};

function of(kind: string): [string, Vector][] {
  return VECTORS.filter((vector) => vector.kind === kind).map((vector) => [`${vector.name ?? ""} ${vector.note}`, vector]);
}

function frameOf(text: string): Frame {
  const decoder = new FrameDecoder(1 << 20);
  decoder.allowsTags = true;
  decoder.push(unhex(text));
  const frame = decoder.next();
  expect(decoder.next()).toBeUndefined();
  return frame!;
}

/** The record with the vector's fields, under our names. */
function recordOf({ name, fields }: Vector): Control {
  const sizes: Record<string, boolean> = { features: true, received: true, sentAt: true, serverTime: true };
  const record: Record<string, unknown> = { type: TYPES[name] };
  for (const [key, value] of Object.entries(fields)) {
    const ours = name === "LOST" && key === "type" ? "server" : key.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
    const isBytes = ["sessionId", "resumeKey", "mac"].includes(ours);
    record[ours] = isBytes ? unhex(value as string) : sizes[ours] ? BigInt(value) : value;
  }
  return record as unknown as Control;
}

describe("control records", () => {
  test.each(of("control"))("%s", (_, vector) => {
    const record = recordOf(vector);
    expect(decodeControl(frameOf(vector.frame).body)).toEqual(record);
    if (vector.fields["version"] !== 2) expect(hex(controlFrame(record))).toBe(vector.frame);
  });

  test.each(of("ignored"))("that are ignored: %s", (_, { frame }) => {
    expect(decodeControl(frameOf(frame).body)).toBeUndefined();
  });

  test.each(of("refused"))("that are refused: %s", (_, { frame }) => {
    expect(() => decodeControl(frameOf(frame).body)).toThrow(ProtocolError);
  });
});

describe("requests", () => {
  test.each([...of("request"), ...of("answer")])("%s", (_, { kind, frame, fields, body }) => {
    const found = frameOf(frame);
    expect(found).toMatchObject({ id: fields["id"], tag: Number(fields["tag"]) });
    if (body !== undefined && !(found.flags & 3)) {
      expect(hex(found.body)).toBe(body);
      expect(hex(encodeFrame(found.id, found.body, kind === "request" ? REQUEST : ANSWER, found.tag))).toBe(frame);
    }
  });

  test.each(of("failed"))("%s", async (_, { frame, fields }) => {
    const found = frameOf(frame);
    expect(found.flags).toBe(FAILED);
    const requests = new Requests();
    const failure = await new Promise<unknown>((resolve) => {
      while (requests.add({ answer: undefined as never, resolve, reject: resolve }) !== 0) continue;
      requests.answered({ ...found, tag: 0 }, found.body);
    });
    expect(failure).toMatchObject({ detail: fields["detail"], reason: fields["reason"] });
  });

  test.each([0, 99, RequestCode.TIMEOUT, RequestCode.WRONG_ANSWER, 65_535])("take the code %i as FAILED", (number) => {
    expect(requestCode(number)).toBe(RequestCode.FAILED);
  });

  test.each(of("refused-request"))("that are refused: %s", (_, { frame }) => {
    expect(() => {
      const found = frameOf(frame);
      new Requests().answered(found, found.body);
    }).toThrow(ProtocolError);
  });
});

test.each(of("proof").filter(([, { mac_of }]) => /^0+$/.test(mac_of["handshake_hash"] as string)))("%s", async (_, vector) => {
  const { mac_of: parts } = vector;
  const found = decodeControl(frameOf(vector.frame).body);
  const sessionId = unhex(parts["session_id"] as string);
  const key = await importKey({ type: 3, sessionId, resumeKey: unhex(parts["resume_key"] as string), window: 1, address: "" });
  const received = BigInt(parts["received"]!);
  const attempt = Number(parts["attempt"]);
  if (found?.type === 4) expect(hex(await clientMac(key, sessionId, received, attempt))).toBe(hex(found.mac));
  else if (found?.type === 5) {
    expect(await isServerMac(key, found.mac, sessionId, received, attempt)).toBe(true);
    for (const wrong of [[received + 1n, attempt], [received, attempt + 1]] as const) {
      expect(await isServerMac(key, found.mac, sessionId, ...wrong)).toBe(false);
    }
  } else throw new Error("neither RESUME nor RESUMED");
});
