/** The driver of `gatelink conform` in a page; tests/browser/driver.py carries its lines to standard input and output. */

import { drive } from "./player.ts";

declare global {
  /** Writes lines to standard output. */
  function write(lines: string): void;
}

let lines = "";

function flush(): void {
  write(lines);
  lines = "";
}

const take = drive((event, fields) => {
  if (!lines) setTimeout(flush);
  lines += `${JSON.stringify({ event, ...fields })}\n`;
});

Object.assign(globalThis, { take: (commands: string[]) => commands.forEach(take) });
