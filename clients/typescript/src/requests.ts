/** The requests of one session, in both directions (docs/protocol.md, "Requests"). */

import { cutText, decodeText, join, printable, uint, viewOf, type Bytes } from "./bytes.ts";
import { MAX_REASON } from "./control.ts";
import { LocalError, ProtocolError, Refuse, RequestCode, requestCode, RequestFailed } from "./errors.ts";
import { ANSWER, encodeFrame, FAILED, type Frame } from "./frames.ts";
import type { MessageType } from "./messages.ts";

/** Requests that may wait for their answers, in each direction, or for a session. */
export const MOST = 64;

/** One request of this side. It keeps its tag until its answer comes, even if its caller gave up. */
interface Asked {
  readonly answer: MessageType<unknown>;
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: unknown) => void;
}

export class Requests {
  #counter = 0;
  readonly #asked = new Map<number, Asked>();
  readonly #serving = new Set<number>();

  /** Notes a request of this side, and gives its tag. Throws RequestFailed if too many wait. */
  add(asked: Asked): number {
    if (this.#asked.size >= MOST) throw new RequestFailed(RequestCode.TOO_MANY, `${MOST} requests wait for their answers`);
    let tag: number;
    do {
      tag = (this.#counter << 16) >>> 0; // a client's type and generation are 0
      this.#counter = (this.#counter + 1) & 0xffff;
    } while (this.#asked.has(tag));
    this.#asked.set(tag, asked);
    return tag;
  }

  /** Takes back a request that was not sent. */
  remove(tag: number): void {
    this.#asked.delete(tag);
  }

  /** Takes an ANSWER or FAILED; drops it if no request waits for it. body: opened. Throws ProtocolError and BodyError. */
  answered(frame: Frame, body: Bytes): void {
    const failure = frame.flags === FAILED ? openFailure(frame.body) : undefined;
    const asked = this.#asked.get(frame.tag);
    if (!asked) return;
    this.#asked.delete(frame.tag);
    if (failure) return asked.reject(failure);
    if (frame.id !== asked.answer.id) {
      return asked.reject(new RequestFailed(RequestCode.WRONG_ANSWER, `message ${frame.id}, not ${asked.answer.label}`));
    }
    try {
      asked.resolve(asked.answer.decode(body));
    } catch (error) {
      asked.reject(new RequestFailed(RequestCode.WRONG_ANSWER, "it does not decode"));
      throw error;
    }
  }

  /** Ends the requests of both sides: the session has ended. */
  close(): void {
    for (const { reject } of this.#asked.values()) reject(new RequestFailed(RequestCode.CLOSED, "the session ended"));
    this.#asked.clear();
    this.#serving.clear();
  }

  /**
   * Has `handler` answer a request of the server. Calls `send` once with the frame of the answer, unless the session ends
   * first. Gives what the handler threw, unless it refused. Call `checkFree` before.
   */
  async serve(
    frame: Frame,
    handler: (() => unknown) | undefined,
    answer: (() => MessageType<unknown>) | undefined,
    send: (frame: Bytes) => void,
  ): Promise<unknown> {
    const { id, tag } = frame;
    const isFull = this.#serving.size >= MOST;
    this.#serving.add(tag);
    let reply: Bytes;
    let failure: unknown;
    if (isFull) reply = failed(id, tag, RequestCode.TOO_MANY);
    else if (!handler || !answer) reply = failed(id, tag, RequestCode.NO_HANDLER);
    else {
      try {
        const result = await handler();
        const type = answer();
        reply = result === undefined ? failed(id, tag, RequestCode.NO_ANSWER) : encodeFrame(type.id, type.encode(result), ANSWER, tag);
      } catch (error) {
        if (error instanceof Refuse) reply = failed(id, tag, RequestCode.REFUSED, error.detail, error.message);
        else {
          reply = failed(id, tag, RequestCode.FAILED);
          failure = error;
        }
      }
    }
    if (this.#serving.delete(tag)) send(reply);
    return failure;
  }

  /** Throws ProtocolError for a request whose tag is in use. */
  checkFree(tag: number): void {
    if (this.#serving.has(tag)) throw new ProtocolError(`a request with the tag ${tag}, which is not answered yet`);
  }
}

/**
 * The outcome of what `begin` starts. Rejects after `ms`, with the reason of `signal`, and with what `begin` throws.
 * What `begin` returns is called when there is an outcome.
 */
export function within<T>(ms: number, signal: AbortSignal | undefined, begin: (asked: Pick<Asked, "resolve" | "reject">) => (() => void) | void): Promise<T> {
  if (!(ms > 0)) throw new LocalError(`timeout is ${ms}; give milliseconds above 0`);
  return new Promise<T>((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    let leave: (() => void) | void;
    const settle = (call: () => void): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      leave?.();
      call();
    };
    const abort = (): void => settle(() => reject(signal!.reason));
    const timer = setTimeout(() => settle(() => reject(new RequestFailed(RequestCode.TIMEOUT, `no answer within ${ms} ms`))), ms);
    signal?.addEventListener("abort", abort);
    try {
      leave = begin({ resolve: (answer) => settle(() => resolve(answer as T)), reject: (error) => settle(() => reject(error)) });
    } catch (error) {
      settle(() => reject(error));
    }
  });
}

function failed(id: number, tag: number, code: RequestCode, detail = 0, reason = ""): Bytes {
  const text = cutText(reason, MAX_REASON);
  return encodeFrame(id, join([uint(code, 2), uint(detail, 4), uint(text.length, 2), text]), FAILED, tag);
}

function openFailure(body: Bytes): RequestFailed {
  const view = viewOf(body);
  const size = view.getUint16(6, true);
  if (size !== body.length - 8 || size > MAX_REASON) throw new ProtocolError("a FAILED whose reason is longer or shorter than it says");
  return new RequestFailed(requestCode(view.getUint16(0, true)), printable(decodeText(body.subarray(8))), view.getUint32(2, true));
}
