// The arithmetic of the charts of an evaluation.

/** Round numbers from low to high for an axis, some five. */
export function ticks(low: number, high: number): number[] {
  if (!(high > low)) return [low];
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.8)!;
  const out: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

/** The least and the most of numbers, apart where they are one. */
export function span(values: number[]): [number, number] {
  let a = Infinity, b = -Infinity;
  for (const v of values) if (Number.isFinite(v)) [a, b] = [Math.min(a, v), Math.max(b, v)];
  if (a > b) return [0, 1];
  return a === b ? [a - 0.5, b + 0.5] : [a, b];
}

export type By = "rows" | "true" | "predicted";

/** The part of its true class, or of its predicted one, that each cell is. */
export function share(matrix: number[][], by: By): number[][] {
  if (by === "rows") {
    const most = Math.max(...matrix.flat(), 1e-300);
    return matrix.map((r) => r.map((v) => v / most));
  }
  const rows = matrix.map((r) => r.reduce((a, b) => a + b, 0));
  const columns = (matrix[0] ?? []).map((_, j) => matrix.reduce((a, r) => a + (r[j] ?? 0), 0));
  return matrix.map((r, i) => r.map((v, j) => { const of = by === "true" ? rows[i]! : columns[j]!; return of > 0 ? v / of : 0; }));
}

/** The pairs of classes that are mistaken most: [true, predicted, rows]. */
export function mistaken(matrix: number[][], most: number): [number, number, number][] {
  return matrix.flatMap((r, i) => r.flatMap((v, j): [number, number, number][] => (i !== j && v > 0 ? [[i, j, v]] : []))).sort((a, b) => b[2] - a[2]).slice(0, most);
}

/** What a key belongs to: "val/loss" and "val_loss" to val, "loss" to nothing. */
export function group(key: string): string {
  const slash = key.lastIndexOf("/");
  if (slash > 0) return key.slice(0, slash);
  return /^(train|val|valid|test|eval|system)_/.exec(key)?.[1] ?? "";
}

/** What differs of some objects: each path with what each has there, those that are not the same first. */
export function differences(of: unknown[]): { path: string; values: (string | undefined)[]; same: boolean }[] {
  const flat = of.map((o) => {
    const out = new Map<string, string>();
    const walk = (v: unknown, path: string) => {
      if (v && typeof v === "object" && !Array.isArray(v)) for (const [k, x] of Object.entries(v)) walk(x, path ? `${path}.${k}` : k);
      else if (v !== undefined) out.set(path, typeof v === "string" ? v : JSON.stringify(v));
    };
    walk(o, "");
    return out;
  });
  const paths = [...new Set(flat.flatMap((m) => [...m.keys()]))].sort((a, b) => a.localeCompare(b));
  return paths
    .map((path) => { const values = flat.map((m) => m.get(path)); return { path, values, same: values.every((v) => v === values[0]) }; })
    .sort((a, b) => Number(a.same) - Number(b.same));
}
