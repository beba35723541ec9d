import { expect, test } from "vitest";
import { Keeper } from "../src/keeper.ts";
import { begun, type RoomState } from "../src/store.ts";
import { room } from "./make.ts";

test("what could not be kept is kept with the next change, and a reset is not forgotten over it", async () => {
  const kept: { rooms: string[]; gone: string[]; over: string[] }[] = [];
  let full = true;
  const keeper = new Keeper(
    {
      keep: async (rooms, gone, over) => {
        if (full) throw new DOMException("the disk is full", "QuotaExceededError");
        kept.push({ rooms: [...rooms].map(({ room }) => room.room_id), gone: [...gone], over: [...over] });
      },
    },
    new Map(),
  );
  const rooms = (...ids: string[]) =>
    new Map(ids.map((id): [string, RoomState] => [id, begun(room({ room_id: id }))]));
  const first = rooms("a", "b");
  keeper.over(["b"]);
  await keeper.keep(first);
  full = false;
  await keeper.keep(first);
  expect(kept).toEqual([{ rooms: ["a", "b"], gone: [], over: ["b"] }]);
  const second = new Map(first);
  second.delete("a");
  await keeper.keep(second);
  expect(kept.at(-1)).toEqual({ rooms: [], gone: ["a"], over: [] });
});
