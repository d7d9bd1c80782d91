import { Anchor, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import type { Job, Run } from "../api/client";
import { artifactsQuery, checkpointsQuery } from "../api/queries";
import { Failed } from "../shell/Failed";
import { size, when } from "../shell/words";

/** What a run left: checkpoints and files. Deployment has its place here. */
export default function Model({ run }: { job: Job; run: Run | undefined }) {
  const checkpoints = useQuery({ ...checkpointsQuery(run?.id ?? ""), enabled: !!run });
  const artifacts = useQuery({ ...artifactsQuery(run?.id ?? ""), enabled: !!run });
  return (
    <Stack>
      <section aria-label="Deployments">
        <Title order={2} size="h5">Deployments</Title>
        <Text size="sm">This version of mlaas cannot serve models yet. What a run leaves below can be downloaded and served elsewhere.</Text>
      </section>
      <section aria-label="Checkpoints">
        <Title order={2} size="h5" mb="xs">Checkpoints</Title>
        {checkpoints.error && <Failed error={checkpoints.error} />}
        {(!run || checkpoints.data?.length === 0) && <Text size="sm" c="dimmed">None yet. In the program: mlaas.checkpoint(folder, step). A run that is moved or begun again goes on from the newest.</Text>}
        {(checkpoints.data?.length ?? 0) > 0 && (
          <Table>
            <Table.Thead><Table.Tr><Table.Th ta="right">step</Table.Th><Table.Th>replica</Table.Th><Table.Th ta="right">size</Table.Th><Table.Th>made</Table.Th><Table.Th>best of</Table.Th></Table.Tr></Table.Thead>
            <Table.Tbody>{checkpoints.data!.map((c) => <Table.Tr key={`${c.epoch} ${c.replica} ${c.step}`}><Table.Td ta="right">{c.step.toLocaleString("en")}</Table.Td><Table.Td>{c.replica}</Table.Td><Table.Td ta="right">{size(c.size)}</Table.Td><Table.Td>{when(c.created)}</Table.Td><Table.Td>{c.best ? `★ ${c.best}` : ""}</Table.Td></Table.Tr>)}</Table.Tbody>
          </Table>
        )}
      </section>
      <section aria-label="Files">
        <Title order={2} size="h5" mb="xs">Files</Title>
        {artifacts.error && <Failed error={artifacts.error} />}
        {(!run || artifacts.data?.length === 0) && <Text size="sm" c="dimmed">None yet. What a program leaves in $MLAAS_OUTPUT is kept when it ends.</Text>}
        {(artifacts.data?.length ?? 0) > 0 && (
          <Table>
            <Table.Thead><Table.Tr><Table.Th>file</Table.Th><Table.Th>replica</Table.Th><Table.Th ta="right">size</Table.Th></Table.Tr></Table.Thead>
            <Table.Tbody>{artifacts.data!.map((a) => <Table.Tr key={`${a.replica}/${a.path}`}><Table.Td><Anchor underline="always" href={`/api/run/${run!.id}/artifact/${a.replica}/${a.path.split("/").map(encodeURIComponent).join("/")}`}>{a.path}</Anchor></Table.Td><Table.Td>{a.replica}</Table.Td><Table.Td ta="right">{size(a.size)}</Table.Td></Table.Tr>)}</Table.Tbody>
          </Table>
        )}
      </section>
    </Stack>
  );
}
