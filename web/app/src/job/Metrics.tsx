import { Accordion, Anchor, Button, Group, MultiSelect, Slider, Stack, Switch, Text, TextInput, Title } from "@mantine/core";
import { Code } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useDeferredValue, useMemo, useState } from "react";
import type { Job, Run } from "../api/client";
import { useCurves } from "../api/live";
import { judgedQuery, runsQuery } from "../api/queries";
import { natural, type Curve } from "../api/topics";
import { Chart, type Other } from "../chart/Chart";
import { group } from "../evaluation/scale";
import { Headline } from "./Headline";
import { Pictures } from "./Pictures";

const Evaluations = lazy(async () => ({ default: (await import("../evaluation/Evaluations")).Evaluations }));

const firstShown = 12; // charts of a group: who wants more says so

/** The metric that the job is judged by, what the program evaluated, a chart for each key that was measured, and pictures. */
export default function Metrics({ job, run }: { job: Job; run: Run | undefined }) {
  if (!run) return <Text>Charts begin with the first run.</Text>;
  return (
    <Stack>
      <Headline job={job} run={run} />
      <Suspense fallback={null}><Evaluations run={run} /></Suspense>
      <Curves job={job} run={run} />
      <Pictures run={run} />
    </Stack>
  );
}

function Curves({ job, run }: { job: Job; run: Run }) {
  const curves = useCurves(run.id);
  const runs = useQuery(runsQuery(job.id)).data ?? [];
  const search = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const set = (to: Partial<typeof search>) => void navigate({ search: (s) => ({ ...s, ...to }), replace: true });
  const primary = useQuery(judgedQuery(job.id)).data?.headline?.metric;
  const [opened, open] = useState<string[]>(); // groups; the first ones until somebody says otherwise
  const [listed, list] = useState(50); // groups
  const asked = useDeferredValue(search.key?.toLowerCase() ?? "");
  const charts = useMemo(() => {
    const byKey = new Map<string, Curve[]>();
    for (const c of curves?.values() ?? []) byKey.set(c.key, [...(byKey.get(c.key) ?? []), c]);
    return [...byKey].sort(([a], [b]) => rank(a, primary) - rank(b, primary) || natural(a, b));
  }, [curves, primary]);
  const groups = useMemo(() => {
    const of = new Map<string, typeof charts>();
    for (const c of charts) {
      if (asked && !c[0].toLowerCase().includes(asked)) continue;
      const name = group(c[0]);
      const list = of.get(name);
      if (list) list.push(c);
      else of.set(name, [c]);
    }
    return [...of].sort(([a], [b]) => Number(a === "system") - Number(b === "system"));
  }, [charts, asked]);
  const others = useMemo(() => (search.with ?? "").split(",").filter(Boolean).flatMap((n): Other[] => {
    const r = runs.find((r) => String(r.number) === n);
    return r && r.id !== run.id ? [{ run: r.id, label: `run ${r.number}` }] : [];
  }), [search.with, runs, run.id]);
  if (curves && charts.length === 0) {
    return <Text>Nothing was measured yet. What the program logs is drawn by itself: <Code>mlaas.log({"{"}"loss": loss{"}"}, step)</Code></Text>;
  }
  const shown = opened ?? groups.map(([g]) => `=${g}`).slice(0, 4);
  const usual = Number(run.spec.evaluation.smoothing ?? 0) || 0;
  const smooth = Math.min(0.99, Math.max(0, Number(search.smooth ?? usual) || 0));
  return (
    <section aria-label="Curves">
      <Stack>
        <Group align="end" gap="lg">
          <TextInput size="xs" label={`Keys (${charts.length})`} placeholder="part of a name" value={search.key ?? ""} onChange={(e) => set({ key: e.currentTarget.value || undefined })} />
          <div style={{ width: 200 }}>
            <Text size="xs" id="smoothing">Smoothing {smooth > 0 ? smooth.toFixed(2) : "off"}</Text>
            <Slider aria-labelledby="smoothing" thumbLabel="Smoothing" min={0} max={0.99} step={0.01} label={null} value={smooth} onChange={(v) => set({ smooth: v === usual ? undefined : String(v) })} />
          </div>
          <Switch size="xs" label="Logarithmic" checked={search.log === "y"} onChange={(e) => set({ log: e.currentTarget.checked ? "y" : undefined })} />
          <Switch size="xs" label="As tables" checked={search.table === "y"} onChange={(e) => set({ table: e.currentTarget.checked ? "y" : undefined })} />
          {runs.length > 1 && (
            <MultiSelect size="xs" label="Beside other runs" placeholder={others.length === 0 ? "choose" : ""} maxValues={6} searchable limit={100} value={others.map((o) => o.label.slice(4))}
              data={runs.filter((r) => r.id !== run.id).map((r) => ({ value: String(r.number), label: `run ${r.number} · v${r.version.number}` }))}
              onChange={(v) => set({ with: v.join(",") || undefined })} />
          )}
          <Anchor size="sm" underline="always" href={`/api/run/${run.id}/metric?buckets=0&limit=500`} download={`${run.jobName}-${run.number}-metrics.json`}>Every point as JSON</Anchor>
        </Group>
        {groups.length === 1 && groups[0]![0] === "" ? <Some of={groups[0]![1]} {...{ run, others, smooth, search }} /> : (
          <Accordion multiple variant="separated" order={2} value={shown} onChange={open}>
            {groups.slice(0, listed).map(([g, of]) => (
              <Accordion.Item key={g} value={`=${g}`}>
                <Accordion.Control>{g ? `${g} (${of.length})` : `no group (${of.length})`}</Accordion.Control>
                <Accordion.Panel>{shown.includes(`=${g}`) && <Some of={of} {...{ run, others, smooth, search }} />}</Accordion.Panel>
              </Accordion.Item>
            ))}
          </Accordion>
        )}
        {groups.length > listed && <Group><Button variant="default" size="xs" onClick={() => list(listed + 200)}>{groups.length - listed} more groups</Button></Group>}
        {asked && groups.length === 0 && <Text c="dimmed">No key is called so.</Text>}
      </Stack>
    </section>
  );
}

/** The charts of one group: some, and more where they are asked for. */
function Some({ of, run, others, smooth, search }: { of: [string, Curve[]][]; run: Run; others: Other[]; smooth: number; search: { log?: "y" | undefined; table?: "y" | undefined } }) {
  const [more, setMore] = useState(0);
  const shown = of.slice(0, firstShown + more);
  return (
    <>
      <div style={{ display: "grid", gap: 16, gridTemplateColumns: "repeat(auto-fill, minmax(min(100%, 420px), 1fr))" }}>
        {shown.map(([key, curves]) => (
          <section key={key} aria-label={key}>
            <Title order={3} size="h6" style={{ overflowWrap: "anywhere" }}>{key}</Title>
            <Chart run={run.id} label={`${run.jobName}-${run.number}`} name={key} curves={curves} others={others} smooth={smooth} log={search.log === "y"} table={search.table === "y"} />
          </section>
        ))}
      </div>
      {of.length > shown.length && <Group mt="xs"><Button variant="default" size="xs" onClick={() => setMore(more + 24)}>{of.length - shown.length} more</Button></Group>}
    </>
  );
}

/** The job's own measure first, then what people look at first, then the rest. */
function rank(key: string, primary: string | undefined): number {
  if (key === primary) return 0;
  if (/^(val|test)_/.test(key)) return 1;
  if (/acc|auc|f1|loss/.test(key)) return 2;
  return 3;
}
