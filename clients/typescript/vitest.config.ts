import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { alias: { gatelink: fileURLToPath(new URL("src/index.ts", import.meta.url)) } }, // for generated messages
  test: { include: ["tests/**/*.test.ts"], testTimeout: 60_000, hookTimeout: 60_000, pool: "threads", maxWorkers: 2, reporters: ["dot"] },
});
