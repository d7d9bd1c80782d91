import { Table, Text, UnstyledButton } from "@mantine/core";
import { useState } from "react";
import type { Evaluation } from "../api/client";
import { Figure } from "../chart/Figure";
import type { Cell } from "../chart/export";
import { value } from "../shell/words";
import { Confusion } from "./Confusion";
import { Plot } from "./Plot";

export const kinds = ["scores", "confusion", "roc", "pr", "calibration", "classes", "residuals", "sample"] as const;

const n = (v: unknown) => (typeof v === "number" ? v : NaN);
const pairs = (ps: readonly (readonly unknown[])[] | undefined) => (ps ?? []).map((p) => p.map(n));
const short = (v: unknown) => (typeof v === "number" ? value(v) : "–");

/** Every chart that an evaluation has, in the order that the job wants; all where it wants none in particular. */
export function Charts({ of, file, wanted }: { of: Evaluation; file: string; wanted: readonly string[] }) {
  const order = wanted.length > 0 ? wanted : kinds;
  const labels = of.labels ?? [];
  return (
    <div className="charts">
      {order.map((kind) => {
        const name = `${file}-${kind}`;
        switch (kind) {
          case "scores": return <Scores key={kind} of={of} file={name} />;
          case "confusion": {
            if (of.confusion?.matrix) return <Confusion key={kind} file={file} matrix={pairs(of.confusion.matrix)} labels={labels} />;
            if (of.confusion?.cells) return <Cells key={kind} cells={pairs(of.confusion.cells)} hidden={of.confusion.hidden ?? 0} labels={labels} file={name} />;
            return of.perLabel && <PerLabel key={kind} of={pairs2(of.perLabel)} labels={labels} file={name} />;
          }
          case "roc": case "pr": {
            const curves = of[kind] ?? [];
            if (curves.length === 0) return null;
            const area = kind === "roc" ? "auc" : "ap";
            const [x, y] = kind === "roc" ? ["false positive rate", "true positive rate"] : ["recall", "precision"];
            const title = kind === "roc" ? "ROC" : "Precision and recall";
            return (
              <Figure key={kind} title={title} file={name} note={kind === "roc" ? "The area (AUC) is of all points, before the curve was thinned." : "AP: the average precision, of all points."}
                rows={() => [["class", x, y], ...curves.flatMap((c) => pairs(c.points).map((p): Cell[] => [c.label, ...p]))]}>
                <Plot unit diagonal={kind === "roc"} x={x} y={y} name={`${title}: ${curves.map((c) => `${c.label} ${short(c[area])}`).join(", ")}`}
                  lines={curves.map((c) => ({ label: `${c.label} · ${area.toUpperCase()} ${short(c[area])}`, points: pairs(c.points), dashed: c.average ?? false }))} />
              </Figure>
            );
          }
          case "calibration": {
            const curves = of.calibration ?? [];
            if (curves.length === 0) return null;
            return (
              <Figure key={kind} title="Calibration" file={name} note="How often predictions of a probability came true; on the dashed line as often as they said."
                rows={() => [["class", "mean probability", "part positive", "rows"], ...curves.flatMap((c) => pairs(c.bins).map((b): Cell[] => [c.label, ...b]))]}>
                <Plot unit diagonal x="mean probability" y="part that is positive" name={`Calibration of ${curves.map((c) => c.label).join(", ")}`} lines={curves.map((c) => ({ label: c.label, points: pairs(c.bins) }))} />
              </Figure>
            );
          }
          case "classes": return (of.perClass?.length ?? 0) > 0 && <Classes key={kind} of={of} file={name} />;
          case "residuals": {
            const r = of.residuals;
            if (!r) return null;
            const counts = (r.counts ?? []).map(n), edges = (r.edges ?? []).map(n);
            return (
              <Figure key={kind} title="Residuals" file={name} note={`True less predicted: mean ${short(r.mean)}, standard deviation ${short(r.std)}, median ${short(pairs(r.quantiles).find((q) => q[0] === 0.5)?.[1])}.`}
                rows={() => [["from", "to", "rows"], ...counts.map((c, i): Cell[] => [edges[i]!, edges[i + 1]!, c])]}>
                <Plot x="residual" y="rows" name={`Residuals, mean ${short(r.mean)}, standard deviation ${short(r.std)}`} bars={counts.map((height, i) => ({ from: edges[i]!, to: edges[i + 1]!, height }))} />
              </Figure>
            );
          }
          case "sample": {
            const dots = pairs(of.sample);
            if (dots.length === 0) return null;
            return (
              <Figure key={kind} title="Predicted and true" file={name} note={dots.length < of.rows ? `${dots.length.toLocaleString("en")} rows of ${of.rows.toLocaleString("en")}, by chance.` : undefined} rows={() => [["true", "predicted"], ...dots]}>
                <Plot diagonal x="true" y="predicted" name={`Predicted and true values of ${dots.length} rows`} dots={dots} />
              </Figure>
            );
          }
          default: return null;
        }
      })}
    </div>
  );
}

const pairs2 = (v: readonly (readonly (readonly unknown[])[])[]) => v.map((m) => pairs(m));

