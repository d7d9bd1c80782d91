import { expect, test } from "vitest";
import { smoothed } from "./smooth";

test("smoothed", () => {
  expect(smoothed([1, 2, 3], 0)).toEqual([1, 2, 3]);
  const y = smoothed([4, 4, 4, 4], 0.9); // a constant stays: the short past is corrected for
  for (const v of y) expect(v).toBeCloseTo(4, 12);
  expect(smoothed([0, 1], 0.5)[1]).toBeCloseTo(2 / 3, 12); // (0.5*0.5*0 + 0.5*1) / 0.75
  const gap = smoothed([1, NaN, 1], 0.5);
  expect([gap[0], gap[1], gap[2]]).toEqual([1, NaN, 1]);
});
