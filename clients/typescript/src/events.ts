/** What a client tells an application: its state, and its events. */

import type { CloseCode } from "./errors.ts";

export type State = "connecting" | "connected" | "disconnected";

/** Why the client is in its state. */
export interface Reason {
  readonly code: CloseCode;
  readonly text: string;
}

// A type and not an interface, so that it has the index signature that Emitter asks for.
export type ClientEvents = {
  state: (state: State, reason: Reason) => void;
  /**
   * A new session. restarted: it replaces a session that could not be resumed. unconfirmed: messages that were on their
   * way in the old session, of which some may be lost.
   */
  connected: (session: { readonly uid: bigint; readonly restarted: boolean; readonly unconfirmed: number }) => void;
  /** The connection broke or was left. Messages wait until it is back. */
  suspended: (reason: Reason) => void;
  /** The session goes on. Nothing was lost. */
  resumed: () => void;
  /** The client has ended, and does not connect again by itself. `connect` starts it again. */
  disconnected: (code: CloseCode, reason: string) => void;
  /** The server asks its clients to leave. This one does, within so many milliseconds, and resumes elsewhere. */
  goingAway: (ms: number) => void;
  /** The login ends in so many milliseconds, unless it is renewed. The client renews it by itself. */
  tokenExpiring: (ms: number) => void;
  /** Messages behind a gateway that were lost with a service of type `server`, at most. */
  lost: (server: number, toServer: number, toClient: number) => void;
  /** Something failed that the client tries again: an attempt to connect, a login, a renewal. */
  error: (error: unknown) => void;
};
