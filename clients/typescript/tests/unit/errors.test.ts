import { expect, test } from "vitest";
import { RequestCode, RequestFailed } from "../../src/errors.ts";

test("the text of a failed request has the code in words, or the number of a refusal", () => {
  const texts = Object.values(RequestCode).map((code) => new RequestFailed(code, "why", 7).message);
  expect(texts).toEqual([
    "request failed: no-handler (why)",
    "request failed: no-answer (why)",
    "request failed: failed (why)",
    "request failed: refused with 7 (why)",
    "request failed: too-many (why)",
    "request failed: server-lost (why)",
    "request failed: rate (why)",
    "request failed: timeout (why)",
    "request failed: closed (why)",
    "request failed: unsupported (why)",
    "request failed: wrong-answer (why)",
  ]);
});
