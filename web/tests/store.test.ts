/** The law: a snapshot with the events after it is the newer snapshot, in whatever order answers and events come. */
import fc from "fast-check";
import { describe, test } from "vitest";
import { Device, run, script } from "./device.ts";

/** `RUNS=10000 npm test` looks longer. */
const RUNS = Number(process.env.RUNS ?? 200);

describe("the law", () => {
  test("when all has come, what is held is what the server has, however it came", () => {
    fc.assert(
      fc.property(script, (steps) => {
        const device = new Device();
        for (const step of steps) run(device, step);
        device.settle();
        device.check();
        device.loadAll();
      }),
      { numRuns: RUNS },
    );
  });

  test("what comes at once makes the same state as if it came one by one", () => {
    fc.assert(
      fc.property(script, (steps) => {
        const device = new Device(true);
        for (const step of steps) run(device, step);
        device.settle();
      }),
      { numRuns: Math.ceil(RUNS / 3) },
    );
  });

  test("an event that comes again changes nothing", () => {
    fc.assert(
      fc.property(script, (steps) => {
        const device = new Device();
        for (const step of steps) {
          run(device, step);
          device.repeat();
        }
      }),
      { numRuns: Math.ceil(RUNS / 3) },
    );
  });
});
