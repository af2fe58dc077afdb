/** Prints how many messages a second the codecs write and read in one thread: `node tools/bench.ts`. */

import { FrameDecoder, encodeFrame } from "../src/frames.ts";
import { f64, float, json, list, message, msgpack, str, u32, u64, type Codec } from "../src/index.ts";
import { binary } from "../src/binary.ts";

interface Move {
  player: bigint;
  x: number;
  y: number;
  animation: string;
}
const move = (id: number, codec: Codec) => message<Move>(id, "Move", codec, { player: u64, x: f64, y: f64, animation: str });

interface Snapshot {
  tick: number;
  moves: number[];
}
const Snapshot = message<Snapshot>(11010, "Snapshot", msgpack, { tick: u32, moves: list(float) });

function rate(work: () => void): number {
  for (let i = 0; i < 20_000; i++) work();
  let count = 0;
  const began = performance.now();
  while (performance.now() - began < 1_000) for (let i = 0; i < 1_000; i++, count++) work();
  return Math.round((count * 1_000) / (performance.now() - began));
}

function show(what: string, persecond: number, bytes: number): void {
  console.log(`${what.padEnd(34)} ${persecond.toLocaleString("en").padStart(10)} a second, ${bytes} bytes`);
}

for (const [name, codec] of [["msgpack", msgpack], ["json", json], ["binary", binary]] as const) {
  const Move = move(11_001, codec);
  const value = Move({ player: 1_000_007n, x: 12.5, y: -3.25, animation: "run" });
  const body = Move.encode(value);
  show(`${name}: a move written`, rate(() => void Move.encode(value)), body.length);
  show(`${name}: a move read`, rate(() => void Move.decode(body)), body.length);
}
const text = new TextDecoder().decode(move(11_001, json).encode({ player: 7n, x: 12.5, y: -3.25, animation: "run" }));
show("JSON.parse, to compare", rate(() => void JSON.parse(text)), text.length);
const Move = move(11_001, msgpack);
const frame = encodeFrame(Move.id, Move.encode(Move({ player: 7n, x: 1, y: 2, animation: "run" })));
const read = new Uint8Array(frame.length * 16);
for (let i = 0; i < 16; i++) read.set(frame, i * frame.length);
const decoder = new FrameDecoder(1_000_000);
show(
  "msgpack: frames of 16 moves read",
  16 *
    rate(() => {
      decoder.push(read);
      for (let found; (found = decoder.next()); ) Move.decode(found.body);
    }),
  read.length,
);
const snapshot = Snapshot.encode(Snapshot({ tick: 1, moves: Array.from({ length: 200 }, (_, n) => n + 0.5) }));
show("msgpack: 200 floats read", rate(() => void Snapshot.decode(snapshot)), snapshot.length);
