/** A bundler leaves out what is not imported. */

import { build } from "esbuild";
import { expect, test } from "vitest";

async function bundled(contents: string): Promise<string> {
  const resolveDir = new URL("..", import.meta.url).pathname;
  const stdin = { contents, resolveDir, loader: "ts" as const };
  const { outputFiles } = await build({ stdin, bundle: true, minify: true, write: false, format: "esm", target: "es2022", logLevel: "error" });
  return outputFiles[0]!.text;
}

test("unused messages, codecs and the client are not in a bundle", async () => {
  const one = await bundled('export { Echo } from "./messages.ts"');
  expect(one).toContain('"Echo"');
  for (const unused of ['"Order"', "InMsgpack", "InJson", "InBinary", "btoa", "WebSocket", "/v1/"]) expect(one).not.toContain(unused);
  expect(await bundled('import "./messages.ts"; import "../src/index.ts"')).toBe("");
});

test("the client alone has no codec and no login service", async () => {
  const client = await bundled('export { Client } from "../src/index.ts"');
  for (const unused of ["btoa", "/v1/", "setFloat64"]) expect(client).not.toContain(unused);
});
