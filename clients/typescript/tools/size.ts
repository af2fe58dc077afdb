/** Prints the size of the SDK, minified and gzipped, and fails if it is over its limit: `npm run size`. */

import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const LIMIT = 15 * 1024;
const ENTRY = new URL("../src/index.ts", import.meta.url).pathname;

async function size(imports: string, stub?: RegExp): Promise<[number, number]> {
  const { outputFiles } = await build({
    stdin: { contents: `export ${imports} from ${JSON.stringify(ENTRY)}`, resolveDir: "/", loader: "ts" },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    plugins: stub
      ? [
          {
            name: "stub",
            setup: ({ onLoad }) => onLoad({ filter: stub }, () => ({ contents: "export const canProve = () => false; export const importKey = async () => {}; export const clientMac = importKey; export const isServerMac = importKey;" })),
          },
        ]
      : [],
  });
  const { contents } = outputFiles[0]!;
  return [contents.length, gzipSync(contents, { level: 9 }).length];
}

const CLIENT = "Client, LoginService, deviceId, CloseCode, RequestCode, Refuse, LoginFailed";
const ONE = "message, str, u64";
const NODES = "any, none, bool, int, bigint, float, str, bytes, datetime, u64, list, set, tuple, dict, union, literal, enumOf, optional, lazy, limited, withDefault, maybe, struct, message, request, rawMessage";

/** The first row is the SDK without what generated messages import: that has the limit. */
const rows: [string, Promise<[number, number]>][] = [
  ["Client and LoginService", size(`{ ${CLIENT} }`)],
  ["the same without the proofs of a resume", size(`{ ${CLIENT} }`, /resume\.ts$/)],
  ["... with one message in JSON", size(`{ ${CLIENT}, ${ONE}, json }`)],
  ["... with one message in the binary codec", size(`{ ${CLIENT}, ${ONE}, binary }`)],
  ["... with one message in MessagePack", size(`{ ${CLIENT}, ${ONE}, msgpack }`)],
  ["... with every type of field in MessagePack", size(`{ ${CLIENT}, ${NODES}, msgpack }`)],
  ["... and JSON and the binary codec: everything", size("*")],
  ["Client alone", size("{ Client }")],
  ["... with one message in JSON", size(`{ Client, ${ONE}, json }`)],
  ["... with one message in the binary codec", size(`{ Client, ${ONE}, binary }`)],
  ["... with one message in MessagePack", size(`{ Client, ${ONE}, msgpack }`)],
  ["LoginService alone", size("{ LoginService }")],
  ["one message in MessagePack alone", size(`{ ${ONE}, msgpack }`)],
];
let isOver = false;
for (const [what, sizes] of rows) {
  const [plain, zipped] = await sizes;
  console.log(`${what.padEnd(46)} ${plain.toLocaleString("en").padStart(8)} bytes, ${zipped.toLocaleString("en").padStart(7)} gzipped`);
  if (what === rows[0]![0]) isOver = zipped > LIMIT;
}
if (isOver) {
  console.error(`over the limit of ${LIMIT.toLocaleString("en")} bytes gzipped`);
  process.exitCode = 1;
}
