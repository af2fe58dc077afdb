/** Where a client dials, and which addresses of a server it follows (docs/protocol.md, "Where to go", "WebSocket"). */

import { ConfigError } from "./errors.ts";

/** The address as a URL. Throws ConfigError unless it is ws:// or wss:// and a host. */
export function parseAddress(address: string): URL {
  let url: URL | undefined;
  try {
    url = new URL(address);
  } catch {
    // reported below
  }
  if (!url?.host || !/^wss?:$/.test(url.protocol)) {
    throw new ConfigError(`the address ${JSON.stringify(address)} is none; write it as wss://play.example.com/gates/1`);
  }
  return url;
}

/** The address that a server sent, if it may be followed from `here`: it must not be weaker. Else `here`. */
export function follow(there: string, here: string): string {
  if (!there) return here;
  try {
    const isAsSafe = parseAddress(there).protocol === "wss:" || parseAddress(here).protocol === "ws:";
    return isAsSafe ? there : here;
  } catch {
    return here;
  }
}
