/** The base protocol's layout: fields of fixed width in order, little-endian; a text or bytes has a u16 length in front. */

import { decodeText, encodeText, viewOf, type Bytes } from "./bytes.ts";
import { BodyError, InvalidMessage, MessageTooLarge } from "./errors.ts";
import { requireFit, type Schema, type StructSchema, type Width } from "./schema.ts";

/** [bytes, getter, setter, least, most] */
const WIDTHS = {
  u8: [1, "getUint8", "setUint8", 0, 0xff],
  u16: [2, "getUint16", "setUint16", 0, 0xffff],
  u32: [4, "getUint32", "setUint32", 0, 0xffffffff],
  u64: [8, "getBigUint64", "setBigUint64", 0n, 2n ** 64n - 1n],
  i8: [1, "getInt8", "setInt8", -0x80, 0x7f],
  i16: [2, "getInt16", "setInt16", -0x8000, 0x7fff],
  i32: [4, "getInt32", "setInt32", -0x80000000, 0x7fffffff],
  i64: [8, "getBigInt64", "setBigInt64", -(2n ** 63n), 2n ** 63n - 1n],
  f32: [4, "getFloat32", "setFloat32", -Infinity, Infinity],
  f64: [8, "getFloat64", "setFloat64", -Infinity, Infinity],
} as const satisfies Record<Width, unknown>;

function codec(isStrict: boolean) {
  return {
    encode(schema: Schema<unknown>, value: unknown): Bytes {
      const { label, fields } = schema as StructSchema<unknown>;
      const given = fields.map(([name, field]) => checked(`${label}.${name}`, field, (value as Record<string, unknown>)[name]));
      const out = new Uint8Array(given.reduce<number>((size, item, i) => size + sizeOf(fields[i]![1], item), 0));
      const view = viewOf(out);
      let at = 0;
      fields.forEach(([, field], i) => {
        const item = given[i];
        if (item instanceof Uint8Array) {
          view.setUint16(at, item.length, true);
          out.set(item, at + 2);
        } else if (typeof item === "boolean") out[at] = Number(item);
        else (view[WIDTHS[widthOf(field)][2]] as (at: number, value: unknown, isLittle: boolean) => void)(at, item, true);
        at += sizeOf(field, item);
      });
      return out;
    },
    decode(schema: Schema<unknown>, body: Bytes): unknown {
      const type = schema as StructSchema<unknown>;
      const view = viewOf(body);
      const value: Record<string, unknown> = {};
      let at = 0;
      const take = (size: number): number => {
        const start = at;
        if ((at += size) > body.length) throw new BodyError(`${type.label}: the body ends at ${body.length} bytes`);
        return start;
      };
      for (const [name, { kind, width }] of type.fields as [string, { kind: string; width?: Width }][]) {
        if (width) {
          const [size, get] = WIDTHS[width];
          value[name] = view[get](take(size), true);
        } else if (kind === "bool") value[name] = body[take(1)] !== 0;
        else {
          const size = view.getUint16(take(2), true);
          const start = take(size);
          value[name] = kind === "str" ? decodeText(body.subarray(start, start + size)) : body.slice(start, start + size);
        }
      }
      if (isStrict && at !== body.length) throw new BodyError(`${type.label}: ${body.length - at} bytes behind the last field`);
      return value;
    },
  };
}

function widthOf(field: Schema<unknown>): Width {
  return (field as { width: Width }).width;
}

function sizeOf(field: Schema<unknown>, item: unknown): number {
  return item instanceof Uint8Array ? 2 + item.length : typeof item === "boolean" ? 1 : WIDTHS[widthOf(field)][0];
}

/** The value of a field, a text as its bytes. Throws InvalidMessage or MessageTooLarge if it does not fit. */
function checked(place: string, field: Schema<unknown>, value: unknown): unknown {
  try {
    requireFit(field, value);
  } catch (error) {
    throw new InvalidMessage(`${place}: ${(error as Error).message}`);
  }
  if (field.kind === "bool") return value;
  if (field.kind === "str" || field.kind === "bytes") {
    const text = field.kind === "str" ? encodeText(value as string) : (value as Uint8Array);
    if (text.length > 0xffff) throw new MessageTooLarge(`${place} is ${text.length} bytes; codec binary takes up to 65535`);
    return text;
  }
  const width = widthOf(field);
  if (!width) throw new InvalidMessage(`${place} is of a type that has no width in codec binary`);
  const [, , , least, most] = WIDTHS[width];
  const number = value as number;
  const isTooLarge = width === "f32" && Number.isFinite(number) && !Number.isFinite(Math.fround(number));
  if (number < least || number > most || isTooLarge) throw new InvalidMessage(`${place} is out of the range of ${width}`);
  return value;
}

/** Bytes behind the last field are skipped: such messages grow at their end. */
export const binary = /* @__PURE__ */ codec(false);
/** Bytes behind the last field are refused. */
export const binaryStrict = /* @__PURE__ */ codec(true);
