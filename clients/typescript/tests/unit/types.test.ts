/** What the compiler knows of messages: a wrong field, handler or answer does not compile. */

import { expect, expectTypeOf, test } from "vitest";
import { Client, list, TYPE, type Message, type MessageType, type Request, type Schema } from "../../src/index.ts";
import { Add, Ask, Circle, Echo, Point, Sum, type Square } from "../messages.ts";

test("calling a type makes a message, with the fields that have no default", () => {
  expectTypeOf(Echo({ n: 1 })).toExtend<Echo & Message<Echo>>();
  expectTypeOf(Point({ x: 1 })).toEqualTypeOf<Point>();
  // @ts-expect-error n is missing
  expectTypeOf(Echo({ text: "" })).toBeObject();
  // @ts-expect-error n is a number
  expectTypeOf(Echo({ n: "1" })).toBeObject();
  expect(Circle({ r: 1 }).type).toBe("circle");
});

test("requests know their answers, and handlers their messages", () => {
  expectTypeOf(Add({ numbers: [1n] })).toExtend<Request<Sum>>();
  expectTypeOf(Echo).toExtend<MessageType<Echo>>();
  expectTypeOf<ReturnType<Client["request"]>>().toEqualTypeOf<Promise<unknown>>();
  const check = (client: Client): void => {
    client.on(Echo, (echo) => expectTypeOf(echo).toEqualTypeOf<Echo>());
    client.on("disconnected", (code) => expectTypeOf(code).toBeNumber());
    client.handle(Ask, ({ n }) => ({ n: 2 * n }));
    // @ts-expect-error the answer to Ask has a number
    client.handle(Ask, () => ({ n: "1" }));
    // @ts-expect-error Echo is no request
    void client.request(Echo({ n: 1 }));
    // @ts-expect-error a plain object is no message
    client.send({ n: 1 });
    expectTypeOf(client.request(Add({ numbers: [] }))).toEqualTypeOf<Promise<Sum>>();
  };
  expect(check).toBeTypeOf("function");
});

test("messages and structs are schemas, too", () => {
  expectTypeOf(list(Point)).toEqualTypeOf<Schema<Point[]>>();
  const nested: Schema<Echo> = Echo;
  expect(nested.kind).toBe("struct");
  expectTypeOf<Circle | Square>().toHaveProperty("type");
});

test("a spread keeps a message's type", () => {
  expect({ ...Echo({ n: 1 }), n: 2 }[TYPE]).toBe(Echo);
  expect(JSON.stringify(Echo({ n: 1 }))).toBe('{"n":1,"text":""}');
});
