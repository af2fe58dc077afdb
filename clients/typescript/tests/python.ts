/** Python programs that tests talk to, in lines of JSON. */

import { spawn, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { createInterface, type Interface } from "node:readline";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const PYTHON = process.env["GATELINK_PYTHON"] ?? `${ROOT}/.venv/bin/python`;

/** One program of the folder tests/typescript. It answers each line with one, in order. */
export class Python {
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  readonly #waiting: { resolve: (answer: never) => void; reject: (error: Error) => void }[] = [];

  constructor(name: string, ...args: string[]) {
    this.#child = spawn(PYTHON, ["-m", `tests.typescript.${name}`, ...args], { stdio: ["pipe", "pipe", "pipe"], cwd: ROOT });
    let log = "";
    this.#child.stderr!.on("data", (data: Buffer) => (log = (log + data.toString()).slice(-4_000)));
    this.#lines = createInterface(this.#child.stdout!);
    this.#lines.on("line", (line) => this.#waiting.shift()?.resolve(JSON.parse(line) as never));
    this.#child.on("exit", (code) => {
      for (const { reject } of this.#waiting.splice(0)) reject(new Error(`${name}.py ended with ${code}:\n${log}`));
    });
  }

  ask<Answer>(question: object): Promise<Answer> {
    const answer = this.line<Answer>();
    this.#child.stdin!.write(`${JSON.stringify(question)}\n`);
    return answer;
  }

  /** The next line that answers no question. */
  line<Answer>(): Promise<Answer> {
    return new Promise<Answer>((resolve, reject) => this.#waiting.push({ resolve: resolve as (answer: never) => void, reject }));
  }

  /** Ends the program, and waits for that. */
  async end(): Promise<void> {
    const ended = new Promise<void>((resolve) => this.#child.once("exit", () => resolve()));
    if (this.#child.exitCode !== null) return;
    this.#child.stdin!.end();
    await ended;
  }
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

export function unhex(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(Buffer.from(text, "hex"));
}
