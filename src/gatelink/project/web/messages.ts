// Made by `gatelink messages typescript` from messages.json. Do not edit.

import { limited, message, msgpack, str, u64 } from "gatelink";

/** Player: a line for everybody. */
export interface Say {
  text: string;
}
export const Say = /* @__PURE__ */ message<Say>(21001, "Say", msgpack, {
  text: /* @__PURE__ */ limited(str, { minLength: 1, maxLength: 200 }),
});

/** Server: a player's line. */
export interface Said {
  uid: bigint;
  text: string;
}
export const Said = /* @__PURE__ */ message<Said>(21002, "Said", msgpack, { uid: u64, text: str });
