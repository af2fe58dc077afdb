/** Bytes: joining, little-endian numbers, and texts whose bytes may be no UTF-8. */

export type Bytes = Uint8Array<ArrayBuffer>;

export const EMPTY: Bytes = new Uint8Array(0);

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** All parts, one after the other. A part that is a number is one byte. */
export function join(parts: readonly (Uint8Array | number)[]): Bytes {
  let size = 0;
  for (const part of parts) size += typeof part === "number" ? 1 : part.length;
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    if (typeof part === "number") whole[at++] = part;
    else {
      whole.set(part, at);
      at += part.length;
    }
  }
  return whole;
}

/** `value` in so many bytes. Its higher bits are cut off. */
export function uint(value: number | bigint, size: number): Bytes {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes.subarray(0, size);
}

const encoder = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export function hasLoneSurrogates(text: string): boolean {
  return /\p{Surrogate}/u.test(text);
}

export function encodeUtf8(text: string): Bytes {
  return encoder.encode(text);
}

/** Throws TypeError for bytes that are not UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string {
  return strict.decode(bytes);
}

/** The bytes of a `str` of the protocol: a surrogate U+DC80..U+DCFF is one byte, as Python's surrogateescape writes it. */
export function encodeText(text: string): Bytes {
  if (!hasLoneSurrogates(text)) return encoder.encode(text);
  return join(
    Array.from(text, (character) => {
      const code = character.codePointAt(0)!;
      return code >= 0xdc80 && code <= 0xdcff ? code - 0xdc00 : encoder.encode(character);
    }),
  );
}

/** A `str` of the protocol. Bytes that are not UTF-8 become surrogates, so that `encodeText` gives them back. */
export function decodeText(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    let text = "";
    for (let at = 0; at < bytes.length; ) {
      let size = 4;
      for (; size > 0; size--) {
        const part = bytes.subarray(at, at + size);
        try {
          const character = strict.decode(part);
          if ([...character].length === 1) {
            text += character;
            break;
          }
        } catch {
          // no character of this size begins here
        }
      }
      if (!size) text += String.fromCharCode(0xdc00 + bytes[at]!);
      at += size || 1;
    }
    return text;
  }
}

/** A peer's words, fit for logs and screens. */
export function printable(text: string): string {
  return text.replace(/[^\P{C}\n]/gu, "?");
}

/** A text for people, cut to `most` bytes. */
export function cutText(text: string, most: number): Bytes {
  const bytes = encoder.encode(text);
  if (bytes.length <= most) return bytes;
  let end = most;
  while ((bytes[end]! & 0xc0) === 0x80) end--; // not within a character
  return bytes.subarray(0, end);
}
