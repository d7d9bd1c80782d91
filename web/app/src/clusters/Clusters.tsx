import { Card, Group, Progress, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import type { Cluster } from "../api/client";
import { clustersQuery } from "../api/queries";
import { Failed } from "../shell/Failed";
import { Status } from "../shell/Status";
import { bytes, full, many, size, when } from "../shell/words";

/** The places to run replicas: whether they answer, and what of them is promised. */
export function Clusters() {
  const clusters = useQuery(clustersQuery);
  return (
    <Stack>
      <Title order={1} size="h2">Clusters</Title>
      {clusters.error && <Failed error={clusters.error} again={() => void clusters.refetch()} />}
      {clusters.data?.length === 0 && <Text>There is no place to run anything. From a terminal: mlaas cluster add --help</Text>}
      <div className="cards">{(clusters.data ?? []).map((c) => <One key={c.name} cluster={c} />)}</div>
      <Text size="sm" c="dimmed">Clusters are added, drained and removed by one who runs the platform: mlaas cluster add, drain, remove.</Text>
    </Stack>
  );
}

function One({ cluster: c }: { cluster: Cluster }) {
  return (
    <Card withBorder padding="sm" component="section" aria-label={c.name}>
      <Group justify="space-between" mb="xs"><Title order={2} size="h5">{c.name}</Title><Status of={c.up ? "up" : "unreachable"} /></Group>
      {c.reason && <Text size="sm" mb="xs">{c.reason}</Text>}
      <Bar what="CPU" used={cores(c.used.cpu)} all={cores(c.capacity.cpu)} words={`${c.used.cpu} of ${c.capacity.cpu} promised`} />
      <Bar what="memory" used={bytes(c.used.memory)} all={bytes(c.capacity.memory)} words={`${size(c.used.memory)} of ${size(c.capacity.memory)} promised`} />
      <dl className="facts" style={{ marginTop: 8 }}>
        <dt>kind</dt><dd>{c.kind}</dd>
        <dt>runs</dt><dd>{many(c.runs, "run")}</dd>
        <dt>wanted</dt><dd>{c.wanted}</dd>
        {c.server && <><dt>server</dt><dd>{c.server}</dd></>}
        <dt>heard</dt><dd title={full(c.heard)}>{when(c.heard)}</dd>
      </dl>
      {(c.limits ?? []).map((l) => <Text key={l} size="xs" c="dimmed" mt={4}>{l}</Text>)}
    </Card>
  );
}

function Bar({ what, used, all, words }: { what: string; used: number; all: number; words: string }) {
  const percent = all > 0 ? Math.min(100, (100 * used) / all) : 0;
  return (
    <div style={{ marginBottom: 8 }}>
      <Text size="sm">{what}: {words}</Text>
      <Progress value={percent} aria-label={`${what}: ${words}`} />
    </div>
  );
}

const cores = (cpu: string) => (cpu.endsWith("m") ? Number(cpu.slice(0, -1)) / 1000 : Number(cpu));
