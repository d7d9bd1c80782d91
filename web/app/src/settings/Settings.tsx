import { Button, Card, Group, PasswordInput, SegmentedControl, Stack, Table, Text, TextInput, Title, useMantineColorScheme } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Notifications } from "./Notifications";
import { answer, api } from "../api/client";
import { newKey } from "../api/key";
import { datasetsQuery, secretsQuery, sessionsQuery, statusQuery } from "../api/queries";
import { Failed } from "../shell/Failed";
import { useShortcuts } from "../shell/Shortcuts";
import { Switch } from "@mantine/core";
import { full, many, size, when } from "../shell/words";

export function Settings() {
  return (
    <Stack>
      <Title order={1} size="h2">Settings</Title>
      <Appearance />
      <Part title="Notifications"><Notifications /></Part>
      <Logins />
      <Secrets />
      <Datasets />
      <System />
      <Part title="Team and roles"><Text size="sm" c="dimmed">This version of mlaas knows one team, and who is let in may do everything.</Text></Part>
    </Stack>
  );
}

function Part({ title, children }: { title: string; children: React.ReactNode }) {
  return <Card withBorder padding="md" component="section" aria-label={title}><Title order={2} size="h4" mb="sm">{title}</Title>{children}</Card>;
}

function Appearance() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const keys = useShortcuts();
  return (
    <Part title="Appearance">
      <Stack gap="sm">
        <SegmentedControl aria-label="Colours" style={{ alignSelf: "start" }} value={colorScheme} onChange={(v) => setColorScheme(v as "light" | "dark" | "auto")} data={[{ value: "auto", label: "As the system" }, { value: "light", label: "Light" }, { value: "dark", label: "Dark" }]} />
        <Switch checked={keys.on} onChange={(e) => keys.set(e.currentTarget.checked)} label="Keys without Ctrl do something" />
      </Stack>
    </Part>
  );
}

