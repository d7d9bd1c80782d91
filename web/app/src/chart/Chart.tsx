import { Button, Group, Menu, ScrollArea, Table, Text } from "@mantine/core";
import { useComputedColorScheme } from "@mantine/core";
import { useQueries, useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { pointsQuery } from "../api/queries";
import { natural, type Curve } from "../api/topics";
import { value } from "../shell/words";
import { drawn } from "./data";
import { csv, lineSVG, png, save } from "./export";

/** Another run whose curve of the same key is drawn beside. */
export type Other = { run: string; label: string };

type Props = { run: string; label: string; name: string; curves: Curve[]; others?: Other[]; smooth: number; log: boolean; table: boolean };

const none: Other[] = [];

/** Draws the curves of one key: drag to look closer, which asks for that part in full. */
export function Chart({ run, label, name, curves, others = none, smooth, log, table }: Props) {
  const [range, setRange] = useState<[number, number]>();
  const box = useRef<HTMLDivElement>(null);
  const seen = useSeen(box);
  const near = useQuery({ ...pointsQuery(run, name, range), enabled: !!range });
  const beside = useQueries({ queries: others.map((o) => ({ ...pointsQuery(o.run, name, range), enabled: seen })), combine: (all) => all.map((q) => q.data) });
  const sorted = useMemo(() => {
    const own = (range && near.data ? near.data : curves).toSorted((a, b) => natural(a.replica, b.replica));
    return [...own, ...beside.flatMap((of, i) => (of ?? []).map((c) => ({ ...c, replica: `${others[i]!.label} ${c.replica}` })))];
  }, [curves, near.data, range, beside, others]);
  const [failed, fail] = useState<string>();
  const file = `${label}-${name}`;
  const rows = () => [["replica", "step", "least", "most", "last"], ...sorted.flatMap((c) => c.points.map((p) => [c.replica, p.step, p.min, p.max, p.last]))];
  return (
    <div ref={box} className="chart">
      {seen && (table ? <Points curves={sorted} /> : <Plot name={name} curves={sorted} smooth={smooth} log={log} zoom={setRange} />)}
      <Group gap="xs">
        {range && <><Text size="xs">steps {value(range[0])} to {value(range[1])}</Text><Button size="compact-xs" variant="default" onClick={() => setRange(undefined)}>All steps</Button></>}
        <Menu position="bottom-start">
          <Menu.Target><Button size="compact-xs" variant="default" aria-label={`Save ${name}`}>Save</Button></Menu.Target>
          <Menu.Dropdown>
            <Menu.Item onClick={() => save(`${file}.csv`, csv(rows()), "text/csv")}>CSV</Menu.Item>
            <Menu.Item onClick={() => save(`${file}.svg`, lineSVG(name, sorted, log), "image/svg+xml")}>SVG</Menu.Item>
            <Menu.Item onClick={() => void png(lineSVG(name, sorted, log)).then((b) => save(`${file}.png`, b), (e: unknown) => fail(`It was not saved: ${String(e)}`))}>PNG</Menu.Item>
          </Menu.Dropdown>
        </Menu>
        {failed && <Text size="xs" role="alert">{failed}</Text>}
      </Group>
    </div>
  );
}

function Plot({ name, curves, smooth, log, zoom }: Pick<Props, "name" | "curves" | "smooth" | "log"> & { zoom: (range: [number, number]) => void }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const scheme = useComputedColorScheme("light");
  const { data, series } = useMemo(() => drawn(curves, smooth), [curves, smooth]);
  const shape = JSON.stringify(series);
  const newest = useRef(data);
  newest.current = data;
  const zoomed = useRef(zoom);
  zoomed.current = zoom;

  // The plot is made anew where what it is made of changes, and else fed.
  useEffect(() => {
    const e = place.current!;
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--mantine-color-text"), grid = style.getPropertyValue("--mantine-color-default-border");
    const named = JSON.parse(shape) as typeof series;
    const replicas = [...new Set(named.map((s) => s.replica))];
    const colour = (replica: string) => style.getPropertyValue(`--lane-${replicas.indexOf(replica) % 6}`).trim();
    const dashes = [[], [6, 3], [2, 3]];
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    const bands = named.flatMap((s, i) => (s.what === "most" ? [{ series: [i + 1, i + 2] as [number, number], fill: `${colour(s.replica)}33` }] : []));
    const made = new uPlot({
      width: Math.max(200, e.clientWidth),
      height: 200,
      scales: { x: { time: false, range: (_, least, most) => (least === most ? [least - 1, most + 1] : [least, most]) }, // one step is in the middle
        y: { distr: log ? 3 : 1 } },
      axes: [{ ...axis, size: 34 }, { ...axis, size: 56, values: (_, ticks) => ticks.map((t) => (t === null ? "" : value(t, 3))) }],
      cursor: { drag: { x: true, y: false, setScale: false } },
      legend: { live: true },
      bands,
      series: [
        { label: "step", value: (_, v) => (v === null ? "–" : value(v)) },
        ...named.map((s): uPlot.Series => ({
          label: s.what === "line" ? s.replica : `${s.replica} ${s.what}`,
          stroke: s.what === "line" ? colour(s.replica) : s.what === "raw" ? `${colour(s.replica)}55` : "transparent",
          width: s.what === "line" ? 1.5 : 1,
          dash: s.what === "line" ? dashes[Math.floor(replicas.indexOf(s.replica) / 6) % 3]! : [],
          points: { show: s.what === "line" ? undefined : false },
          spanGaps: false,
          value: (_, v) => (v === null || v === undefined ? "–" : value(v)),
        })),
      ],
      hooks: {
        setSelect: [(u) => {
          const { left, width } = u.select;
          if (width < 8) return;
          zoomed.current([Math.floor(u.posToVal(left, "x")), Math.ceil(u.posToVal(left + width, "x"))]);
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        }],
      },
    }, drawable(newest.current, log), e);
    plot.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: Math.max(200, e.clientWidth), height: 200 }));
    sized.observe(e);
    return () => {
      sized.disconnect();
      made.destroy();
    };
  }, [shape, log, scheme]);
  useEffect(() => plot.current?.setData(drawable(data, log)), [data, log]);

  const said = curves.map((c) => `${c.replica} ${c.points.length > 0 ? value(c.points.at(-1)!.last, 3) : "nothing"}`).join(", ");
  return <div ref={place} role="img" aria-label={`${name}, the newest: ${said}`} />;
}

