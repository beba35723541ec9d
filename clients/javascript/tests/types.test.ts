/** The types refuse wrong uses; `tsc` in `npm run check` is what tests them. */
import { expectTypeOf, test } from "vitest";
import type { Client, Published, Room, TidingsError } from "../src/node.ts";

type Shop = { "order.paid": { id: number } };
declare const client: Client<Shop>;
declare const room: Room<Shop>;
declare const error: TidingsError;

test("events of the application, actions and codes are typed", () => {
  const uses = async () => {
    client.on("order.paid", ({ data, sender }) =>
      expectTypeOf([data.id, sender] as const).toEqualTypeOf<readonly [number, string]>(),
    );
    client.on("message", ({ content }) => expectTypeOf(content).toEqualTypeOf<string>());
    // @ts-expect-error no such event
    client.on("order.lost", () => undefined);
    await room.publish("order.paid", { id: 1 });
    // @ts-expect-error other data
    await room.publish("order.paid", { id: "1" });
    expectTypeOf(room.events("order.paid")).toEqualTypeOf<
      AsyncGenerator<Published<{ id: number }>, void, undefined>
    >();
    const { messages } = await client.actions.history({ room_id: "r" });
    expectTypeOf(messages[0]?.seq).toEqualTypeOf<number | undefined>();
    // @ts-expect-error a room is named in one way
    await client.actions.history({ room_id: "r", topic_name: "t" });
    // @ts-expect-error no such action
    await client.actions.explode({});
    // @ts-expect-error no such code
    return error.code === "no_such_code";
  };
  expectTypeOf(uses).returns.resolves.toEqualTypeOf<boolean>();
});
