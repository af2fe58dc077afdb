/**
 * The driver of `gatelink conform` around this SDK in Node (docs/conformance.md has the contract).
 *
 * Run: gatelink conform --transport ws -- node clients/typescript/tests/conformance/driver.ts
 */

import { writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { drive } from "./player.ts";

let lines = "";

/** Writes what was said in a turn of the loop. */
function flush(): void {
  const bytes = Buffer.from(lines);
  lines = "";
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error; // the pipe is full
    }
  }
}

const take = drive((event, fields) => {
  if (!lines) setImmediate(flush);
  lines += `${JSON.stringify({ event, ...fields })}\n`;
});
for await (const line of createInterface({ input: process.stdin })) take(line);
process.exit();
