import { expect, test } from "vitest";
import type { JobEvent } from "../api/topics";
import { ended } from "./ends";

const job = (state: string, run = "r1"): [string, JobEvent] => ["j", { job: "j", name: "mnist", status: { run, state, number: 7, reason: "because" } } as JobEvent];

test("a run is told of once, when it ends, and not because the page was opened", () => {
  const running = new Map([job("running")]), failed = new Map([job("failed")]);
  expect(ended(running, failed)).toEqual([{ id: "r1", text: "mnist/7 failed", body: "because" }]);
  expect(ended(failed, failed)).toEqual([]);
  expect(ended(new Map(), failed)).toEqual([]);
  expect(ended(failed, new Map([job("running", "r2")]))).toEqual([]);
  expect(ended(failed, new Map([job("succeeded", "r2")]))).toHaveLength(1); // it was quick
});
