/** JSON whose whole numbers may have 64 bits. */

const NUMBER = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARK = `\u0000${Math.random()}`;

/** As JSON.parse, but whole numbers that a double can't hold are bigints. */
export function parseJson(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const marked = text.replace(NUMBER, (part) => (/^-?\d{16,}$/.test(part) ? JSON.stringify(MARK + part) : part));
  return JSON.parse(marked, (_, value: unknown) => {
    if (typeof value !== "string" || !value.startsWith(MARK)) return value;
    const whole = BigInt(value.slice(MARK.length));
    return Number.isSafeInteger(Number(whole)) ? Number(whole) : whole;
  });
}
