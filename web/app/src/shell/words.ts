// Numbers, times and amounts as people read them.

/** "387Ki" as "387 KiB". */
export function size(amount: string | number | undefined): string {
  const [, n, unit] = /^(\d+)([KMGT]i)?$/.exec(String(amount ?? "")) ?? [];
  if (!n) return String(amount ?? "");
  const bytes = Number(n) * 1024 ** ["", "Ki", "Mi", "Gi", "Ti"].indexOf(unit ?? "");
  const i = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${Number((bytes / 1024 ** i).toPrecision(3))} ${["B", "KiB", "MiB", "GiB", "TiB"][i]}`;
}

/** The bytes of "387Ki"; NaN where it is no amount. */
export function bytes(amount: string | undefined): number {
  const [, n, unit] = /^(\d+)([KMGT]i)?$/.exec(amount ?? "") ?? [];
  return n ? Number(n) * 1024 ** ["", "Ki", "Mi", "Gi", "Ti"].indexOf(unit ?? "") : NaN;
}

/** A value of a metric, short. */
export function value(v: number, digits = 4): string {
  if (!Number.isFinite(v)) return String(v);
  return Number.isInteger(v) && Math.abs(v) < 1e9 ? v.toLocaleString("en") : String(Number(v.toPrecision(digits)));
}

/** How long: "850 ms", "12.3 s", "4 m 5 s", "2 h 3 m". */
export function lasting(ms: number): string {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${Math.round(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** When, in the time of who reads; the whole of it is in full. */
export function when(time: string | undefined): string {
  if (!time || time.startsWith("0001-")) return "";
  const t = new Date(time);
  const today = t.toDateString() === new Date().toDateString();
  return today ? t.toLocaleTimeString() : t.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export const full = (time: string | undefined) => (time ? new Date(time).toISOString() : "");

/** "3 files", "1 file". */
export const many = (n: number, one: string, more = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : more}`;
