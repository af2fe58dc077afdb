/** The conformance kit passes this SDK: a short run here, the whole one in `make conform`. */

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../../..", import.meta.url));
const PYTHON = process.env["GATELINK_PYTHON"] ?? `${ROOT}/.venv/bin/python`;
const DRIVER = fileURLToPath(new URL("driver.ts", import.meta.url));

test("the SDK keeps every promise of a short run", { timeout: 300_000 }, async () => {
  const command = ["-m", "gatelink", "conform", "--transport", "ws", "--short", "--", process.execPath, DRIVER];
  const kit = spawn(PYTHON, command, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [kit.stdout, kit.stderr]) stream.on("data", (data: Buffer) => (said += data.toString()));
  const status = await new Promise((resolve) => kit.on("close", resolve));
  expect(status, said).toBe(0);
});
