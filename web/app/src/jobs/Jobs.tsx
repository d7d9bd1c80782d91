import { Button, Checkbox, Code, CopyButton, Group, Popover, SegmentedControl, Select, Stack, Text, TextInput, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useDeferredValue, useEffect, useMemo, useRef, useState } from "react";
import type { Job } from "../api/client";
import { useJobs } from "../api/live";
import { newestJobs } from "../api/queries";
import { typing } from "../shell/Shell";
import { useShortcuts } from "../shell/Shortcuts";
import { Status } from "../shell/Status";
import { many, value, when } from "../shell/words";
import { deleteJob, stopJob, useEach } from "./actions";
import { Views } from "./Views";
import { counts, live, rows, type View } from "./rows";
import { ButtonTo, To } from "../shell/links";

const columns = ["reason", "measure", "changed"] as const;
const widths: Record<string, string> = { reason: "minmax(0, 2.4fr)", measure: "132px", changed: "84px" };

/** Every job with where it stands, live, and why. */
export function Jobs() {
  const jobs = useJobs();
  const { q, view, sort, cols } = useSearch({ from: "/jobs" });
  const navigate = useNavigate({ from: "/jobs" });
  const [words, setWords] = useState(q ?? "");
  useEffect(() => setWords(q ?? ""), [q]);
  const filter = useDeferredValue(words);
  const found = useMemo(() => rows(jobs?.values() ?? [], filter, view, sort), [jobs, filter, view, sort]);
  const n = useMemo(() => counts(jobs?.values() ?? []), [jobs]);
  const field = useRef<HTMLInputElement>(null);
  const shown = useMemo(() => (cols ? columns.filter((c) => cols.split(",").includes(c)) : [...columns]), [cols]);

  useEffect(() => {
    document.title = n.running > 0 ? `${n.running} running · mlaas` : "mlaas";
  }, [n.running]);

  if (!jobs) return <Text role="status">Asking for the jobs…</Text>;
  return (
    <Stack>
      <Title order={1} size="h2">Jobs</Title>
      {jobs.size === 0 ? <First /> : (
        <>
          <Group gap="sm" align="end">
            <TextInput ref={field} style={{ flex: "1 1 240px" }} label="Filter" description="words of the name or reason, or status:failed" value={words} data-filter
              onChange={(e) => {
                setWords(e.currentTarget.value);
                void navigate({ search: (s) => ({ ...s, q: e.currentTarget.value || undefined }), replace: true });
              }} />
            <Select label="Order" w={130} value={sort ?? "newest"} allowDeselect={false} data={[{ value: "newest", label: "newest first" }, { value: "name", label: "by name" }]}
              onChange={(v) => void navigate({ search: (s) => ({ ...s, sort: v === "name" ? "name" : undefined }) })} />
            <Popover trapFocus position="bottom-end">
              <Popover.Target><Button variant="default" visibleFrom="sm">Columns</Button></Popover.Target>
              <Popover.Dropdown>
                <Checkbox.Group label="Columns" value={shown} onChange={(v) => void navigate({ search: (s) => ({ ...s, cols: v.length === columns.length ? undefined : v.join(",") || "none" }) })}>
                  <Stack gap="xs" mt="xs">{columns.map((c) => <Checkbox key={c} value={c} label={c} />)}</Stack>
                </Checkbox.Group>
              </Popover.Dropdown>
            </Popover>
            <Views />
          </Group>
          <SegmentedControl aria-label="View" value={view ?? "all"} fullWidth={false} style={{ alignSelf: "start", maxWidth: "100%" }} size="xs"
            onChange={(v) => void navigate({ search: (s) => ({ ...s, view: v === "all" ? undefined : (v as View) }) })}
            data={[{ value: "all", label: `All ${jobs.size.toLocaleString("en")}` }, { value: "running", label: `Running ${n.running}` }, { value: "waiting", label: `Waiting ${n.waiting}` }, { value: "failed", label: `Failed ${n.failed}` }]} />
          <List found={found} shown={shown} />
        </>
      )}
    </Stack>
  );
}

