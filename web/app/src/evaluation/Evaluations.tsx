import { Anchor, Group, Select, Stack, Text, Title } from "@mantine/core";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import type { Evaluated, Run } from "../api/client";
import { useEvaluations } from "../api/live";
import { evaluationQuery } from "../api/queries";
import { Failed } from "../shell/Failed";
import { Charts } from "./Charts";

/** What a run's program evaluated: of a name the newest, unless a step is chosen. */
export function Evaluations({ run }: { run: Run }) {
  const all = useEvaluations(run.id);
  const search = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  if (!all || all.length === 0) return null;
  const names = [...new Set(all.toSorted((a, b) => b.created.localeCompare(a.created)).map((e) => e.name))];
  const name = search.eval && names.includes(search.eval) ? search.eval : names[0]!;
  const history = all.filter((e) => e.name === name);
  const at = history.findLast((e) => id(e) === search.step || String(e.step) === search.step) ?? history.at(-1)!;
  const many = new Set(history.map((e) => e.replica)).size > 1;
  return (
    <section aria-label="Evaluation">
      <Stack gap="xs">
        <Group align="end">
          <Title order={2} size="h5">Evaluation</Title>
          <Select size="xs" label="Name" allowDeselect={false} data={names} value={name} onChange={(v) => v && void navigate({ search: (s) => ({ ...s, eval: v === names[0] ? undefined : v, step: undefined }), replace: true })} />
          <Select size="xs" label={`Step (${history.length})`} allowDeselect={false} searchable={history.length > 10} limit={200} value={id(at)}
            data={history.toReversed().map((e, i) => ({ value: id(e), label: `${e.step.toLocaleString("en")}${many ? ` · ${e.replica}` : ""}${i === 0 ? " · newest" : ""}` }))}
            onChange={(v) => v && void navigate({ search: (s) => ({ ...s, step: v === id(history.at(-1)!) ? undefined : v }), replace: true })} />
          <Text size="sm">{at.task}, {at.rows.toLocaleString("en")} rows</Text>
          <Anchor size="sm" underline="always" href={`/api/run/${run.id}/evaluation/${at.name.split("/").map(encodeURIComponent).join("/")}?step=${at.step}&replica=${at.replica}`} download={`${run.jobName}-${run.number}-${at.name}.json`}>All of it as JSON</Anchor>
        </Group>
        <One run={run} at={at} />
      </Stack>
    </section>
  );
}

const id = (e: Evaluated) => `${e.step}-${e.replica}`;

function One({ run, at }: { run: Run; at: Evaluated }) {
  const got = useQuery({ ...evaluationQuery(run.id, at.name, at.step, at.replica, at.created), placeholderData: keepPreviousData });
  if (got.error) return <Failed error={got.error} again={() => void got.refetch()} />;
  if (!got.data) return <Text role="status" size="sm">Asking for the evaluation…</Text>;
  return <Charts of={got.data} file={`${run.jobName}-${run.number}-${at.name}-${at.step}`} wanted={run.spec.evaluation.charts ?? []} />;
}
