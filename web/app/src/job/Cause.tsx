import { Alert, Button, Code, Group, Stack, Text } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { answer, api, type Job, type Run, type RunAsk } from "../api/client";
import { newKey } from "../api/key";
import { useReplicas } from "../api/live";
import { contentQuery, linesQuery } from "../api/queries";
import { useStart } from "../jobs/actions";
import { raised } from "../log/levels";
import { bytes, size } from "../shell/words";
import { Failed } from "../shell/Failed";
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
  const again = (ask: RunAsk) => start.mutate({ job: job.id, ask: { version: `v${run.version.number}`, ...ask }, key: newKey() }, { onSuccess: () => void navigate({ search: {} }) });
  const cache = useQueryClient();
  const add = useMutation({
    mutationFn: (name: string) => answer(api.PATCH("/api/job/{id}", { params: { path: { id: job.id } }, body: { environment: { packages: [...(job.environment.packages ?? []), name] } } as never })),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["job", job.id] });
      again({});
    },
  });
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
          {missing && <Button size="xs" loading={add.isPending} onClick={() => add.mutate(missing)}>Add the package {missing} and run again</Button>}
          <Button size="xs" variant="default" loading={start.isPending} onClick={() => again({})}>Run the same again</Button>
        </Group>
        {missing && <Text size="xs" c="dimmed">Some packages have another name than their module, as scikit-learn has sklearn: then change environment.packages of the job.</Text>}
        {add.error && <Failed error={add.error} />}
      </Stack>
    </Alert>
  );
}
