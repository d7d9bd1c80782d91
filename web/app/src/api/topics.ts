// What the topics of the stream come to: pure functions from what was known and
// what was heard to what is known now.
import type { Draft, Evaluated, JobStatus, Line, Replica } from "./client";
import type { Event } from "./hub";

export type JobEvent = { job: string; name: string; status?: JobStatus; deleted?: boolean };
export type Jobs = ReadonlyMap<string, JobEvent>;

/** Where each job stands, by its id. */
export function jobs(known: Jobs | undefined, heard: Event[]): Jobs {
  const now = new Map(known);
  for (const e of heard) {
    if (e.type === "snapshot") now.clear();
    if (e.type !== "snapshot" && e.type !== "delta") continue;
    for (const j of e.data as JobEvent[]) {
      if (j.deleted) now.delete(j.job);
      else now.set(j.job, j);
    }
  }
  return now;
}

export const natural = (a: string, b: string) => a.localeCompare(b, undefined, { numeric: true });

/** The replicas of a run, in the order of their names. */
export function replicas(known: Replica[] | undefined, heard: Event[]): Replica[] {
  let now = new Map((known ?? []).map((r) => [r.replica, r]));
  for (const e of heard) {
    if (e.type !== "snapshot" && e.type !== "delta") continue;
    if (e.type === "snapshot") now = new Map();
    for (const r of e.data as Replica[]) now.set(r.replica, r);
  }
  return [...now.values()].sort((a, b) => natural(a.replica, b.replica));
}

/** The draft of a job, which comes whole each time. An answer to a change may be here before the news of an older one. */
export function draft(known: Draft | undefined, heard: Event[]): Draft | undefined {
  for (const e of heard) {
    const came = e.type === "snapshot" || e.type === "delta" ? (e.data as Draft[]).at(-1) : undefined;
    if (came && (e.type === "snapshot" || came.changes >= (known?.changes ?? 0))) known = came;
  }
  return known;
}

/** What a run evaluated, the newest last: of each name, step and replica that of the newest attempt. */
export function evaluations(known: Evaluated[] | undefined, heard: Event[]): Evaluated[] {
  const now = new Map<string, Evaluated>();
  const add = (e: Evaluated) => {
    const id = `${e.name}\n${e.step}\n${e.replica}`;
    if ((now.get(id)?.epoch ?? 0) <= e.epoch) now.set(id, e);
  };
  for (const e of known ?? []) add(e);
  for (const e of heard) {
    if (e.type === "snapshot") now.clear();
    if (e.type === "snapshot" || e.type === "delta") for (const v of e.data as Evaluated[]) add(v);
  }
  return [...now.values()].sort((a, b) => a.step - b.step || natural(b.replica, a.replica));
}

export type Log = { lines: Line[]; left: number }; // left: lines that were shown and are no longer kept here

export const keptLines = 20_000;

/** The newest lines of a run. */
export function log(known: Log | undefined, heard: Event[]): Log {
  let { lines, left } = known ?? { lines: [], left: 0 };
  lines = lines.slice();
  for (const e of heard) {
    if (e.type === "snapshot") [lines, left] = [[], 0];
    if (e.type === "snapshot" || e.type === "delta") for (const l of e.data as Line[]) lines.push(l);
  }
  const over = lines.length - keptLines;
  return over > 0 ? { lines: lines.slice(over), left: left + over } : { lines, left };
}

/** What lies in a bucket of steps. Of one point all three are its value; NaN where it was none. */
export type Point = { step: number; min: number; max: number; last: number };
export type Curve = { key: string; replica: string; points: Point[] };
export type Curves = ReadonlyMap<string, Curve>;

export const keptPoints = 4000;

type Wire = number | "NaN" | "Infinity" | "-Infinity";
const number = (v: Wire | undefined) => (typeof v === "number" ? v : NaN);

/** A point as the API writes it: [step, time, value], or of a bucket [step, time, min, max, last]. */
export function point(p: Wire[]): Point {
  const last = number(p.at(-1));
  const [min, max] = p.length > 3 ? [number(p[2]), number(p[3])] : [last, last];
  return { step: number(p[0]), min, max, last };
}

/** The curves of a run, by key and replica. */
export function curves(known: Curves | undefined, heard: Event[]): Curves {
  const now = new Map(known);
  const mine = new Set<string>(); // those that are no longer shared with known
  for (const e of heard) {
    if (e.type === "snapshot") {
      now.clear();
      for (const c of e.data as { key: string; replica: string; points: Wire[][] }[]) {
        const id = `${c.key}\n${c.replica}`;
        now.set(id, { key: c.key, replica: c.replica, points: c.points.map(point) });
        mine.add(id);
      }
    } else if (e.type === "delta") {
      for (const p of e.data as { key: string; replica: string; step: number; value: Wire }[]) {
        const id = `${p.key}\n${p.replica}`;
        let c = now.get(id);
        if (!c || !mine.has(id)) {
          c = { key: p.key, replica: p.replica, points: c?.points.slice() ?? [] };
          now.set(id, c);
          mine.add(id);
        }
        put(c.points, point([p.step, 0, p.value]));
      }
    }
  }
  for (const id of mine) {
    const c = now.get(id)!;
    if (c.points.length > keptPoints) now.set(id, { ...c, points: thin(c.points) });
  }
  return now;
}

/** Puts a point where its step belongs; one that was measured again takes the place of the old one. */
function put(points: Point[], p: Point) {
  let i = points.length;
  while (i > 0 && points[i - 1]!.step > p.step) i--;
  if (i > 0 && points[i - 1]!.step === p.step) points[i - 1] = p;
  else points.splice(i, 0, p);
}

/** Joins each two neighbours into one bucket, so that a spike of one point stays. */
function thin(points: Point[]): Point[] {
  const out: Point[] = [];
  for (let i = 0; i < points.length; i += 2) {
    const a = points[i]!, b = points[i + 1] ?? a;
    out.push({ step: b.step, min: least(a.min, b.min), max: most(a.max, b.max), last: b.last });
  }
  return out;
}

const least = (a: number, b: number) => (Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.min(a, b));
const most = (a: number, b: number) => (Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.max(a, b));
