// How a replica came to where it stands: pure, so that it can be tried.
import type { Replica } from "../api/client";
import { lasting } from "../shell/words";

/** A phase of a replica; of what still goes on, to is now. Times in milliseconds. */
export type Phase = { name: string; tone: "wait" | "busy" | "good" | "bad" | "over"; from: number; to: number };

const at = (time: string | undefined) => (time && !time.startsWith("0001-") ? Date.parse(time) : undefined);
const stages: Record<string, string> = { code: "code fetched", environment: "environment made", data: "data fetched", checkpoint: "checkpoint fetched", prepare: "code prepared" };

/** The phases of the attempt that a replica is in, one after the other. queued: when its run began to wait. */
export function phases(r: Replica, queued: string | undefined, now: number): Phase[] {
  const asked = at(r.asked), ready = at(r.ready), started = at(r.started);
  const end = at(r.ended) ?? now;
  const all: Phase[] = [];
  const add = (name: string, tone: Phase["tone"], from: number | undefined, to: number) => {
    if (from !== undefined && to >= from) all.push({ name, tone, from, to });
  };
  const wished = at(queued);
  if (r.epoch <= 1 && wished !== undefined && asked !== undefined) add("queued", "wait", wished, asked);
  add("created", "wait", asked, ready ?? end);
  add("made ready", "busy", ready, started ?? end);
  add(r.status === "stopping" ? "stopping" : "running", r.status === "failed" || r.status === "lost" ? "bad" : "good", started, end);
  return all;
}

/** What making it ready consisted of; several parts may have gone on at once. */
export function parts(r: Replica, now: number): Phase[] {
  return (r.stages ?? []).map((s) => ({ name: stages[s.name] ?? s.name, tone: "busy", from: Date.parse(s.began), to: at(s.ended) ?? at(r.ended) ?? now }));
}

/** The phases in words. */
export const told = (all: Phase[]) => all.map((p) => `${p.name} ${lasting(p.to - p.from)}`).join(", ");
