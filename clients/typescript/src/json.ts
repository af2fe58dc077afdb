/** JSON, as msgspec writes and reads it. Whole numbers of 64 bits never pass through a double. */

import { decodeUtf8, encodeUtf8, hasLoneSurrogates, type Bytes } from "./bytes.ts";
import { BodyError, InvalidMessage } from "./errors.ts";
import { parseJson } from "./parse_json.ts";
import { takes, type Schema, type Shape } from "./schema.ts";
import { timeOf } from "./times.ts";
import { read, write, type Sink, type Source } from "./walk.ts";

export const json = {
  encode(type: Schema<unknown>, value: unknown): Bytes {
    const out = new Writer();
    write(type, value, out);
    return encodeUtf8(out.text);
  },
  decode(type: Schema<unknown>, body: Bytes): unknown {
    return read(type, new Reader(parseJson(decodeUtf8(body))));
  },
};

class Writer implements Sink {
  text = "";
  /** Of each array and map that is open: how many tokens it still gets, and what closes it. */
  readonly #open: { left: number; close: string }[] = [];

  none(): void {
    this.#add("null");
  }

  bool(value: boolean): void {
    this.#add(String(value));
  }

  int(value: number | bigint): void {
    this.#add(String(value));
  }

  float(value: number): void {
    if (!Number.isFinite(value)) throw new InvalidMessage("NaN or infinity, which JSON can't express");
    this.#add(Object.is(value, -0) ? "-0.0" : String(value));
  }

  str(value: string): void {
    if (hasLoneSurrogates(value)) throw new InvalidMessage("a text with a lone surrogate, which UTF-8 can't express");
    this.#add(JSON.stringify(value));
  }

  bytes(value: Uint8Array): void {
    this.#add(`"${btoa(Array.from(value, (byte) => String.fromCharCode(byte)).join(""))}"`);
  }

  datetime(value: Date): void {
    this.#add(`"${value.toISOString()}"`);
  }

  array(size: number): void {
    this.#begin("[", size, "]");
  }

  map(size: number): void {
    this.#begin("{", 2 * size, "}");
  }

  #begin(open: string, left: number, close: string): void {
    if (left) {
      this.text += open;
      this.#open.push({ left, close });
    } else this.#add(open + close);
  }

  #add(text: string): void {
    const inner = this.#open.at(-1);
    const isKey = inner?.close === "}" && inner.left % 2 === 0;
    this.text += isKey && !text.startsWith('"') ? `"${text}"` : text;
    if (isKey) inner.left--;
    this.text += isKey ? ":" : this.#end();
  }

  /** What stands behind a value. */
  #end(): string {
    const inner = this.#open.at(-1);
    if (!inner) return "";
    if (--inner.left) return ",";
    this.#open.pop();
    return inner.close + this.#end();
  }
}

/** The tokens of a parsed text: values, and for an array or map its size, as an array. */
class Reader implements Source {
  at = 0;
  readonly #tokens: unknown[] = [];

  constructor(tree: unknown) {
    this.#flatten(tree);
  }

  #flatten(tree: unknown): void {
    if (typeof tree !== "object" || tree === null) this.#tokens.push(tree);
    else if (Array.isArray(tree)) {
      this.#tokens.push([tree.length]);
      for (const item of tree) this.#flatten(item);
    } else {
      const entries = Object.entries(tree);
      this.#tokens.push({ size: entries.length });
      for (const [key, value] of entries) {
        this.#tokens.push(key);
        this.#flatten(value);
      }
    }
  }

  shape(): Shape {
    const token = this.#tokens[this.at];
    if (token === null) return "none";
    if (typeof token === "boolean") return "bool";
    if (typeof token === "string") return "str";
    if (typeof token === "bigint") return "int";
    if (typeof token === "number") return Number.isInteger(token) ? "int" : "float";
    return Array.isArray(token) ? "array" : "object";
  }

  none(): null {
    return this.#next();
  }

  bool(): boolean {
    return this.#next();
  }

  int(): number | bigint {
    return this.#next();
  }

  float(): number {
    return this.#next();
  }

  str(): string {
    return this.#next();
  }

  bytes(): Bytes {
    return Uint8Array.from(atob(this.str()), (character) => character.charCodeAt(0));
  }

  datetime(): Date {
    return timeOf(this.str());
  }

  array(): number {
    return this.#next<[number]>()[0];
  }

  map(): number {
    return this.#next<{ size: number }>().size;
  }

  key(type: Schema<unknown>): unknown {
    if (takes(type, "str")) return read(type, this);
    const key = new Reader(parseJson(this.str()));
    if (key.#tokens.length !== 1) throw new BodyError("a key that is no number");
    return read(type, key);
  }

  #next<T>(): T {
    return this.#tokens[this.at++] as T;
  }
}
