import { expect, test } from "vitest";
import type { Draft, Evaluated, Line } from "./client";
import type { Event } from "./hub";
import { curves, draft, evaluations, jobs, keptLines, keptPoints, log } from "./topics";

const event = (type: Event["type"], data: unknown): Event => ({ id: "1", topic: "t", type, seq: 1, data });
const line = (cursor: number) => ({ cursor, line: `${cursor}` }) as Line;

test("jobs: a snapshot replaces, a change adds, a deleted one goes", () => {
  const first = jobs(undefined, [event("snapshot", [{ job: "a", name: "a" }, { job: "b", name: "b" }])]);
  const then = jobs(first, [event("delta", [{ job: "a", name: "a", deleted: true }]), event("delta", [{ job: "c", name: "c" }]), event("synced", undefined)]);
  expect([...first.keys()]).toEqual(["a", "b"]); // what was known is not changed
  expect([...then.keys()]).toEqual(["b", "c"]);
  expect([...jobs(then, [event("snapshot", [])]).keys()]).toEqual([]);
});

test("evaluations: by step, and of one that was said again the newest attempt", () => {
  const e = (name: string, step: number, epoch: number, replica = "worker-0") => ({ name, step, epoch, replica }) as Evaluated;
  const first = evaluations(undefined, [event("snapshot", [e("a", 9, 1), e("a", 2, 2), e("a", 2, 1)])]);
  expect(first.map((v) => [v.step, v.epoch])).toEqual([[2, 2], [9, 1]]);
  const then = evaluations(first, [event("delta", [e("a", 9, 2), e("a", 9, 1, "worker-1")])]);
  expect(then.map((v) => [v.step, v.epoch, v.replica])).toEqual([[2, 2, "worker-0"], [9, 1, "worker-1"], [9, 2, "worker-0"]]);
  expect(evaluations(then, [event("snapshot", [])])).toEqual([]);
});

test("draft: what is older than the answer to a change is not news", () => {
  const of = (changes: number) => ({ changes, files: [] }) as unknown as Draft;
  const event = (type: Event["type"], changes: number) => ({ type, data: [of(changes)] }) as Event;
  const known = draft(undefined, [event("snapshot", 3)]);
  expect(draft(known, [event("delta", 2)])?.changes).toBe(3);
  expect(draft(known, [event("delta", 3), event("delta", 4)])?.changes).toBe(4);
  expect(draft(known, [event("snapshot", 1)])?.changes).toBe(1);
});

test("log: the newest lines are kept, and it is known how many left", () => {
  const many = Array.from({ length: keptLines }, (_, i) => line(i + 1));
  const full = log(undefined, [event("snapshot", many)]);
  expect(full.left).toBe(0);
  const more = log(full, [event("delta", [line(keptLines + 1), line(keptLines + 2)])]);
  expect([more.lines.length, more.lines[0]!.cursor, more.lines.at(-1)!.cursor, more.left]).toEqual([keptLines, 3, keptLines + 2, 2]);
  expect(full.lines.length).toBe(keptLines);
});

test("curves: points go where their step is, and one that comes again takes its place", () => {
  const at = (step: number, value: number | string) => ({ key: "loss", replica: "w", step, value });
  const c = curves(undefined, [event("delta", [at(1, 5), at(3, 4), at(2, 9), at(3, 6), at(4, "NaN")])]).get("loss\nw")!;
  expect(c.points.map((p) => [p.step, p.last])).toEqual([[1, 5], [2, 9], [3, 6], [4, NaN]]);
});

test("curves: buckets of a snapshot keep their least and most", () => {
  const c = curves(undefined, [event("snapshot", [{ key: "k", replica: "w", points: [[10, 0, -1, 7, 2], [20, 0, 3]] }])]).get("k\nw")!;
  expect(c.points).toEqual([{ step: 10, min: -1, max: 7, last: 2 }, { step: 20, min: 3, max: 3, last: 3 }]);
});

test("curves: a spike of one point stays when a curve is thinned", () => {
  const spike = 1234;
  const points = Array.from({ length: keptPoints + 1 }, (_, i) => ({ key: "k", replica: "w", step: i, value: i === spike ? 99 : 0 }));
  const before = curves(undefined, [event("delta", points.slice(0, 10))]);
  const c = curves(before, [event("delta", points.slice(10))]).get("k\nw")!;
  expect(c.points.length).toBeLessThanOrEqual(keptPoints);
  expect(Math.max(...c.points.map((p) => p.max))).toBe(99);
  expect(c.points.at(-1)!.step).toBe(keptPoints);
  expect(before.get("k\nw")!.points.length).toBe(10);
});