function List({ found, shown }: { found: ReturnType<typeof rows>; shown: string[] }) {
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [at, setAt] = useState(0);
  const navigate = useNavigate();
  const more = useQuery(newestJobs).data;
  const known = useMemo(() => new Map(more?.map((j) => [j.id, j])), [more]);
  const box = useRef<HTMLDivElement>(null);
  const narrow = useNarrow();
  const list = useVirtualizer({ count: found.length, getScrollElement: () => box.current, estimateSize: () => (narrow ? 60 : 44), overscan: 8, getItemKey: (i) => found[i]!.job });
  useEffect(() => list.measure(), [list, narrow]);
  const { on } = useShortcuts();

  const toggle = (id: string) => setChosen((was) => {
    const now = new Set(was);
    if (!now.delete(id)) now.add(id);
    return now;
  });
  useEffect(() => {
    if (!on) return;
    const press = (e: KeyboardEvent) => {
      if (e.ctrlKey || e.metaKey || e.altKey || typing(e.target) || document.querySelector("[role=dialog]")) return;
      const move = (to: number) => {
        const next = Math.max(0, Math.min(found.length - 1, to));
        setAt(next);
        list.scrollToIndex(next);
      };
      const j = found[at];
      if (e.key === "j") move(at + 1);
      else if (e.key === "k") move(at - 1);
      else if (e.key === "x" && j) toggle(j.job);
      else if (e.key === "Enter" && j && (e.target === document.body || (e.target as HTMLElement).id === "main" || e.target === box.current)) void navigate({ to: "/jobs/$job/$tab", params: { job: j.name, tab: "overview" }, search: {} });
      else return;
      e.preventDefault();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [at, found, list, navigate, on]);

  const those = found.filter((j) => chosen.has(j.job));
  return (
    <>
      <Bulk jobs={those} clear={() => setChosen(new Set())} />
      {found.length === 0 && <Text c="dimmed">No job is like this. Take words out of the filter, or look at all.</Text>}
      {found.length > 0 && (
        <div className="rows" ref={box} tabIndex={0} role="list" aria-label={many(found.length, "job")} style={{ height: `min(${list.getTotalSize() + 2}px, calc(100dvh - 300px))`, minHeight: 180 }}>
          <div style={{ height: list.getTotalSize(), position: "relative" }} role="presentation">
            {list.getVirtualItems().map((v) => {
              const j = found[v.index]!;
              const job = known.get(j.job);
              return (
                <div key={v.key} role="listitem" aria-setsize={found.length} aria-posinset={v.index + 1} className="row job" data-at={v.index === at} style={{ height: v.size, transform: `translateY(${v.start}px)`, ...(!narrow && { gridTemplateColumns: ["24px", "112px", "minmax(120px, 1.2fr)", ...shown.map((c) => widths[c])].join(" ") }) }}>
                  <Checkbox checked={chosen.has(j.job)} onChange={() => toggle(j.job)} aria-label={`Select ${j.name}`} styles={{ body: { overflow: "visible" } }} style={{ overflow: "visible" }} />
                  {!narrow && <Status of={j.status?.state ?? ""} />}
                  <To to="/jobs/$job/$tab" params={{ job: j.name, tab: "overview" }} search={{}} fw={600}>{j.name}{j.status?.number ? `/${j.status.number}` : ""}</To>
                  {narrow && <Status of={j.status?.state ?? ""} />}
                  {(narrow || shown.includes("reason")) && <Text className="reason" size="sm" c="dimmed" title={j.status?.reason}>{j.status?.reason ?? "It has never run."}</Text>}
                  {shown.includes("measure") && <Text className="more" size="sm" title={headline(job).why}>{headline(job).text}</Text>}
                  {shown.includes("changed") && <Text className="more" size="sm" c="dimmed" ta="right" title={job?.updated}>{when(job?.updated)}</Text>}
                </div>
              );
            })}
          </div>
        </div>
      )}
    </>
  );
}

/** The metric that the job is judged by, at its best in the last run that ended. */
function headline(job: Job | undefined): { text: string; why: string } {
  const judged = job?.results?.judged;
  if (!judged) return { text: "", why: "" };
  const n = (v: unknown) => (typeof v === "number" ? value(v, 3) : String(v));
  return { text: `${judged.metric} ${n(judged.best.value)}`, why: `best at step ${judged.best.step}, last ${n(judged.value)}; ${judged.metric}, because ${judged.why}` };
}

function Bulk({ jobs, clear }: { jobs: ReturnType<typeof rows>; clear: () => void }) {
  const stop = useEach("Asked to stop", stopJob);
  const remove = useEach("Deleted, to be restored within 7 days", deleteJob);
  if (jobs.length === 0) return null;
  const running = jobs.filter(live);
  return (
    <Group gap="xs" role="toolbar" aria-label="Of what is selected">
      <Text size="sm" fw={600}>{many(jobs.length, "job")} selected</Text>
      <Button size="xs" variant="default" disabled={running.length === 0} loading={stop.isPending} onClick={() => stop.mutate(running.map((j) => j.job))}>Stop {running.length || ""}</Button>
      {jobs.filter((j) => j.status?.number).length >= 2 && <ButtonTo size="xs" variant="default" to="/compare" search={{ runs: jobs.filter((j) => j.status?.number).map((j) => `${j.name}/${j.status!.number}`).slice(0, 8).join(",") }}>Compare</ButtonTo>}
      <Button size="xs" variant="default" loading={remove.isPending} onClick={() => remove.mutate(jobs.map((j) => j.job), { onSuccess: clear })}>Delete</Button>
      <Button size="xs" variant="subtle" onClick={clear}>Clear</Button>
    </Group>
  );
}

/** What is shown before there is a job: the shortest way to one. */
function First() {
  const line = `mlaas run train.py --follow`;
  return (
    <Stack maw={620}>
      <Text>No job yet. A job is your code with what it needs; each time you run it, everything that it says and measures is kept.</Text>
      <Group>
        <ButtonTo to="/jobs/new" search={{ from: "digits" }}>Train on handwritten digits</ButtonTo>
        <ButtonTo to="/jobs/new" search={{}} variant="default">Other ways to begin</ButtonTo>
      </Group>
      <Text>Or from a terminal:</Text>
      <Group gap="xs" wrap="nowrap">
        <Code block style={{ flex: 1 }}>{line}</Code>
        <CopyButton value={line}>{({ copied, copy }) => <Button size="xs" variant="default" onClick={copy}>{copied ? "Copied" : "Copy"}</Button>}</CopyButton>
      </Group>
    </Stack>
  );
}

function useNarrow(): boolean {
  const query = useMemo(() => matchMedia("(max-width: 768px)"), []);
  const [narrow, set] = useState(query.matches);
  useEffect(() => {
    const look = () => set(query.matches);
    query.addEventListener("change", look);
    return () => query.removeEventListener("change", look);
  }, [query]);
  return narrow;
}
