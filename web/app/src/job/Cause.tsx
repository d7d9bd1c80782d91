import { Alert, Button, Code, Group, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import type { Job, Run, RunAsk } from "../api/client";
import { useReplicas } from "../api/live";
import { contentQuery, linesQuery } from "../api/queries";
import { useStart } from "../jobs/actions";
import { raised } from "../log/levels";
import { bytes, size } from "../shell/words";
import { To } from "../shell/links";

/** Why a run failed: which replica, what it said last, and what would mend it. */
export function Cause({ job, run }: { job: Job; run: Run }) {
  const replicas = useReplicas(run.id) ?? [];
  const failed = replicas.filter((r) => r.status === "failed" || r.status === "lost");
  const first = failed.sort((a, b) => (a.ended ?? "").localeCompare(b.ended ?? ""))[0];
  const said = useQuery(linesQuery(run.id, { grep: raised, tail: "1" })).data?.[0];
  const place = useQuery({ ...linesQuery(run.id, { grep: '^  File "[^"]+", line [0-9]+', tail: "1" }), enabled: !!said }).data?.[0];
  const where = /^ {2}File "([^"]+)", line (\d+)/.exec(place?.line ?? "");
  const { data: code } = useQuery(contentQuery(job.id, `v${run.version.number}`));
  const file = where && code?.files?.find((f) => `/${where[1]}`.endsWith(`/${f.path}`))?.path;
  const start = useStart();
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const again = (ask: RunAsk) => start.mutate({ job: job.id, ask: { version: `v${run.version.number}`, ...ask }, key: crypto.randomUUID() }, { onSuccess: () => void navigate({ search: {} }) });
  const role = first && run.spec.roles[first.role];
  const memory = bytes(role?.memory ?? "1Gi") * 2;
  const missing = /No module named '([A-Za-z0-9_]+)/.exec(said?.line ?? "")?.[1];
  return (
    <Alert color="red" variant="outline" title="Why it failed" role="region" aria-label="Why it failed">
      <Stack gap="xs">
        <Text size="sm">{first ? `${first.replica}: ${first.reason}` : run.status.reason}</Text>
        {said && <Code block>{said.line}</Code>}
        <Group gap="md">
          {said && <To size="sm" to="/jobs/$job/$tab" params={{ job: job.name, tab: "replicas" }} search={{ run: String(run.number), line: String(said.cursor) }}>Where it stands in the log</To>}
          {file && <To size="sm" to="/jobs/$job/$tab" params={{ job: job.name, tab: "code" }} search={{ run: String(run.number), v: String(run.version.number), file, at: where[2] }}>{file}, line {where[2]}</To>}
        </Group>
        <Group gap="xs">
          {first?.oom && Number.isFinite(memory) && (
            <Button size="xs" loading={start.isPending} onClick={() => again({ roles: { [first.role]: { memory: String(memory) } } })}>Run again with {size(memory)} of memory</Button>
          )}
          {missing && <Text size="sm">The environment has no <Code>{missing}</Code>: add its package under environment.packages of the job, as with <Code>mlaas run … --package {missing}</Code>.</Text>}
          <Button size="xs" variant="default" loading={start.isPending} onClick={() => again({})}>Run the same again</Button>
        </Group>
      </Stack>
    </Alert>
  );
}
