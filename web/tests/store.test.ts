/** The law: a snapshot with the events after it is the newer snapshot, in whatever order answers and events come. */
import fc from "fast-check";
import { describe, test } from "vitest";
import { Device, run, script } from "./device.ts";

/** `RUNS=10000 npm test` looks longer. */
const RUNS = Number(process.env.RUNS ?? 200);

describe("the law", () => {
  test("once everything has arrived, in any order, the state equals the server's", () => {
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

  test("a batch of events has the same effect as single events", () => {
    fc.assert(
      fc.property(script, (steps) => {
        const device = new Device(true);
        for (const step of steps) run(device, step);
        device.settle();
      }),
      { numRuns: Math.ceil(RUNS / 3) },
    );
  });

  test("a repeated event changes nothing", () => {
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
