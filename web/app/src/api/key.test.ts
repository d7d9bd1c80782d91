import { expect, test } from "vitest";
import { newKey } from "./key";

test("a key is 32 digits, and no two are the same", () => {
  const all = Array.from({ length: 1000 }, newKey);
  expect(all.every((k) => /^[0-9a-f]{32}$/.test(k))).toBe(true);
  expect(new Set(all).size).toBe(1000);
});