/** On a logarithmic axis there is no place for what is not above 0. */
function drawable(data: uPlot.AlignedData, log: boolean): uPlot.AlignedData {
  if (!log) return data;
  return [data[0], ...data.slice(1).map((ys) => Array.from(ys as (number | null)[], (y) => (y !== null && y !== undefined && y > 0 ? y : null)))] as uPlot.AlignedData;
}

const tableRows = 200;

function Points({ curves }: { curves: Curve[] }) {
  const rows = curves.flatMap((c) => c.points.slice(-tableRows).map((p) => ({ replica: c.replica, ...p })));
  return (
    <ScrollArea.Autosize mah={220} viewportProps={{ tabIndex: 0, role: "region", "aria-label": "Points" }}>
      <Table stickyHeader>
        <Table.Thead><Table.Tr><Table.Th>replica</Table.Th><Table.Th ta="right">step</Table.Th><Table.Th ta="right">value</Table.Th><Table.Th ta="right">least</Table.Th><Table.Th ta="right">most</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>{rows.map((r) => <Table.Tr key={`${r.replica} ${r.step}`}><Table.Td>{r.replica}</Table.Td><Table.Td ta="right">{r.step}</Table.Td><Table.Td ta="right">{value(r.last)}</Table.Td><Table.Td ta="right">{value(r.min)}</Table.Td><Table.Td ta="right">{value(r.max)}</Table.Td></Table.Tr>)}</Table.Tbody>
      </Table>
      {curves.some((c) => c.points.length > tableRows) && <Text size="xs" c="dimmed">The last {tableRows} of each replica; all of them: Every point as JSON.</Text>}
    </ScrollArea.Autosize>
  );
}

/** Whether the place has been in sight: a chart that nobody sees is not drawn. */
function useSeen(box: React.RefObject<HTMLElement | null>): boolean {
  const [seen, set] = useState(false);
  useEffect(() => {
    if (seen || !box.current) return;
    const look = new IntersectionObserver((es) => es.some((e) => e.isIntersecting) && set(true), { rootMargin: "200px" });
    look.observe(box.current);
    return () => look.disconnect();
  }, [box, seen]);
  return seen;
}
