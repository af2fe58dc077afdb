/** Checks that the package works as it is published: `npm run built`, after `npm run build`. */

const { Client, message, msgpack, str } = (await import("../dist/index.js" as string)) as typeof import("../src/index.ts");

const Say = message<{ text: string }>(11001, "Say", msgpack, { text: str });
const client = new Client({ address: "wss://play.example.com", uid: 7n, getToken: () => "token" });
client.send(Say({ text: "hello" }));
if (client.queue.frames !== 1) throw new Error("the built package does not queue a message");
