import { expect, test } from "vitest";
import { csv, lineSVG } from "../chart/export";
import { differences, group, mistaken, share, span, ticks } from "./scale";

test("ticks are round and within", () => {
  expect(ticks(0, 1)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
  expect(ticks(-3.2, 7)).toEqual([-2, 0, 2, 4, 6]);
  expect(ticks(5, 5)).toEqual([5]);
  for (const t of ticks(1e-9, 3e-9)) expect(t).toBeLessThanOrEqual(3e-9 * (1 + 1e-9));
});

test("span leaves out what is no number", () => {
  expect(span([3, NaN, 1, Infinity])).toEqual([1, 3]);
  expect(span([2, 2])).toEqual([1.5, 2.5]);
  expect(span([])).toEqual([0, 1]);
});

test("share", () => {
  const m = [[3, 1], [0, 0]];
  expect(share(m, "true")).toEqual([[0.75, 0.25], [0, 0]]);
  expect(share(m, "predicted")).toEqual([[1, 1], [0, 0]]);
  expect(share(m, "rows")).toEqual([[1, 1 / 3], [0, 0]]);
  expect(share([[0]], "rows")).toEqual([[0]]);
});

test("mistaken", () => expect(mistaken([[9, 2, 0], [5, 9, 1], [0, 0, 9]], 2)).toEqual([[1, 0, 5], [0, 1, 2]]));

test("group", () => {
  expect(group("val/loss")).toBe("val");
  expect(group("a/b/c")).toBe("a/b");
  expect(group("val_acc")).toBe("val");
  expect(group("loss")).toBe("");
  expect(group("my_metric")).toBe("");
});

test("differences come first, and what one lacks is one", () => {
  expect(differences([{ a: 1, b: { c: "x" }, l: [1] }, { a: 2, b: { c: "x" } }])).toEqual([
    { path: "a", values: ["1", "2"], same: false },
    { path: "l", values: ["[1]", undefined], same: false },
    { path: "b.c", values: ["x", "x"], same: true },
  ]);
});

test("csv quotes what would break it", () => expect(csv([["a,b", 'say "x"'], [1.5, "z"]])).toBe('"a,b","say ""x"""\r\n1.5,z\r\n'));

test("a curve as an SVG", () => {
  const point = (step: number, last: number) => ({ step, min: last, max: last, last });
  const svg = lineSVG("a<b", [{ key: "k", replica: "w", points: [point(0, 1), point(1, NaN), point(2, 3)] }], false);
  expect(svg).toContain("a&lt;b");
  expect(svg.match(/[ML][\d.]+ [\d.]+/g)).toHaveLength(2); // no NaN
  expect(lineSVG("k", [{ key: "k", replica: "w", points: [point(0, -1), point(1, 10)] }], true)).not.toContain("NaN");
});
