import { Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import type { Run } from "../api/client";
import { liveRuns } from "../api/queries";
import { Failed } from "../shell/Failed";
import { Status } from "../shell/Status";
import { full, when } from "../shell/words";
import { To } from "../shell/links";

/** Who waits, for what and why; and who has something. */
export function Queue() {
  const runs = useQuery(liveRuns);
  const all = runs.data ?? [];
  const waiting = all.filter((r) => r.status.state === "created" || r.status.state === "queued")
    .sort((a, b) => (b.spec.execution.priority ?? 0) - (a.spec.execution.priority ?? 0) || a.status.queued.localeCompare(b.status.queued));
  const going = all.filter((r) => !waiting.includes(r));
  return (
    <Stack>
      <Title order={1} size="h2">Queue & quota</Title>
      {runs.error && <Failed error={runs.error} again={() => void runs.refetch()} />}
      <section aria-label="Waiting">
        <Title order={2} size="h4" mb="xs">Waiting {waiting.length}</Title>
        {waiting.length === 0 ? <Text c="dimmed">Nobody waits.</Text> : <Runs runs={waiting} waiting />}
      </section>
      <section aria-label="Running">
        <Title order={2} size="h4" mb="xs">Running {going.length}</Title>
        {going.length === 0 ? <Text c="dimmed">Nothing runs.</Text> : <Runs runs={going} waiting={false} />}
      </section>
      <section aria-label="Quota">
        <Title order={2} size="h4">Quota</Title>
        <Text c="dimmed">Nobody has a quota yet: a run starts as soon as what it needs is free, the higher priority first.</Text>
      </section>
    </Stack>
  );
}

function Runs({ runs, waiting }: { runs: Run[]; waiting: boolean }) {
  return (
    <div className="wide" tabIndex={0} role="region" aria-label={waiting ? "Table of runs that wait" : "Table of runs that have something"}>
      <Table>
        <Table.Thead><Table.Tr><Table.Th>run</Table.Th><Table.Th>status</Table.Th><Table.Th ta="right">priority</Table.Th><Table.Th>{waiting ? "waits since" : "asked for"}</Table.Th><Table.Th>{waiting ? "why" : "has"}</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>
          {runs.map((r) => (
            <Table.Tr key={r.id}>
              <Table.Td><To to="/jobs/$job/$tab" params={{ job: r.jobName, tab: "overview" }} search={{ run: String(r.number) }}>{r.jobName}/{r.number}</To></Table.Td>
              <Table.Td><Status of={r.status.state} /></Table.Td>
              <Table.Td ta="right">{r.spec.execution.priority ?? 0}</Table.Td>
              <Table.Td title={full(waiting ? r.status.queued : r.created)}>{when(waiting ? r.status.queued : r.created)}</Table.Td>
              <Table.Td>{waiting ? r.status.reason : has(r)}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </div>
  );
}

function has(r: Run): string {
  const a = r.status.allocation;
  const got = Object.entries(a.granted ?? {}).map(([role, n]) => `${n} of ${a.requested?.[role] ?? n} ${role}`).join(", ");
  return got ? `${got} on ${a.cluster}: ${a.total.cpu} CPU, ${a.total.memory}` : r.status.reason;
}
