// Made by `gatelink messages typescript` from messages.json. Do not edit.

import { binary, f32, int, json, list, message, msgpack, rawMessage, str, u64, u8, withDefault } from "gatelink";

/** MessagePack, the default of a Struct: fields may be added with a default. */
export interface Chat {
  text: string;
  tags: string[];
}
export const Chat = /* @__PURE__ */ message<Chat, "tags">(14001, "Chat", msgpack, {
  text: str,
  tags: /* @__PURE__ */ withDefault(/* @__PURE__ */ list(str), () => []),
});

/** JSON: for clients that know no other format. */
export interface Profile {
  name: string;
  level: number;
}
export const Profile = /* @__PURE__ */ message<Profile>(14002, "Profile", json, { name: str, level: int });

/** The base protocol's layout, little-endian and without padding: here 17 bytes. */
export interface Shot {
  target: bigint;
  weapon: number;
  x: number;
  y: number;
}
export const Shot = /* @__PURE__ */ message<Shot>(14003, "Shot", binary, { target: u64, weapon: u8, x: f32, y: f32 });

/** Raw, the default of a subclass of bytes: you define the body. */
export const Voice = /* @__PURE__ */ rawMessage(14004, "Voice");

/** The body is the Protocol Buffers message examples.codecs.Inventory: encode and decode it with a library for them. */
export const Inventory = /* @__PURE__ */ rawMessage(14005, "Inventory");

/** The body is of the server's own codec: encode and decode it yourself. */
export const Spell = /* @__PURE__ */ rawMessage(14006, "Spell");
