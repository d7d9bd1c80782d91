import { SegmentedControl, Table, Text } from "@mantine/core";
import { useRef, useState, type KeyboardEvent } from "react";
import { Figure } from "../chart/Figure";
import { escaped, type Cell } from "../chart/export";
import { value } from "../shell/words";
import { mistaken, share, type By } from "./scale";

type Props = { file: string; matrix: number[][]; labels: string[] };

const whole = 30; // classes of which the whole matrix is drawn

/** How many rows of each true class were taken for which: cells are gone through by the arrow keys. */
export function Confusion({ file, matrix, labels }: Props) {
  const [by, set] = useState<By>("true");
  const parts = share(matrix, by);
  const name = (i: number) => labels[i] ?? String(i);
  const rows = (): Cell[][] => [["true", "predicted", "rows", "part of true"], ...matrix.flatMap((r, i) => r.map((v, j): Cell[] => [name(i), name(j), v, share([r], "true")[0]![j]!]))];
  return (
    <Figure title="Confusion" file={`${file}-confusion`} rows={rows} svg={() => drawing(matrix, parts, labels, by)} note="A row for each true class, a column for each predicted one.">
      <SegmentedControl size="xs" aria-label="Cells as" value={by} onChange={(v) => set(v as By)} data={[{ value: "rows", label: "rows" }, { value: "true", label: "% of true" }, { value: "predicted", label: "% of predicted" }]} mb={6} />
      {matrix.length <= whole ? <Grid matrix={matrix} parts={parts} by={by} name={name} /> : (
        <>
          <Text size="xs">The {mistaken(matrix, 50).length} pairs that are mistaken most, of {matrix.length} classes:</Text>
          <Table fz="xs">
            <Table.Thead><Table.Tr><Table.Th>true</Table.Th><Table.Th>predicted</Table.Th><Table.Th ta="right">rows</Table.Th></Table.Tr></Table.Thead>
            <Table.Tbody>{mistaken(matrix, 50).map(([i, j, v]) => <Table.Tr key={`${i} ${j}`}><Table.Td>{name(i)}</Table.Td><Table.Td>{name(j)}</Table.Td><Table.Td ta="right">{value(v)}</Table.Td></Table.Tr>)}</Table.Tbody>
          </Table>
        </>
      )}
    </Figure>
  );
}

function Grid({ matrix, parts, by, name }: { matrix: number[][]; parts: number[][]; by: By; name: (i: number) => string }) {
  const [at, move] = useState<[number, number]>([0, 0]);
  const table = useRef<HTMLTableElement>(null);
  const n = matrix.length;
  const press = (e: KeyboardEvent) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -n], End: [0, n] }[e.key];
    if (!by) return;
    e.preventDefault();
    const to: [number, number] = [Math.min(n - 1, Math.max(0, at[0] + by[0]!)), Math.min(n - 1, Math.max(0, at[1] + by[1]!))];
    move(to);
    table.current?.querySelector<HTMLElement>(`[data-cell="${to[0]} ${to[1]}"]`)?.focus();
  };
  const shown = (i: number, j: number) => (by === "rows" ? value(matrix[i]![j]!, 3) : `${Math.round(parts[i]![j]! * 100)}`);
  const said = (i: number, j: number) => `${name(i)} taken for ${name(j)}: ${value(matrix[i]![j]!)} rows, ${(share([matrix[i]!], "true")[0]![j]! * 100).toFixed(1)}% of ${name(i)}`;
  return (
    <>
      <div className="wide">
        <table ref={table} role="grid" aria-label="Confusion, true by predicted" className="confusion" onKeyDown={press}>
          <thead><tr><th scope="col">true ╲ pred.</th>{matrix.map((_, j) => <th key={j} scope="col">{name(j)}</th>)}</tr></thead>
          <tbody>
            {matrix.map((row, i) => (
              <tr key={i}>
                <th scope="row">{name(i)}</th>
                {row.map((_, j) => (
                  <td key={j} role="gridcell" data-cell={`${i} ${j}`} tabIndex={at[0] === i && at[1] === j ? 0 : -1} aria-label={`${shown(i, j)}: ${said(i, j)}`} title={said(i, j)} onFocus={() => move([i, j])}
                    style={{ background: `color-mix(in srgb, var(${i === j ? "--lane-2" : "--lane-1"}) calc(var(--cell) * ${parts[i]![j]!.toFixed(3)}), transparent)` }}>{shown(i, j)}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Text size="xs" aria-live="polite">{said(...at)}</Text>
    </>
  );
}

/** The matrix as an SVG, for a file. */
function drawing(matrix: number[][], parts: number[][], labels: string[], by: By): string {
  const n = matrix.length, cell = Math.max(12, Math.min(56, 560 / n)), left = 110, top = 40;
  const size = left + n * cell + 10, tall = top + n * cell + 10;
  const out: string[] = [];
  for (let i = 0; i < n; i++) {
    const name = escaped((labels[i] ?? String(i)).slice(0, 16));
    out.push(`<text x="${left - 6}" y="${top + (i + 0.6) * cell}" text-anchor="end">${name}</text><text x="${left + (i + 0.5) * cell}" y="${top - 8}" text-anchor="middle">${name}</text>`);
    for (let j = 0; j < n; j++) {
      const p = parts[i]![j]!;
      out.push(`<rect x="${left + j * cell}" y="${top + i * cell}" width="${cell - 1}" height="${cell - 1}" fill="${i === j ? "#00695c" : "#a03d00"}" fill-opacity="${(p * 0.6).toFixed(3)}" stroke="#ccc"/>`);
      if (n <= 20) out.push(`<text x="${left + (j + 0.5) * cell}" y="${top + (i + 0.6) * cell}" text-anchor="middle">${by === "rows" ? value(matrix[i]![j]!, 3) : Math.round(p * 100)}</text>`);
    }
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${tall}" viewBox="0 0 ${size} ${tall}" font-family="sans-serif" font-size="11" fill="#222"><rect width="${size}" height="${tall}" fill="#fff"/>${out.join("")}</svg>`;
}
