import { Button, Group, Menu, Select, Stack, Tabs, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useMemo, useState } from "react";
import type { Job, Run } from "../api/client";
import { newKey } from "../api/key";
import { useJobs } from "../api/live";
import { jobQuery, runQuery, runsQuery } from "../api/queries";
import { useStart, useStop } from "../jobs/actions";
import { Failed } from "../shell/Failed";
import { typing } from "../shell/Shell";
import { useShortcuts } from "../shell/Shortcuts";
import { final, Status } from "../shell/Status";
import { Delete } from "./Delete";
import { Overview } from "./Overview";
import { MenuTo } from "../shell/links";

const Code = lazy(() => import("./Code"));
const Composed = lazy(() => import("./Composed"));
const Configure = lazy(() => import("./Configure"));
const Replicas = lazy(() => import("./Replicas"));
const Metrics = lazy(() => import("./Metrics"));
const Model = lazy(() => import("./Model"));

const tabs = [
  ["overview", "Overview"],
  ["code", "Code"],
  ["replicas", "Replicas & logs"],
  ["metrics", "Metrics & evaluation"],
  ["model", "Model & deployments"],
] as const;

/** Everything of one job. Which run is looked at stands in the address; without it, the newest. */
export function JobPage() {
  const { job: name, tab } = useParams({ from: "/jobs/$job/$tab" });
  const { run: number } = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const job = useQuery(jobQuery(name));
  const id = job.data?.id;
  const runs = useQuery({ ...runsQuery(id ?? ""), enabled: !!id });
  const jobs = useJobs();
  const live = id ? jobs?.get(id)?.status : undefined;
  // The stream tells of a new run before the list of runs does.
  const run = number ? runs.data?.find((r) => String(r.number) === number)?.id : (live?.run ?? job.data?.status?.run ?? undefined);
  const one = useQuery({ ...runQuery(run ?? ""), enabled: !!run });
  const shown = one.data && one.data.id === run ? one.data : runs.data?.find((r) => r.id === run);
  const state = live && live.run === run ? live.state : (shown?.status.state ?? "");
  const reason = live && live.run === run ? live.reason : (shown?.status.reason ?? "");

  useEffect(() => {
    document.title = `${name}${shown ? `/${shown.number}` : ""} ${state} · mlaas`;
  }, [name, shown, state]);

  const { on } = useShortcuts();
  useEffect(() => {
    if (!on) return;
    const press = (e: KeyboardEvent) => {
      const to = tabs[Number(e.key) - 1]?.[0];
      if (!to || e.ctrlKey || e.metaKey || e.altKey || typing(e.target) || document.querySelector("[role=dialog]")) return;
      e.preventDefault();
      void navigate({ params: (p) => ({ ...p, tab: to }), search: (s) => ({ run: s.run }) });
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [navigate, on]);

  if (job.error) return <Failed error={job.error} again={() => void job.refetch()} />;
  if (!job.data) return <Text role="status">Asking for {name}…</Text>;
  return (
    <Stack>
      <Group justify="space-between" align="start">
        <Group gap="sm">
          <Title order={1} size="h2" style={{ overflowWrap: "anywhere" }}>{job.data.name}</Title>
          {run && <Status of={state} />}
          {(runs.data?.length ?? 0) > 0 && <WhichRun runs={runs.data!} run={run} newest={!number} />}
        </Group>
        <Actions job={job.data} run={shown} state={state} />
      </Group>
      {reason && <Text aria-live="polite" style={{ overflowWrap: "anywhere" }}>{reason}</Text>}
      <Tabs value={tab} keepMounted={false} onChange={(t) => t && void navigate({ params: (p) => ({ ...p, tab: t }), search: (s) => ({ run: s.run }) })}>
        <Tabs.List style={{ overflowX: "auto", flexWrap: "nowrap" }}>
          {tabs.map(([t, label]) => <Tabs.Tab key={t} value={t}>{label}</Tabs.Tab>)}
        </Tabs.List>
        {tabs.map(([t]) => (
          <Tabs.Panel key={t} value={t} pt="md">
            <Suspense fallback={<Text role="status">One moment…</Text>}>
              {t === "overview" && <Overview job={job.data} run={shown} runs={runs.data ?? []} />}
              {t === "code" && (job.data.code.mode === "composed" ? <Composed key={job.data.id} job={job.data} /> : <Code job={job.data} run={shown} />)}
              {t === "replicas" && <Replicas job={job.data} run={shown} />}
              {t === "metrics" && <Metrics job={job.data} run={shown} />}
              {t === "model" && <Model job={job.data} run={shown} />}
            </Suspense>
          </Tabs.Panel>
        ))}
      </Tabs>
    </Stack>
  );
}

function WhichRun({ runs, run, newest }: { runs: Run[]; run: string | undefined; newest: boolean }) {
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const data = useMemo(() => runs.map((r, i) => ({ value: String(r.number), label: `run ${r.number} · v${r.version.number}${i === 0 ? " · newest" : ""}` })), [runs]);
  const at = runs.find((r) => r.id === run);
  return (
    <Select aria-label="Run" size="xs" w={190} allowDeselect={false} data={data} value={at ? String(at.number) : null} placeholder={newest ? "newest run" : "no such run"}
      onChange={(v) => v && void navigate({ search: (s) => ({ ...s, run: v === String(runs[0]?.number) ? undefined : v, line: undefined }) })} />
  );
}

function Actions({ job, run, state }: { job: Job; run: Run | undefined; state: string }) {
  const start = useStart();
  const stop = useStop();
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const [asked, ask] = useState(false);
  const [edited, edit] = useState(false);
  const going = run && !final(state);
  return (
    <Group gap="xs">
      {going && <Button size="xs" variant="default" loading={stop.isPending} disabled={state === "stopping"} onClick={() => stop.mutate(run.id)}>Stop</Button>}
      <Button size="xs" loading={start.isPending} disabled={job.versions === 0 && job.code.mode !== "composed"}
        onClick={() => start.mutate({ job: job.id, ask: {}, key: newKey() }, { onSuccess: () => void navigate({ search: (s) => ({ ...s, run: undefined, line: undefined }) }) })}>
        Run {job.versions > 0 && job.code.mode !== "composed" ? `v${job.versions}` : ""}
      </Button>
      <Menu position="bottom-end">
        <Menu.Target><Button size="xs" variant="default" aria-label="More">⋯</Button></Menu.Target>
        <Menu.Dropdown>
          <MenuTo to="/jobs/new" search={{ from: `job:${job.name}` }}>Clone</MenuTo>
          {run && <Menu.Item component="a" href={`/api/job/${job.id}/code/v${run.version.number}?format=zip`}>Download the code of this run</Menu.Item>}
          <Menu.Item onClick={() => edit(true)}>Rename or configure</Menu.Item>
          <Menu.Item onClick={() => ask(true)}>Delete</Menu.Item>
        </Menu.Dropdown>
      </Menu>
      <Delete job={job} open={asked} close={() => ask(false)} />
      {edited && <Suspense><Configure job={job} close={() => edit(false)} /></Suspense>}
    </Group>
  );
}