function Logins() {
  const sessions = useQuery(sessionsQuery);
  const cache = useQueryClient();
  const revoke = useMutation({ mutationFn: (id: string) => answer(api.DELETE("/api/session/{id}", { params: { path: { id } } })), onSuccess: () => void cache.invalidateQueries({ queryKey: ["sessions"] }) });
  return (
    <Part title="Logins">
      {sessions.error && <Failed error={sessions.error} />}
      {revoke.error && <Failed error={revoke.error} />}
      <div className="wide" tabIndex={0} role="region" aria-label="Table of logins">
        <Table>
          <Table.Thead><Table.Tr><Table.Th>browser</Table.Th><Table.Th>address</Table.Th><Table.Th>since</Table.Th><Table.Th>until</Table.Th><Table.Th>end it</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>
            {(sessions.data ?? []).filter((s) => !s.revoked).map((s) => (
              <Table.Tr key={s.id}>
                <Table.Td style={{ maxWidth: 360, overflowWrap: "anywhere" }}>{s.agent}{s.current ? " (this one)" : ""}</Table.Td><Table.Td>{s.address}</Table.Td><Table.Td title={full(s.created)}>{when(s.created)}</Table.Td><Table.Td title={full(s.expires)}>{when(s.expires)}</Table.Td>
                <Table.Td><Button size="compact-xs" variant="default" loading={revoke.isPending && revoke.variables === s.id} onClick={() => revoke.mutate(s.id)} aria-label={`End: the login of ${s.address}, since ${when(s.created)}`}>End</Button></Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </Part>
  );
}

function Secrets() {
  const secrets = useQuery(secretsQuery);
  const cache = useQueryClient();
  const [name, setName] = useState("");
  const [value, setValue] = useState("");
  const again = () => void cache.invalidateQueries({ queryKey: ["secrets"] });
  const set = useMutation({
    mutationFn: () => answer(api.POST("/api/secret", { params: { header: { "Idempotency-Key": newKey() } }, body: { name, value } })),
    onSuccess: () => {
      setName("");
      setValue("");
      again();
    },
  });
  const remove = useMutation({ mutationFn: (n: string) => answer(api.DELETE("/api/secret/{name}", { params: { path: { name: n } } })), onSuccess: again });
  return (
    <Part title="Secrets">
      <Text size="sm" c="dimmed" mb="xs">Sealed when they are set; nobody can read them back. A job names them under environment.secrets.</Text>
      {secrets.error && <Failed error={secrets.error} />}
      {secrets.data?.length === 0 && <Text size="sm">None yet.</Text>}
      {(secrets.data?.length ?? 0) > 0 && (
        <Table mb="sm">
          <Table.Thead><Table.Tr><Table.Th>name</Table.Th><Table.Th>version</Table.Th><Table.Th>set</Table.Th><Table.Th>delete</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>{secrets.data!.map((s) => <Table.Tr key={s.name}><Table.Td>{s.name}</Table.Td><Table.Td>{s.version}</Table.Td><Table.Td>{when(s.updated)}</Table.Td><Table.Td><Button size="compact-xs" variant="default" aria-label={`Delete: ${s.name}`} onClick={() => remove.mutate(s.name)}>Delete</Button></Table.Td></Table.Tr>)}</Table.Tbody>
        </Table>
      )}
      <form onSubmit={(e) => {
        e.preventDefault();
        set.mutate();
      }}>
        <Group align="end" gap="xs">
          <TextInput label="Name" required value={name} onChange={(e) => setName(e.currentTarget.value)} />
          <PasswordInput label="Value" required value={value} onChange={(e) => setValue(e.currentTarget.value)} w={220} visibilityToggleButtonProps={{ "aria-label": "Show the value" }} autoComplete="off" />
          <Button type="submit" variant="default" loading={set.isPending}>Set</Button>
        </Group>
      </form>
      {set.error && <Failed error={set.error} />}
      {remove.error && <Failed error={remove.error} />}
    </Part>
  );
}

function Datasets() {
  const datasets = useQuery(datasetsQuery);
  return (
    <Part title="Datasets">
      {datasets.error && <Failed error={datasets.error} />}
      {datasets.data?.length === 0 && <Text size="sm" c="dimmed">None yet. From a terminal: mlaas data put NAME FOLDER</Text>}
      {(datasets.data?.length ?? 0) > 0 && (
        <Table>
          <Table.Thead><Table.Tr><Table.Th>name</Table.Th><Table.Th>holds</Table.Th><Table.Th>made</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>{datasets.data!.map((d) => <Table.Tr key={`${d.name}@${d.version}`}><Table.Td>{d.name}@{d.version}</Table.Td><Table.Td>{many(d.files, "file")}, {size(d.size)}</Table.Td><Table.Td>{when(d.created)}</Table.Td></Table.Tr>)}</Table.Tbody>
        </Table>
      )}
    </Part>
  );
}

function System() {
  const status = useQuery(statusQuery);
  const s = status.data;
  return (
    <Part title="System">
      {status.error && <Failed error={status.error} />}
      {s && (
        <dl className="facts">
          <dt>version</dt><dd>{s.version}</dd>
          {s.data && <><dt>data folder</dt><dd>{s.data}</dd></>}
          {Object.entries(s.disk.used ?? {}).map(([part, n]) => [<dt key={part}>disk, {part}</dt>, <dd key={`${part}-n`}>{size(n)}</dd>])}
          {s.disk.free !== undefined && <><dt>disk, free</dt><dd>{size(s.disk.free)}</dd></>}
          <dt>records</dt><dd>{s.store.records.toLocaleString("en")}</dd>
          <dt>messages</dt><dd>{s.store.waiting} waiting, {s.store.parked} given up</dd>
        </dl>
      )}
      {(s?.limits ?? []).map((l) => <Text key={l} size="sm" mt="xs">{l}</Text>)}
      <Text size="sm" c="dimmed" mt="xs">A backup while it works: mlaas backup FILE</Text>
    </Part>
  );
}
