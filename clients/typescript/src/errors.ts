/**
 * Errors by whose fault they are, and the codes with which connections close (docs/protocol.md, "Close codes").
 *
 *     GatelinkError
 *     ├── LocalError               the caller's: fix the code or the options
 *     │   ├── ConfigError          an option that can't work, or something that this platform lacks
 *     │   ├── InvalidMessage       a message to send that its receiver's decoder would refuse
 *     │   ├── MessageTooLarge      a message to send is over the size limit
 *     │   └── SessionClosed        `send` on a client that has ended
 *     ├── ProtocolError            the server's: bytes that the protocol does not allow
 *     │   └── BodyError            a body that its message's codec refuses
 *     ├── ConnectError             an attempt to connect failed; `code` says why, if the server said it
 *     ├── RequestFailed            a request has no answer; `code` says why
 *     ├── LoginFailed              the login service refused, or can't be reached (login.ts)
 *     └── Refuse                   handlers of requests throw it; the server gets its number and reason
 */

/** Why a connection or session ended; also the WebSocket's close codes. */
export const CloseCode = {
  NORMAL: 4000,
  VERIFY_FAILED: 4001,
  VERIFY_TIMEOUT: 4002,
  REPLACED: 4003,
  HEARTBEAT_TIMEOUT: 4004,
  RATE_LIMITED: 4005,
  SLOW_CONSUMER: 4006,
  PROTOCOL_ERROR: 4007,
  FRAME_TOO_LARGE: 4008,
  KICKED: 4009,
  SERVER_FULL: 4010,
  GOING_AWAY: 4011,
  RESUME_REFUSED: 4012,
  INTERNAL_ERROR: 4013,
  CLIENT_TOO_OLD: 4014,
  TOKEN_EXPIRED: 4015,
  /** Only here, and never sent: the connection ended without a reason. */
  UNEXPLAINED: 4016,
} as const;
export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode];

/** Why a request has no answer. Those from 256 up are never sent. */
export const RequestCode = {
  NO_HANDLER: 1,
  NO_ANSWER: 2,
  FAILED: 3,
  /** The handler refused: `detail` is the application's number. */
  REFUSED: 4,
  TOO_MANY: 5,
  SERVER_LOST: 6,
  RATE: 7,
  /** The answer did not come in time. The request may have been handled. */
  TIMEOUT: 256,
  /** The session ended before the answer came. The request may have been handled. */
  CLOSED: 257,
  /** The server does not speak requests. Nothing was sent. */
  UNSUPPORTED: 258,
  /** The answer is a message of another type than the request declares, or it does not decode. */
  WRONG_ANSWER: 259,
} as const;
export type RequestCode = (typeof RequestCode)[keyof typeof RequestCode];

/** The code's name, as the server's log and metrics have it: `no-handler`. */
const labelOf = (code: RequestCode): string =>
  Object.entries(RequestCode).find(([, number]) => number === code)?.[0].toLowerCase().replace("_", "-") ?? String(code);

export class GatelinkError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

export class LocalError extends GatelinkError {}

export class ConfigError extends LocalError {}

/** The text has the message and field, never the value. */
export class InvalidMessage extends LocalError {}

export class MessageTooLarge extends LocalError {}

export class SessionClosed extends LocalError {
  readonly code: CloseCode;
  readonly reason: string;

  constructor(code: CloseCode, reason: string) {
    super(`session closed: ${code}${reason && ` (${reason})`}`);
    this.code = code;
    this.reason = reason;
  }
}

export class ProtocolError extends GatelinkError {
  readonly code: CloseCode;

  constructor(text: string, code: CloseCode = CloseCode.PROTOCOL_ERROR, options?: ErrorOptions) {
    super(text, options);
    this.code = code;
  }
}

export class BodyError extends ProtocolError {}

export class ConnectError extends GatelinkError {
  /** The code of the server's CLOSE or of its WebSocket's; undefined if there was none. */
  readonly code: CloseCode | undefined;

  constructor(text: string, code?: CloseCode, options?: ErrorOptions) {
    super(text, options);
    this.code = code;
  }
}

export class RequestFailed extends GatelinkError {
  readonly code: RequestCode;
  /** The application's number in a `Refuse`, else 0. */
  readonly detail: number;
  readonly reason: string;

  constructor(code: RequestCode, reason = "", detail = 0) {
    super(`request failed: ${code === RequestCode.REFUSED ? `refused with ${detail}` : labelOf(code)}${reason && ` (${reason})`}`);
    this.code = code;
    this.detail = detail;
    this.reason = reason;
  }
}

/** detail: 0 to 2^32 - 1, the application's number. reason: for the server, up to 123 bytes; the rest is cut off. */
export class Refuse extends GatelinkError {
  readonly detail: number;

  constructor(detail: number, reason = "") {
    super(reason);
    this.detail = detail;
  }
}

const CODES: ReadonlySet<number> = new Set(Object.values(CloseCode));

/** The code of a CLOSE; NORMAL for one that this version does not know, or that is never sent. */
export function closeCode(number: number): CloseCode {
  return CODES.has(number) && number !== CloseCode.UNEXPLAINED ? (number as CloseCode) : CloseCode.NORMAL;
}

const REQUEST_CODES: ReadonlySet<number> = new Set(Object.values(RequestCode));

/** The code of a FAILED; FAILED for one that this version does not know, or that is never sent. */
export function requestCode(number: number): RequestCode {
  return number < RequestCode.TIMEOUT && REQUEST_CODES.has(number) ? (number as RequestCode) : RequestCode.FAILED;
}
