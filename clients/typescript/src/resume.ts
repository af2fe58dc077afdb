/** The proofs of a resume: HMAC-SHA256 with the ticket's key (docs/protocol.md, "Resume"), by WebCrypto. */

import { encodeUtf8, join, uint, type Bytes } from "./bytes.ts";
import type { Ticket } from "./control.ts";

/** There is no handshake over WebSocket without Noise. */
const NO_HANDSHAKE = new Uint8Array(32);

/** Whether this platform can resume sessions. Pages of `http://` have no WebCrypto, except on localhost. */
export function canProve(): boolean {
  return globalThis.crypto?.subtle !== undefined;
}

export function importKey(ticket: Ticket): Promise<CryptoKey> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  return crypto.subtle.importKey("raw", ticket.resumeKey, algorithm, false, ["sign", "verify"]);
}

/** The mac of RESUME. received: messages that this side has received. */
export async function clientMac(key: CryptoKey, sessionId: Bytes, received: number | bigint, attempt: number): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, signed("c", sessionId, received, attempt)));
}

/** Whether the mac of RESUMED is the server's, in constant time. received: the server's count. */
export function isServerMac(key: CryptoKey, mac: Bytes, sessionId: Bytes, received: bigint, attempt: number): Promise<boolean> {
  return crypto.subtle.verify("HMAC", key, mac, signed("s", sessionId, received, attempt));
}

function signed(side: "c" | "s", sessionId: Bytes, received: number | bigint, attempt: number): Bytes {
  return join([encodeUtf8(`gatelink resume ${side}`), NO_HANDSHAKE, sessionId, uint(received, 8), uint(attempt, 4)]);
}
