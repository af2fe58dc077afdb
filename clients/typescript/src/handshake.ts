/**
 * How a link becomes a session's: HELLO, then ClientVertifyReq or RESUME (docs/protocol.md, "The extension").
 *
 *     HELLO ->  <- HELLO    ClientVertifyReq ->  <- ClientVertifySucceedRet, TICKET
 *                           RESUME ->            <- RESUMED
 */

import { openBody } from "./body.ts";
import { encodeText, join, printable, uint, viewOf, type Bytes } from "./bytes.ts";
import {
  CLOSE,
  controlFrame,
  decodeControl,
  Feature,
  HELLO,
  RESUME,
  RESUMED,
  TICKET,
  VERSION,
  type Control,
  type Ticket,
} from "./control.ts";
import { closeCode, CloseCode, ConnectError, ProtocolError } from "./errors.ts";
import { CONTROL, encodeFrame, type Frame } from "./frames.ts";
import type { Link } from "./link.ts";
import { isServerMac } from "./resume.ts";

const VERIFY_REQUEST = 1;
const VERIFY_SUCCEEDED = 2;
const VERIFY_FAILED = 3;
const DUPLICATE_LOGIN = 24;

export interface Offer {
  /** Bits of `Feature` that this side has. */
  readonly features: number;
  readonly slot: number;
  readonly appVersion: string;
  /** The server's key of the base cipher. */
  readonly scrambleKey: Uint8Array | undefined;
}

/** What the server agreed to at a login. ticket: undefined if the session can't be resumed. */
export interface LoggedIn {
  readonly features: number;
  readonly ticket: Ticket | undefined;
}

/** What RESUME says, and the key to check its answer with. */
export interface Proof {
  readonly ticket: Ticket;
  readonly key: CryptoKey;
  readonly received: number;
  readonly attempt: number;
  readonly mac: Bytes;
}

/** Agrees on features and logs in. Throws ConnectError with the server's code, and ProtocolError. */
export async function logIn(link: Link, offer: Offer, uid: bigint, token: string): Promise<LoggedIn> {
  const features = await greet(link, offer);
  const text = encodeText(token);
  link.write(encodeFrame(VERIFY_REQUEST, join([0, uint(uid, 8), uint(text.length, 2), text])));
  const answer = await link.next();
  if (answer.flags === CONTROL) throw refusal(decodeControl(answer.body));
  if (answer.id === VERIFY_FAILED) throw new ConnectError("the server refused the token", CloseCode.VERIFY_FAILED);
  if (answer.id === DUPLICATE_LOGIN) throw new ConnectError("a newer login of the same user came first", CloseCode.REPLACED);
  checkVerified(answer, uid, offer.scrambleKey);
  if (!(features & Feature.RESUME)) return { features, ticket: undefined };
  const ticket = await nextRecord(link);
  if (ticket?.type !== TICKET) throw refusal(ticket);
  return { features, ticket };
}

/** Agrees on features and resumes. Returns the server's count of received messages. Throws as `logIn`. */
export async function resume(link: Link, offer: Offer, needed: number, proof: Proof): Promise<bigint> {
  const features = await greet(link, offer);
  if (needed & ~features) throw new ConnectError("the server no longer has a feature that the session has");
  const { ticket, received, attempt, mac } = proof;
  link.write(controlFrame({ type: RESUME, sessionId: ticket.sessionId, received: BigInt(received), attempt, mac }));
  const answer = await nextRecord(link);
  if (answer?.type !== RESUMED) throw refusal(answer);
  if (!(await isServerMac(proof.key, answer.mac, ticket.sessionId, answer.received, attempt))) {
    throw new ProtocolError("RESUMED with a wrong mac");
  }
  return answer.received;
}

async function greet(link: Link, offer: Offer): Promise<number> {
  await link.opened();
  const { features, slot, appVersion } = offer;
  link.write(controlFrame({ type: HELLO, version: VERSION, features: BigInt(features), slot, appVersion }));
  const answer = await nextRecord(link);
  if (answer?.type !== HELLO) throw refusal(answer);
  if (answer.version > VERSION || answer.features & ~BigInt(features)) {
    throw new ProtocolError("a HELLO with a version or features that this side did not offer");
  }
  link.decoder.allowsTags = (Number(answer.features) & Feature.REQUESTS) > 0;
  return Number(answer.features);
}

/** The next control record that is not of an ignored type. */
async function nextRecord(link: Link): Promise<Control | undefined> {
  for (;;) {
    const frame = await link.next();
    if (frame.flags !== CONTROL) throw new ProtocolError(`message ${frame.id} where a control record was due`);
    const record = decodeControl(frame.body);
    if (record) return record;
  }
}

/** The error for a record that was not due: ConnectError for a CLOSE, else ProtocolError. */
function refusal(record: Control | undefined): Error {
  if (record?.type !== CLOSE) return new ProtocolError(`control record ${record?.type ?? "of an ignored type"} where another was due`);
  const code = closeCode(record.code);
  return new ConnectError(`the server closed with ${code} ${printable(record.reason)}`, code);
}

function checkVerified(frame: Frame, uid: bigint, scrambleKey: Uint8Array | undefined): void {
  if (frame.id !== VERIFY_SUCCEEDED) throw new ProtocolError(`answered with message ${frame.id}, not with ClientVertifySucceedRet`);
  const body = openBody(frame, 1_024, scrambleKey); // source u8, uid u64, source_id u64, type u8
  if (body.length < 18) throw new ProtocolError("a ClientVertifySucceedRet that is too short");
  const verified = viewOf(body).getBigUint64(1, true);
  if (verified !== uid) throw new ProtocolError(`the server verified uid ${verified}, not ${uid}`);
}
