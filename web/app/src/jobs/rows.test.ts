import { expect, test } from "vitest";
import type { JobEvent } from "../api/topics";
import { counts, rows } from "./rows";

const job = (id: string, name: string, state: string, reason = ""): JobEvent => ({ job: id, name, status: { run: `r${id}`, state, reason } as JobEvent["status"] });
const all = [job("1", "mnist-2", "running"), job("2", "mnist-10", "failed", "worker-1 ran out of memory"), job("3", "bert", "queued", "waits for 2 GPUs"), { job: "4", name: "new" }];
const names = (...a: [string | undefined, Parameters<typeof rows>[2]?, "name"?]) => rows(all, ...a).map((j) => j.name);

test("rows", () => {
  expect(names(undefined)).toEqual(["new", "bert", "mnist-10", "mnist-2"]);
  expect(names(undefined, undefined, "name")).toEqual(["bert", "mnist-2", "mnist-10", "new"]);
  expect(names("MNIST")).toEqual(["mnist-10", "mnist-2"]);
  expect(names("memory")).toEqual(["mnist-10"]);
  expect(names("status:failed,run mnist")).toEqual(["mnist-10", "mnist-2"]);
  expect(names("mnist gpus")).toEqual([]);
  expect(names(undefined, "waiting")).toEqual(["bert"]);
  expect(counts(all)).toEqual({ running: 1, waiting: 1, failed: 1 });
});