function Scores({ of, file }: { of: Evaluation; file: string }) {
  const scores = Object.entries(of.scores);
  return (
    <Figure title="Scores" file={file} rows={() => [["score", "value"], ...scores.map(([k, v]): Cell[] => [k, typeof v === "number" ? v : ""])]}>
      <dl className="facts">{scores.map(([k, v]) => [<dt key={k}>{k}</dt>, <dd key={`${k} value`}>{short(v)}</dd>])}</dl>
      {of.threshold !== undefined && <Text size="xs" c="dimmed">A score of {short(of.threshold)} and more counts as the class.</Text>}
      {of.approximate && <Text size="xs">Approximate: {of.approximate}.</Text>}
      {of.notes?.map((note) => <Text key={note} size="xs">{note}</Text>)}
    </Figure>
  );
}

const columns = ["label", "precision", "recall", "f1", "support", "auc", "ap"] as const;

function Classes({ of, file }: { of: Evaluation; file: string }) {
  const [sort, set] = useState<{ by: (typeof columns)[number]; down: boolean }>();
  const [more, show] = useState(50);
  const rows = of.perClass ?? [];
  const sorted = sort
    ? rows.toSorted((a, b) => (sort.down ? -1 : 1) * (sort.by === "label" ? a.label.localeCompare(b.label, undefined, { numeric: true }) : (n(a[sort.by]) || 0) - (n(b[sort.by]) || 0)))
    : rows;
  const there = columns.filter((c) => rows.some((r) => r[c] !== undefined && r[c] !== null));
  return (
    <Figure title="Classes" file={file} rows={() => [[...there], ...rows.map((r) => there.map((c): Cell => (c === "label" ? r.label : n(r[c]))))]}>
      <div className="wide">
        <Table fz="xs">
          <Table.Thead>
            <Table.Tr>
              {there.map((c) => (
                <Table.Th key={c} ta={c === "label" ? "left" : "right"} aria-sort={sort?.by === c ? (sort.down ? "descending" : "ascending") : "none"}>
                  <UnstyledButton fz="xs" fw={700} onClick={() => set({ by: c, down: sort?.by === c ? !sort.down : c !== "label" })}>{c === "label" ? "class" : c}{sort?.by === c ? (sort.down ? " ↓" : " ↑") : ""}</UnstyledButton>
                </Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>{sorted.slice(0, more).map((r) => <Table.Tr key={r.label}>{there.map((c) => <Table.Td key={c} ta={c === "label" ? "left" : "right"}>{c === "label" ? r.label : short(r[c])}</Table.Td>)}</Table.Tr>)}</Table.Tbody>
        </Table>
      </div>
      {sorted.length > more && <UnstyledButton fz="xs" td="underline" onClick={() => show(more + 200)}>{sorted.length - more} more classes</UnstyledButton>}
    </Figure>
  );
}

function Cells({ cells, hidden, labels, file }: { cells: number[][]; hidden: number; labels: string[]; file: string }) {
  const name = (i: number) => labels[i] ?? String(i);
  const wrong = cells.filter((c) => c[0] !== c[1]).slice(0, 50);
  return (
    <Figure title="Confusion" file={file} note={`The pairs of classes that are mistaken most.${hidden > 0 ? ` ${hidden.toLocaleString("en")} smaller cells are not kept.` : ""}`}
      rows={() => [["true", "predicted", "rows"], ...cells.map((c): Cell[] => [name(c[0]!), name(c[1]!), c[2]!])]}>
      <Table fz="xs">
        <Table.Thead><Table.Tr><Table.Th>true</Table.Th><Table.Th>predicted</Table.Th><Table.Th ta="right">rows</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>{wrong.map((c) => <Table.Tr key={`${c[0]} ${c[1]}`}><Table.Td>{name(c[0]!)}</Table.Td><Table.Td>{name(c[1]!)}</Table.Td><Table.Td ta="right">{value(c[2]!)}</Table.Td></Table.Tr>)}</Table.Tbody>
      </Table>
    </Figure>
  );
}

function PerLabel({ of, labels, file }: { of: number[][][]; labels: string[]; file: string }) {
  const rows = of.map((m, i): Cell[] => [labels[i] ?? String(i), m[1]?.[1] ?? 0, m[0]?.[1] ?? 0, m[1]?.[0] ?? 0, m[0]?.[0] ?? 0]);
  const head = ["label", "true positive", "false positive", "false negative", "true negative"];
  return (
    <Figure title="Confusion of each label" file={file} rows={() => [head, ...rows]}>
      <div className="wide">
        <Table fz="xs">
          <Table.Thead><Table.Tr>{head.map((c) => <Table.Th key={c}>{c}</Table.Th>)}</Table.Tr></Table.Thead>
          <Table.Tbody>{rows.slice(0, 50).map((r) => <Table.Tr key={String(r[0])}>{r.map((c, i) => <Table.Td key={i}>{typeof c === "number" ? value(c) : c}</Table.Td>)}</Table.Tr>)}</Table.Tbody>
        </Table>
      </div>
    </Figure>
  );
}
