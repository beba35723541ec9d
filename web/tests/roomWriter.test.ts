import { expect, test } from "vitest";
import { RoomWriter } from "../src/roomWriter.ts";
import { begun, type RoomState } from "../src/store.ts";
import { room } from "./make.ts";

test("a failed write is repeated with the next change, including a reset", async () => {
  const kept: { rooms: string[]; gone: string[]; over: string[] }[] = [];
  let full = true;
  const roomWriter = new RoomWriter(
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
  roomWriter.overwrite(["b"]);
  await roomWriter.write(first);
  full = false;
  await roomWriter.write(first);
  expect(kept).toEqual([{ rooms: ["a", "b"], gone: [], over: ["b"] }]);
  const second = new Map(first);
  second.delete("a");
  await roomWriter.write(second);
  expect(kept.at(-1)).toEqual({ rooms: [], gone: ["a"], over: [] });
});
