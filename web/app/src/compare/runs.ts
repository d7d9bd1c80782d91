// What is said of runs beside each other.
export type Value = { last: number; best?: number; step?: number };
export type Measured = ReadonlyMap<string, Value>;
export type Row = { key: string; same: boolean; of: ((Value & { delta?: number }) | undefined)[] };

/** The runs that an address names, each once: "JOB/1,JOB2/4". */
export const named = (text: string | undefined) => [...new Set((text ?? "").split(",").map((s) => s.trim()).filter((s) => /^[^/\s]+\/\d+$/.test(s)))];

/** Each metric with what the runs have of it, and how far that is from the first run's. What differs comes first. */
export function deltas(of: Measured[]): Row[] {
  const keys = [...new Set(of.flatMap((m) => [...m.keys()]))];
  return keys
    .map((key): Row => {
      const all = of.map((m) => m.get(key)), first = all[0];
      return {
        key,
        same: all.every((v) => v && first && Object.is(v.last, first.last)),
        of: all.map((v) => v && { ...v, ...(first && Number.isFinite(v.last - first.last) && { delta: v.last - first.last }) }),
      };
    })
    .sort((a, b) => Number(a.same) - Number(b.same) || a.key.localeCompare(b.key, undefined, { numeric: true }));
}

const more = /(^|[^a-z])(acc|accuracy|auc|ap|f1|precision|recall|r2|mcc|ndcg|map|iou|score|reward)($|[^a-z])/, less = /(^|[^a-z])(loss|mae|mse|rmse|error|brier|ece|perplexity)($|[^a-z])/;

/** Which run has the best last value, by the name of the metric; none where that does not tell, or two are as good. */
export function best(of: Row["of"], key: string): number | undefined {
  const sign = less.test(key) ? -1 : more.test(key) ? 1 : 0;
  if (sign === 0) return undefined;
  const scores = of.map((v) => (v && Number.isFinite(v.last) ? sign * v.last : -Infinity));
  const top = Math.max(...scores);
  return Number.isFinite(top) && scores.filter((s) => s === top).length === 1 ? scores.indexOf(top) : undefined;
}
