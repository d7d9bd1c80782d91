// Which jobs a list shows: pure, so that it can be tried on ten thousand.
import { natural, type JobEvent } from "../api/topics";
import { final } from "../shell/Status";

export type View = "running" | "waiting" | "failed";

const inView: Record<View, (state: string) => boolean> = {
  running: (s) => ["starting", "running", "resizing", "stopping"].includes(s),
  waiting: (s) => s === "created" || s === "queued",
  failed: (s) => s === "failed",
};

/**
 * The jobs that a filter lets through, newest first or by name. A word is part
 * of a name or of a reason; status:failed is a state.
 */
export function rows(jobs: Iterable<JobEvent>, q: string | undefined, view?: View, sort?: "name"): JobEvent[] {
  const words = (q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const states = words.filter((w) => w.startsWith("status:")).flatMap((w) => w.slice(7).split(","));
  const parts = words.filter((w) => !w.startsWith("status:"));
  const found = [];
  for (const j of jobs) {
    const state = j.status?.state ?? "";
    if (view && !inView[view](state)) continue;
    if (states.length > 0 && !states.some((s) => state.startsWith(s))) continue;
    if (parts.length > 0) {
      const text = `${j.name} ${j.status?.reason ?? ""}`.toLowerCase();
      if (!parts.every((p) => text.includes(p))) continue;
    }
    found.push(j);
  }
  return found.sort(sort === "name" ? (a, b) => natural(a.name, b.name) : (a, b) => (a.job < b.job ? 1 : -1)); // ids begin with their time
}

/** How many jobs each view has. */
export function counts(jobs: Iterable<JobEvent>): Record<View, number> {
  const n = { running: 0, waiting: 0, failed: 0 };
  for (const j of jobs) for (const v of Object.keys(inView) as View[]) if (inView[v](j.status?.state ?? "")) n[v]++;
  return n;
}

/** Whether something of the job can be stopped. */
export const live = (j: JobEvent) => !!j.status?.run && !final(j.status.state);
