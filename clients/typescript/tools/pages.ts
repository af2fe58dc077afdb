/**
 * Builds the pages whose built files are in the repository: `npm run pages`. With --check it writes nothing, and fails if
 * one of them is not current. They are minified: nobody reads them, and everybody loads them.
 */

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const path = (from: string): string => fileURLToPath(new URL(from, import.meta.url));

/** Each page's first file, and its built file. */
const PAGES = [
  ["../../../examples/arena/web/main.ts", "../../../examples/arena/web/arena.js"],
  ["../../../src/gatelink/project/web/main.ts", "../../../src/gatelink/project/web/page.js"],
] as const;

for (const [source, built] of PAGES) {
  const { outputFiles } = await build({
    entryPoints: [path(source)],
    alias: { gatelink: path("../src/index.ts") },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
  });
  const { text } = outputFiles[0]!;
  if (!process.argv.includes("--check")) await writeFile(path(built), text);
  else if ((await readFile(path(built), "utf8").catch(() => "")) !== text) {
    console.error(`${path(built)} is not current; make it with: make pages`);
    process.exitCode = 1;
  }
}
