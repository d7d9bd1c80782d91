import { expect, test } from "vitest";
import { best, deltas, named } from "./runs";

test("named", () => {
  expect(named("a/1, b/22,a/1,nonsense,c/x")).toEqual(["a/1", "b/22"]);
  expect(named(undefined)).toEqual([]);
});

test("deltas", () => {
  const rows = deltas([new Map([["acc", { last: 0.5 }], ["lr", { last: 1 }]]), new Map([["acc", { last: 0.75 }], ["lr", { last: 1 }], ["new", { last: NaN }]])]);
  expect(rows.map((r) => [r.key, r.same])).toEqual([["acc", false], ["new", false], ["lr", true]]);
  expect(rows[0]!.of[1]!.delta).toBe(0.25);
  expect(rows[1]!.of).toEqual([undefined, { last: NaN }]);
});

test("best", () => {
  const v = (...n: number[]) => n.map((last) => ({ last }));
  expect(best(v(0.5, 0.9), "val_acc")).toBe(1);
  expect(best(v(0.5, 0.9), "val/loss")).toBe(0);
  expect(best(v(0.5, 0.5), "loss")).toBeUndefined();
  expect(best(v(0.5, 0.9), "lr")).toBeUndefined();
  expect(best([undefined, { last: NaN }], "loss")).toBeUndefined();
});
