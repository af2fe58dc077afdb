/** A player and its room: the steps and words that are sent, the others, and the check that nothing is missing. */

import { Client, deviceId, LoginService, RequestFailed } from "gatelink";
import { Chat, Chatted, Enter, Join, Move, Moved, NotHere } from "../messages.ts";
import { Tally } from "./tally.ts";
import { nearest, Walker, type Point } from "./walker.ts";

const ROOM_TYPE = 42; // the server type of rooms
const SPEED = 30; // of the field's 100 units a second
const STEP_MS = 100; // between two steps
const IDLE_MS = 3_000; // a player that stands still steps on the spot, for those who came later
const AGAIN_MS = 300; // before the lobby is asked again

export class Game {
  readonly client: Client;
  readonly walkers = new Map<bigint, Walker>();
  readonly tally = new Tally();
  isInside = false;
  /** Where this player is; the room gets it in whole numbers, some times a second. */
  place: Point = { x: 20 + Math.random() * 60, y: 20 + Math.random() * 60 };
  readonly #room: string;
  readonly #tell: (text: string, uid?: bigint) => void;
  #visit = 0;
  #stepped: Point & { readonly at: number } = { x: -1, y: -1, at: -Infinity };

  /** login: the login service's URL. tell: called for what a player says, and without a uid for what happens. */
  constructor(login: string, room: string, tell: (text: string, uid?: bigint) => void) {
    this.#room = room;
    this.#tell = tell;
    const service = new LoginService(login);
    this.client = new Client({
      login: () => service.guest(deviceId("arena.device", sessionStorage)), // each tab is a guest of its own
      servers: () => service.servers(),
      limits: { heartbeatInterval: 700 }, // so that the round trip is measured every 2 s
    });
    this.client.on(Moved, ({ uid, number, x, y }) => this.#heard(uid, number).step({ x, y }, performance.now()));
    this.client.on(Chatted, ({ uid, number, text }) => {
      this.#heard(uid, number).say(text, performance.now());
      tell(text, uid);
    });
    this.client.on(NotHere, ({ visit }) => {
      if (visit === this.#visit && this.isInside) void this.#enter("the room's server is a new one");
    });
    this.client.on("lost", (server) => {
      if (server === ROOM_TYPE) void this.#enter("the room's server died");
    });
    this.client.on("connected", ({ restarted, unconfirmed }) => {
      void this.#enter(restarted ? `a new session; of ${unconfirmed} messages to the old one some may be lost` : "");
    });
    this.client.on("suspended", ({ text }) => tell(`not connected: ${text}`));
    this.client.on("resumed", () => tell("connected again; what was said meanwhile follows"));
    this.client.on("disconnected", (code, reason) => {
      this.isInside = false;
      tell(`ended with ${code}: ${reason || "closed"}. Load the page again to play on.`);
    });
  }

  /** Say `text` to the room. Returns whether there is one. */
  say(text: string): boolean {
    if (this.isInside) this.client.send(Chat({ visit: this.#visit, number: this.tally.next(), text }));
    return this.isInside;
  }

  /** Walk along a vector for `ms`, not farther than its end, and tell the room. */
  walk({ x, y }: Point, ms: number, now: number): void {
    const part = Math.min((SPEED * ms) / 1_000 / (Math.hypot(x, y) || 1), 1);
    this.place = nearest({ x: this.place.x + x * part, y: this.place.y + y * part });
    const to = { x: Math.round(this.place.x), y: Math.round(this.place.y) };
    const { at } = this.#stepped;
    const isNew = to.x !== this.#stepped.x || to.y !== this.#stepped.y;
    if (!this.isInside || now - at < (isNew ? STEP_MS : IDLE_MS)) return;
    this.#stepped = { ...to, at: now };
    this.client.send(Move({ visit: this.#visit, number: this.tally.next(), ...to }));
  }

  /** Counts a step or word of a player. */
  #heard(uid: bigint, number: number): Walker {
    this.tally.hear(uid, number, uid === this.client.uid);
    let walker = this.walkers.get(uid);
    if (!walker) this.walkers.set(uid, (walker = new Walker()));
    return walker;
  }

  /** Asks the lobby for the room, and joins it; again while they do not answer. A later call ends this one. */
  async #enter(why: string): Promise<void> {
    if (why) this.#tell(why);
    const visit = ++this.#visit;
    this.isInside = false;
    while (visit === this.#visit) {
      try {
        await this.client.request(Enter({ room: this.#room }));
        if (visit !== this.#visit) return;
        this.tally.begin();
        const { others } = await this.client.request(Join({ room: this.#room }));
        if (visit !== this.#visit) return;
        this.isInside = true;
        this.#stepped = { x: -1, y: -1, at: -Infinity };
        return this.#tell(`you are in ${this.#room}, with ${others} ${others === 1 ? "other" : "others"}`);
      } catch (error) {
        if (!(error instanceof RequestFailed)) return; // the client has ended
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }
}
