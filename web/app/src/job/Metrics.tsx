import { Anchor, Button, Group, Slider, Stack, Switch, Text, TextInput, Title } from "@mantine/core";
import { Code } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import type { Job, Run } from "../api/client";
import { useCurves } from "../api/live";
import { natural, type Curve } from "../api/topics";
import { Chart } from "../chart/Chart";

const firstShown = 12; // charts: who wants more says so

/** A chart for each key that was measured, the ones that tell most first. */
export default function Metrics({ job, run }: { job: Job; run: Run | undefined }) {
  const curves = useCurves(run?.id);
  const search = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const set = (to: Partial<typeof search>) => void navigate({ search: (s) => ({ ...s, ...to }), replace: true });
  const [more, setMore] = useState(0);
  const primary = run?.spec.evaluation.metric ?? job.evaluation.metric;
  const charts = useMemo(() => {
    const byKey = new Map<string, Curve[]>();
    for (const c of curves?.values() ?? []) byKey.set(c.key, [...(byKey.get(c.key) ?? []), c]);
    return [...byKey].sort(([a], [b]) => rank(a, primary) - rank(b, primary) || natural(a, b));
  }, [curves, primary]);
  if (!run) return <Text>Charts begin with the first run.</Text>;
  if (curves && charts.length === 0) {
    return <Text>Nothing was measured yet. What the program logs is drawn by itself: <Code>mlaas.log({"{"}"loss": loss{"}"}, step)</Code></Text>;
  }
  const wanted = charts.filter(([key]) => !search.key || key.toLowerCase().includes(search.key.toLowerCase()));
  const shown = wanted.slice(0, firstShown + more);
  const smooth = Math.min(0.99, Math.max(0, Number(search.smooth ?? 0) || 0));
  return (
    <Stack>
      <Group align="end" gap="lg">
        <TextInput size="xs" label={`Keys (${charts.length})`} placeholder="part of a name" value={search.key ?? ""} onChange={(e) => set({ key: e.currentTarget.value || undefined })} />
        <div style={{ width: 200 }}>
          <Text size="xs" id="smoothing">Smoothing {smooth > 0 ? smooth.toFixed(2) : "off"}</Text>
          <Slider aria-labelledby="smoothing" thumbLabel="Smoothing" min={0} max={0.99} step={0.01} label={null} value={smooth} onChange={(v) => set({ smooth: v > 0 ? String(v) : undefined })} />
        </div>
        <Switch size="xs" label="Logarithmic" checked={search.log === "y"} onChange={(e) => set({ log: e.currentTarget.checked ? "y" : undefined })} />
        <Switch size="xs" label="As tables" checked={search.table === "y"} onChange={(e) => set({ table: e.currentTarget.checked ? "y" : undefined })} />
        <Anchor size="sm" underline="always" href={`/api/run/${run.id}/metric?buckets=0&limit=500`} download={`${run.jobName}-${run.number}-metrics.json`}>Every point as JSON</Anchor>
      </Group>
      <div style={{ display: "grid", gap: 16, gridTemplateColumns: "repeat(auto-fill, minmax(min(100%, 420px), 1fr))" }}>
        {shown.map(([key, of]) => (
          <section key={key} aria-label={key}>
            <Title order={2} size="h6" style={{ overflowWrap: "anywhere" }}>{key}</Title>
            <Chart run={run.id} name={key} curves={of} smooth={smooth} log={search.log === "y"} table={search.table === "y"} />
          </section>
        ))}
      </div>
      {wanted.length > shown.length && <Group><Button variant="default" size="xs" onClick={() => setMore(more + 24)}>{wanted.length - shown.length} more</Button></Group>}
      {search.key && wanted.length === 0 && <Text c="dimmed">No key is called so.</Text>}
    </Stack>
  );
}

/** The job's own measure first, then what people look at first, then the rest. */
function rank(key: string, primary: string | undefined): number {
  if (key === primary) return 0;
  if (/^(val|test)_/.test(key)) return 1;
  if (/acc|auc|f1|loss/.test(key)) return 2;
  return 3;
}
