// From curves to what uPlot draws: one row of steps, and for each replica its
// line and, where points stand for buckets, what lies between least and most.
import uPlot from "uplot";
import type { Curve } from "../api/topics";
import { smoothed } from "./smooth";

export type Drawn = { data: uPlot.AlignedData; series: { replica: string; what: "line" | "raw" | "most" | "least" }[] };

export function drawn(curves: Curve[], smooth: number): Drawn {
  const tables: uPlot.AlignedData[] = [];
  const series: Drawn["series"] = [];
  for (const c of curves) {
    const x = c.points.map((p) => p.step);
    const raw = c.points.map((p) => p.last);
    const columns: (number | null)[][] = [];
    const add = (what: Drawn["series"][number]["what"], values: number[]) => {
      columns.push(values.map((v) => (Number.isFinite(v) ? v : null))); // a gap
      series.push({ replica: c.replica, what });
    };
    if (c.points.some((p) => p.min !== p.max && !Number.isNaN(p.min))) {
      add("most", c.points.map((p) => p.max));
      add("least", c.points.map((p) => p.min));
    }
    if (smooth > 0) add("raw", raw);
    add("line", smooth > 0 ? smoothed(raw, smooth) : raw);
    tables.push([x, ...columns] as uPlot.AlignedData);
  }
  if (tables.length === 0) return { data: [[]], series };
  return { data: tables.length === 1 ? tables[0]! : uPlot.join(tables, tables.map((t) => t.map(() => 2 as const))), series };
}
