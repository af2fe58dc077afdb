/** The check that the robots make, too (ledger.py): a player's steps and words are numbered, so a gap shows. */

export class Tally {
  received = 0;
  missing = 0;
  /** Received twice, or out of order. */
  wrong = 0;
  /** This player's last number in this visit, and the last that came back. */
  sent = 0;
  told = 0;
  readonly #others = new Map<bigint, number>();

  /** A visit to a room begins. Numbers of the visit before that have not come back went with its server. */
  begin(): void {
    this.sent = this.told = 0;
    this.#others.clear();
  }

  next(): number {
    return ++this.sent;
  }

  hear(uid: bigint, number: number, isOwn: boolean): void {
    this.received++;
    const before = isOwn ? this.told : this.#others.get(uid);
    const isFirst = before === undefined || (!isOwn && number === 1); // another one began a new visit
    if (!isFirst && number <= before) this.wrong++;
    else if (!isFirst) this.missing += number - before - 1;
    if (isOwn) this.told = number;
    else this.#others.set(uid, number);
  }
}
