// Made by `gatelink messages typescript` from messages.json. Do not edit.

import { int, message, msgpack, request, str, u64 } from "gatelink";

/** Player: I want to be in this room. */
export interface Enter {
  room: string;
}
export const Enter = /* @__PURE__ */ request<Enter, Entered>(41001, "Enter", msgpack, { room: str }, () => Entered);

/**
 * Lobby: your room has a place for you; say Join there.
 *
 * `server` has it, 0 in one process.
 */
export interface Entered {
  room: string;
  server: number;
}
export const Entered = /* @__PURE__ */ message<Entered>(41002, "Entered", msgpack, { room: str, server: int });

/** Player: a text for all players. */
export interface Shout {
  number: number;
  text: string;
}
export const Shout = /* @__PURE__ */ message<Shout>(41003, "Shout", msgpack, { number: int, text: str });

/** Lobby: a player's shout. */
export interface Shouted {
  uid: bigint;
  number: number;
  text: string;
}
export const Shouted = /* @__PURE__ */ message<Shouted>(41004, "Shouted", msgpack, {
  uid: u64,
  number: int,
  text: str,
});

/** Player, to the room's server: here I am. */
export interface Join {
  room: string;
}
export const Join = /* @__PURE__ */ request<Join, Joined>(42001, "Join", msgpack, { room: str }, () => Joined);

/** Room: you are in, with this many others. */
export interface Joined {
  room: string;
  others: number;
}
export const Joined = /* @__PURE__ */ message<Joined>(42002, "Joined", msgpack, { room: str, others: int });

/** Player: in my `visit`-th visit my step number `number` is to (x, y). */
export interface Move {
  visit: number;
  number: number;
  x: number;
  y: number;
}
export const Move = /* @__PURE__ */ message<Move>(42003, "Move", msgpack, { visit: int, number: int, x: int, y: int });

/** Room, to all players in it: a player's step. */
export interface Moved {
  uid: bigint;
  number: number;
  x: number;
  y: number;
}
export const Moved = /* @__PURE__ */ message<Moved>(42004, "Moved", msgpack, { uid: u64, number: int, x: int, y: int });

/** Player, to all in the room; numbered together with the steps. */
export interface Chat {
  visit: number;
  number: number;
  text: string;
}
export const Chat = /* @__PURE__ */ message<Chat>(42005, "Chat", msgpack, { visit: int, number: int, text: str });

/** Room, to all players in it: a player's words. */
export interface Chatted {
  uid: bigint;
  number: number;
  text: string;
}
export const Chatted = /* @__PURE__ */ message<Chatted>(42006, "Chatted", msgpack, {
  uid: u64,
  number: int,
  text: str,
});

/**
 * Room: you are in no room of this server, so your step or word was refused.
 *
 * Ask the lobby again.
 */
export interface NotHere {
  visit: number;
  number: number;
}
export const NotHere = /* @__PURE__ */ message<NotHere>(42007, "NotHere", msgpack, { visit: int, number: int });

/** Player: I leave my room. */
export interface Part {}
export const Part = /* @__PURE__ */ request<Part, Parted>(42008, "Part", msgpack, {}, () => Parted);

/** Room: you are out, and all that you sent before has been sent to the others. */
export interface Parted {}
export const Parted = /* @__PURE__ */ message<Parted>(42009, "Parted", msgpack, {});
