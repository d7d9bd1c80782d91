import { expect, test } from "vitest";
import type { Replica } from "../api/client";
import { parts, phases, told } from "./phases";

const base = { epoch: 1, status: "running", asked: "2026-01-01T00:00:02Z", ready: "2026-01-01T00:00:03Z", started: "2026-01-01T00:00:10Z" } as Replica;
const now = Date.parse("2026-01-01T00:01:10Z");

test("a running replica has four phases, and the last goes on", () => {
  expect(told(phases(base, "2026-01-01T00:00:00Z", now))).toBe("queued 2.0 s, created 1.0 s, made ready 7.0 s, running 1 m 0 s");
});

test("what was not reached is no phase, and a later attempt did not wait from the beginning", () => {
  const { ready: _, started: __, ...created } = base;
  expect(told(phases({ ...created, status: "creating", epoch: 2 } as Replica, "2026-01-01T00:00:00Z", now))).toBe("created 1 m 8 s");
});

test("one that failed is told so, and ends", () => {
  const all = phases({ ...base, status: "failed", ended: "2026-01-01T00:00:12Z" } as Replica, undefined, now);
  expect(all.at(-1)).toMatchObject({ name: "running", tone: "bad", to: Date.parse("2026-01-01T00:00:12Z") });
});

test("parts of getting ready may overlap", () => {
  const r = { ...base, stages: [{ name: "code", began: "2026-01-01T00:00:03Z", ended: "2026-01-01T00:00:04Z" }, { name: "environment", began: "2026-01-01T00:00:03Z" }] } as Replica;
  expect(told(parts(r, now))).toBe("code fetched 1.0 s, environment made 1 m 7 s");
});
