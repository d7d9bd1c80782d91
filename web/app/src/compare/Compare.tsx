import { Button, Group, Select, Stack, Switch, Table, Tabs, Text, TextInput, Title } from "@mantine/core";
import { useQueries, useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useMemo, useState } from "react";
import { answer, api, type Replica, type Run } from "../api/client";
import { useCurves } from "../api/live";
import { contentQuery, evaluationQuery, runQuery } from "../api/queries";
import { natural, type Curve } from "../api/topics";
import { Chart } from "../chart/Chart";
import { Charts } from "../evaluation/Charts";
import { differences } from "../evaluation/scale";
import { Failed } from "../shell/Failed";
import { Status } from "../shell/Status";
import { To } from "../shell/links";
import { value, when } from "../shell/words";
import { best, deltas, named, type Measured } from "./runs";

const Editor = lazy(async () => ({ default: (await import("../job/Editor")).Editor }));

const most = 8; // runs: more do not fit beside each other

const parts = [["metrics", "Metrics"], ["curves", "Curves"], ["evaluation", "Evaluation"], ["config", "Configuration"], ["code", "Code"]] as const;

/** Runs beside each other, of one job or of several: ?runs=JOB/1,JOB2/4. The first is what the others are compared with. */
export function Compare() {
  const search = useSearch({ from: "/compare" });
  const navigate = useNavigate({ from: "/compare" });
  const names = named(search.runs).slice(0, most);
  const got = useQueries({ queries: names.map((n) => ({ ...runQuery(n.replace("/", ".")), retry: false })) });
  const runs = got.flatMap((q) => (q.data ? [q.data] : []));
  const failed = got.find((q) => q.error);
  const part = search.part ?? "metrics";
  const set = (runs: string[]) => void navigate({ search: (s) => ({ ...s, runs: runs.join(",") || undefined, file: undefined }) });
  return (
    <Stack>
      <Title order={1} size="h2">Compare runs</Title>
      <Add add={(n) => set([...new Set([...names, n])])} full={names.length >= most} />
      {failed?.error && <Failed error={failed.error} />}
      {names.length > 0 && (
        <div className="wide" tabIndex={0} role="region" aria-label="Runs that are compared">
          <Table fz="sm">
            <Table.Thead><Table.Tr><Table.Th>run</Table.Th><Table.Th>status</Table.Th><Table.Th>version</Table.Th><Table.Th>asked for</Table.Th><Table.Th /></Table.Tr></Table.Thead>
            <Table.Tbody>
              {names.map((n, i) => {
                const r = got[i]?.data;
                return (
                  <Table.Tr key={n}>
                    <Table.Td>{r ? <To to="/jobs/$job/$tab" params={{ job: r.jobName, tab: "overview" }} search={{ run: String(r.number) }}>{r.jobName}/{r.number}</To> : n}{i === 0 ? " (compared with)" : ""}</Table.Td>
                    <Table.Td>{r && <Status of={r.status.state} />}</Table.Td>
                    <Table.Td>{r && `v${r.version.number}`}</Table.Td>
                    <Table.Td>{when(r?.created)}</Table.Td>
                    <Table.Td>
                      <Group gap={4} wrap="nowrap">
                        {i > 0 && <Button size="compact-xs" variant="default" aria-label={`First: compare with ${n}`} onClick={() => set([n, ...names.filter((o) => o !== n)])}>First</Button>}
                        <Button size="compact-xs" variant="default" aria-label={`Remove ${n}`} onClick={() => set(names.filter((o) => o !== n))}>Remove</Button>
                      </Group>
                    </Table.Td>
                  </Table.Tr>
                );
              })}
            </Table.Tbody>
          </Table>
        </div>
      )}
      {names.length < 2 && <Text>Choose two runs or more: here, under Runs on a job's overview, or by selecting jobs in the list of jobs.</Text>}
      {runs.length >= 2 && runs.length === names.length && (
        <Tabs value={part} keepMounted={false} onChange={(v) => void navigate({ search: (s) => ({ ...s, part: v === "metrics" ? undefined : (v as typeof part) }) })}>
          <Tabs.List style={{ overflowX: "auto", flexWrap: "nowrap" }}>{parts.map(([p, label]) => <Tabs.Tab key={p} value={p}>{label}</Tabs.Tab>)}</Tabs.List>
          {parts.map(([p]) => (
            <Tabs.Panel key={p} value={p} pt="md">
              {p === "metrics" && <Metrics runs={runs} />}
              {p === "curves" && <Curves runs={runs} />}
              {p === "evaluation" && <Evaluations runs={runs} />}
              {p === "config" && <Config runs={runs} />}
              {p === "code" && <Code runs={runs} />}
            </Tabs.Panel>
          ))}
        </Tabs>
      )}
    </Stack>
  );
}

const nameOf = (r: Run) => `${r.jobName}/${r.number}`;

function Add({ add, full }: { add: (name: string) => void; full: boolean }) {
  const [text, set] = useState("");
  const right = /^[^/,\s]+\/\d+$/.test(text.trim());
  return (
    <form onSubmit={(e) => { e.preventDefault(); if (right && !full) { add(text.trim()); set(""); } }}>
      <Group align="end" gap="xs">
        <TextInput size="xs" label="Add a run" placeholder="JOB/7" value={text} disabled={full} onChange={(e) => set(e.currentTarget.value)} error={text.trim() !== "" && text.includes("/") && !right ? "a job and a number, such as mnist/7" : undefined} />
        <Button size="xs" type="submit" disabled={!right || full}>Add</Button>
        {full && <Text size="xs">{most} runs are compared at most.</Text>}
      </Group>
    </form>
  );
}

/** The last and best value of each metric, and how far each is from the first run's. */
function Metrics({ runs }: { runs: Run[] }) {
  const measured = useMeasured(runs);
  const { all } = useSearch({ from: "/compare" });
  if (!measured) return <Text role="status">Asking for what was measured…</Text>;
  const rows = deltas(measured).filter((r) => all || !r.same);
  return (
    <Stack gap="xs">
      <All what="metrics that are the same" />
      {rows.length === 0 ? <Text>{measured.every((m) => m.size === 0) ? "None of them has measured anything." : "Every metric is the same."}</Text> : (
        <div className="wide" tabIndex={0} role="region" aria-label="Metrics beside each other">
          <Table fz="sm">
            <Table.Thead><Table.Tr><Table.Th>metric</Table.Th>{runs.map((r) => <Table.Th key={r.id} ta="right">{nameOf(r)}</Table.Th>)}</Table.Tr></Table.Thead>
            <Table.Tbody>
              {rows.map((row) => (
                <Table.Tr key={row.key}>
                  <Table.Th scope="row">{row.key}</Table.Th>
                  {row.of.map((m, i) => (
                    <Table.Td key={runs[i]!.id} ta="right">
                      {m ? <>{best(row.of, row.key) === i && "★ "}{value(m.last)}{i > 0 && m.delta !== undefined && <Text component="span" size="xs" c="dimmed"> {m.delta > 0 ? "+" : ""}{value(m.delta, 3)}</Text>}{m.best !== undefined && <Text size="xs" c="dimmed">best {value(m.best)} at {value(m.step!)}</Text>}</> : "–"}
                    </Table.Td>
                  ))}
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </Stack>
  );
}

function All({ what }: { what: string }) {
  const { all } = useSearch({ from: "/compare" });
  const navigate = useNavigate({ from: "/compare" });
  return <Switch size="xs" label={`Also ${what}`} checked={all === "y"} onChange={(e) => void navigate({ search: (s) => ({ ...s, all: e.currentTarget.checked ? "y" : undefined }), replace: true })} />;
}

/** What the replica that leads each run measured. */
function useMeasured(runs: Run[]): Measured[] | undefined {
  const got = useQueries({
    queries: runs.map((r) => ({
      queryKey: ["run", r.id, "replicas"],
      queryFn: async () => (await answer(api.GET("/api/run/{id}/node", { params: { path: { id: r.id }, query: { limit: 1 } } }))).items ?? [],
    })),
  });
  return useMemo(() => {
    if (got.some((q) => !q.data)) return undefined;
    return got.map((q) => {
      const lead: Replica | undefined = q.data![0];
      return new Map(Object.entries(lead?.metrics ?? {}).map(([k, last]) => {
        const b = lead?.best?.[k];
        return [k, { last: Number(last), ...(b && { best: Number(b.value), step: b.step }) }];
      }));
    });
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the array is another each time, what it holds is not
  }, got.map((q) => q.data));
}

const charts = 12;

function Curves({ runs }: { runs: Run[] }) {
  const first = runs[0]!;
  const own = useCurves(first.id);
  const measured = useMeasured(runs);
  const [more, show] = useState(charts);
  const [words, set] = useState("");
  // What most runs have first, and of that what the program logs before what evaluations add.
  const every = useMemo(() => [...new Set((measured ?? []).flatMap((m) => [...m.keys()]))].sort((a, b) => count(measured!, b) - count(measured!, a) || Number(a.includes("/")) - Number(b.includes("/")) || natural(a, b)), [measured]);
  const keys = every.filter((k) => k.toLowerCase().includes(words.toLowerCase()));
  const others = useMemo(() => runs.slice(1).map((r) => ({ run: r.id, label: nameOf(r) })), [runs]);
  if (!measured) return <Text role="status">Asking for what was measured…</Text>;
  if (every.length === 0) return <Text>None of them has measured anything.</Text>;
  return (
    <>
      <TextInput size="xs" w={200} mb="sm" label={`Keys (${every.length})`} placeholder="part of a name" value={words} onChange={(e) => set(e.currentTarget.value)} />
      {keys.length === 0 && <Text c="dimmed">No key is called so.</Text>}
      <div className="charts">
        {keys.slice(0, more).map((key) => (
          <section key={key} aria-label={key}>
            <Title order={2} size="h6">{key}</Title>
            <Chart run={first.id} label="compare" name={key} curves={labelled(own?.values() ?? [], key, nameOf(first))} others={others} smooth={0} log={false} table={false} />
          </section>
        ))}
      </div>
      {keys.length > more && <Button mt="xs" size="xs" variant="default" onClick={() => show(more + 24)}>{keys.length - more} more</Button>}
    </>
  );
}

const count = (of: Measured[], key: string) => of.filter((m) => m.has(key)).length;
const labelled = (curves: Iterable<Curve>, key: string, run: string) => [...curves].filter((c) => c.key === key).map((c) => ({ ...c, replica: `${run} ${c.replica}` }));

/** The newest evaluations of one name, side by side. */
function Evaluations({ runs }: { runs: Run[] }) {
  const lists = useQueries({
    queries: runs.map((r) => ({
      queryKey: ["run", r.id, "evaluations"],
      queryFn: async () => (await answer(api.GET("/api/run/{id}/evaluation", { params: { path: { id: r.id }, query: { limit: 500 } } }))).items ?? [],
    })),
  });
  const [chosen, set] = useState<string | null>(null);
  const names = [...new Set(lists.flatMap((l) => (l.data ?? []).map((e) => e.name)))];
  const name = chosen && names.includes(chosen) ? chosen : names[0];
  const newest = lists.map((l) => l.data?.find((e) => e.name === name));
  const whole = useQueries({ queries: newest.map((e) => ({ ...evaluationQuery(e?.run ?? "", e?.name ?? "", e?.step ?? 0, e?.replica ?? "", e?.created ?? ""), enabled: !!e })) });
  if (lists.some((l) => l.isLoading)) return <Text role="status">Asking for the evaluations…</Text>;
  if (!name) return <Text>None of them evaluated anything: a program does so by mlaas.evaluate(y_true, y_score).</Text>;
  const scores = deltas(newest.map((e) => new Map(Object.entries(e?.scores ?? {}).map(([k, v]) => [k, { last: Number(v) }]))));
  return (
    <Stack>
      <Select size="xs" w={200} label="Name" allowDeselect={false} data={names} value={name} onChange={set} />
      <div className="wide" tabIndex={0} role="region" aria-label="Scores beside each other">
        <Table fz="sm">
          <Table.Thead><Table.Tr><Table.Th>score</Table.Th>{runs.map((r, i) => <Table.Th key={r.id} ta="right">{nameOf(r)}{newest[i] ? ` · step ${value(newest[i].step)}` : ""}</Table.Th>)}</Table.Tr></Table.Thead>
          <Table.Tbody>{scores.map((row) => <Table.Tr key={row.key}><Table.Th scope="row">{row.key}</Table.Th>{row.of.map((m, i) => <Table.Td key={runs[i]!.id} ta="right">{m ? <>{best(row.of, row.key) === i && "★ "}{value(m.last)}{i > 0 && m.delta !== undefined && <Text component="span" size="xs" c="dimmed"> {m.delta > 0 ? "+" : ""}{value(m.delta, 3)}</Text>}</> : "–"}</Table.Td>)}</Table.Tr>)}</Table.Tbody>
        </Table>
      </div>
      <div className="beside">
        {runs.map((r, i) => (
          <section key={r.id} aria-label={`Evaluation of ${nameOf(r)}`}>
            <Title order={2} size="h6">{nameOf(r)}</Title>
            {whole[i]?.data ? <Charts of={whole[i].data} file={`${r.jobName}-${r.number}-${name}`} wanted={["confusion", "roc", "pr", "calibration", "classes", "residuals", "sample"]} /> : <Text size="sm">{newest[i] ? "Asking for it…" : `It has no evaluation called ${name}.`}</Text>}
          </section>
        ))}
      </div>
    </Stack>
  );
}

function Config({ runs }: { runs: Run[] }) {
  const { all } = useSearch({ from: "/compare" });
  const rows = useMemo(() => differences(runs.map((r) => ({ parameters: r.spec.execution.parameters, ...r.spec, name: undefined, execution: { ...r.spec.execution, parameters: undefined }, version: r.version.number, cluster: r.status.allocation.cluster }))), [runs]);
  const shown = rows.filter((r) => all || !r.same);
  return (
    <Stack gap="xs">
      <All what="what is the same" />
      {shown.length === 0 ? <Text>They were asked for with the same configuration.</Text> : (
        <div className="wide" tabIndex={0} role="region" aria-label="Configuration beside each other">
          <Table fz="sm">
            <Table.Thead><Table.Tr><Table.Th>field</Table.Th>{runs.map((r) => <Table.Th key={r.id}>{nameOf(r)}</Table.Th>)}</Table.Tr></Table.Thead>
            <Table.Tbody>{shown.map((row) => <Table.Tr key={row.path}><Table.Th scope="row">{row.path}</Table.Th>{row.values.map((v, i) => <Table.Td key={runs[i]!.id} style={{ overflowWrap: "anywhere" }} fw={v !== row.values[0] ? 700 : undefined}>{v ?? "–"}</Table.Td>)}</Table.Tr>)}</Table.Tbody>
          </Table>
        </div>
      )}
    </Stack>
  );
}

/** What is other in the code of one run than in that of the first. */
function Code({ runs }: { runs: Run[] }) {
  const first = runs[0]!;
  const [with_, set] = useState(runs[1]!.id);
  const other = runs.find((r) => r.id === with_) ?? runs[1]!;
  const { file } = useSearch({ from: "/compare" });
  const navigate = useNavigate({ from: "/compare" });
  const a = useQuery(contentQuery(first.job, `v${first.version.number}`)), b = useQuery(contentQuery(other.job, `v${other.version.number}`));
  const failed = a.error ?? b.error;
  if (failed) return <Failed error={failed} />;
  if (!a.data || !b.data) return <Text role="status">Asking for the code…</Text>;
  const before = a.data.content ?? {}, after = b.data.content ?? {};
  const changed = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((f) => before[f] !== after[f]).sort(natural);
  const shown = file && changed.includes(file) ? file : changed[0];
  return (
    <Stack gap="xs">
      <Group align="end">
        {runs.length > 2 && <Select size="xs" label={`${nameOf(first)} with`} allowDeselect={false} data={runs.slice(1).map((r) => ({ value: r.id, label: nameOf(r) }))} value={other.id} onChange={(v) => v && set(v)} />}
        {changed.length > 0 && <Select size="xs" label={`File (${changed.length} differ)`} allowDeselect={false} data={changed.map((f) => ({ value: f, label: before[f] === undefined ? `${f} (new)` : after[f] === undefined ? `${f} (gone)` : f }))} value={shown ?? null} onChange={(v) => v && void navigate({ search: (s) => ({ ...s, file: v }), replace: true })} />}
      </Group>
      {!shown ? <Text>{nameOf(first)} and {nameOf(other)} ran the same code.</Text> : (
        <Suspense fallback={<Text role="status">One moment…</Text>}>
          <Editor key={`${first.id} ${other.id} ${shown}`} path={shown} text={after[shown] ?? ""} base={before[shown] ?? ""} save={nothing} run={nothing} />
        </Suspense>
      )}
    </Stack>
  );
}

const nothing = () => {};
