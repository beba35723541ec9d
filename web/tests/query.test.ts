import { expect, test } from "vitest";
import { beginning, localDates } from "../src/views/query.ts";

test("a date is the reader's own day, with the offset of that day's midnight", () => {
  const summer = (date: Date) => (date.getMonth() === 6 ? 120 : 60);
  for (const [typed, offset, sent] of [
    ["lunch after:2026-01-31", summer, "lunch after:2026-01-31T00:00+01:00"],
    ["after:2026-07-01 BEFORE:2026-12-01", summer, "after:2026-07-01T00:00+02:00 BEFORE:2026-12-01T00:00+01:00"],
    ["before:2026-01-31", () => -210, "before:2026-01-31T00:00-03:30"],
    ["before:2026-01-31", () => 0, "before:2026-01-31T00:00+00:00"],
    // Words, a time, and what is no date stay as they are.
    ['"after:2026-01-31" xafter:2026-01-31', summer, '"after:2026-01-31" xafter:2026-01-31'],
    [
      "after:2026-01-31T12:00Z after:soon after:2026-13-01",
      summer,
      "after:2026-01-31T12:00Z after:soon after:2026-13-01",
    ],
  ] as const)
    expect(localDates(typed, offset)).toBe(sent);
});

test("the last word matches as a prefix; a filter does not", () => {
  for (const [typed, sent] of [
    ["lun", "lun*"],
    ["lunch from:ana", "lunch from:ana"],
    ["in:@ana has:link", "in:@ana has:link"],
    ["from:ana lun", "from:ana lun*"],
    ["origin:ana", "origin:ana*"],
    ['"lun', '"lun'],
    ["lunch ", "lunch"],
  ] as const)
    expect(beginning(typed)).toBe(sent);
});
