import { value } from "../shell/words";
import { span, ticks } from "./scale";

export type Line = { label: string; points: readonly (readonly number[])[]; dashed?: boolean };

type Props = {
  name: string; // for those who do not see it
  lines?: Line[];
  dots?: readonly (readonly number[])[];
  bars?: { from: number; to: number; height: number }[];
  x: string;
  y: string;
  unit?: boolean; // both axes go from 0 to 1
  diagonal?: boolean;
};

const w = 420, h = 300, left = 52, right = 12, top = 10, bottom = 40;

/** Lines, dots or bars between two axes. */
export function Plot({ name, lines = [], dots = [], bars = [], x, y, unit = false, diagonal = false }: Props) {
  const xs = [...lines.flatMap((l) => l.points.map((p) => p[0]!)), ...dots.map((d) => d[0]!), ...bars.flatMap((b) => [b.from, b.to])];
  const ys = [...lines.flatMap((l) => l.points.map((p) => p[1]!)), ...dots.map((d) => d[1]!), ...bars.map((b) => b.height), ...(bars.length > 0 ? [0] : [])];
  let [x0, x1] = unit ? [0, 1] : span(xs);
  let [y0, y1] = unit ? [0, 1] : span(ys);
  if (diagonal && !unit) [x0, x1, y0, y1] = [Math.min(x0, y0), Math.max(x1, y1), Math.min(x0, y0), Math.max(x1, y1)];
  const at = (v: number) => left + ((v - x0) / (x1 - x0)) * (w - left - right);
  const up = (v: number) => h - bottom - ((v - y0) / (y1 - y0)) * (h - top - bottom);
  const colour = (i: number) => `var(--lane-${i % 6})`;
  return (
    <>
      <svg className="drawn" viewBox={`0 0 ${w} ${h}`} role="img" aria-label={name} fontSize={11} fontFamily="sans-serif">
        {ticks(x0, x1).map((t) => (
          <g key={`x${t}`}>
            <line x1={at(t)} x2={at(t)} y1={top} y2={h - bottom} stroke="var(--mantine-color-default-border)" />
            <text x={at(t)} y={h - bottom + 14} textAnchor="middle" fill="var(--mantine-color-text)">{value(t, 3)}</text>
          </g>
        ))}
        {ticks(y0, y1).map((t) => (
          <g key={`y${t}`}>
            <line x1={left} x2={w - right} y1={up(t)} y2={up(t)} stroke="var(--mantine-color-default-border)" />
            <text x={left - 6} y={up(t) + 4} textAnchor="end" fill="var(--mantine-color-text)">{value(t, 3)}</text>
          </g>
        ))}
        <text x={(left + w - right) / 2} y={h - 6} textAnchor="middle" fill="var(--mantine-color-text)">{x}</text>
        <text transform={`translate(12 ${(top + h - bottom) / 2}) rotate(-90)`} textAnchor="middle" fill="var(--mantine-color-text)">{y}</text>
        {diagonal && <line x1={at(x0)} y1={up(y0)} x2={at(x1)} y2={up(y1)} stroke="var(--mantine-color-dimmed)" strokeDasharray="4 4" />}
        {bars.map((b) => <rect key={b.from} x={at(b.from)} width={Math.max(0.5, at(b.to) - at(b.from) - 1)} y={up(b.height)} height={Math.max(0, up(0) - up(b.height))} fill={colour(0)}><title>{`${value(b.from, 3)} to ${value(b.to, 3)}: ${value(b.height)}`}</title></rect>)}
        {dots.map((d, i) => <circle key={i} cx={at(d[0]!)} cy={up(d[1]!)} r={2} fill={colour(0)} fillOpacity={0.5} />)}
        {lines.map((l, i) => (
          <g key={l.label}>
            <path d={l.points.map((p, k) => `${k ? "L" : "M"}${at(p[0]!).toFixed(1)} ${up(p[1]!).toFixed(1)}`).join("")} fill="none" stroke={colour(i)} strokeWidth={1.8} strokeDasharray={l.dashed ? "6 3" : ["none", "none", "2 3"][Math.floor(i / 6) % 3]}><title>{l.label}</title></path>
            {l.points.length <= 12 && l.points.map((p, k) => <circle key={k} cx={at(p[0]!)} cy={up(p[1]!)} r={3} fill={colour(i)} />)}
          </g>
        ))}
      </svg>
      {lines.length > 0 && <ul className="legend">{lines.map((l, i) => <li key={l.label}><span aria-hidden style={{ background: colour(i) }} />{l.label}</li>)}</ul>}
    </>
  );
}
