/** Moments as text. */

import { BodyError } from "./errors.ts";

/** The moment in a text of RFC 3339. One without an offset counts as UTC. */
export function timeOf(text: string): Date {
  const cut = text.replace(/(\.\d{3})\d+/, "$1");
  const time = new Date(/(Z|[+-]\d\d:?\d\d)$/i.test(cut) ? cut : `${cut}Z`);
  if (Number.isNaN(time.getTime())) throw new BodyError("a text that is no time");
  return time;
}
