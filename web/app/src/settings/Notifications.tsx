import { Button, Checkbox, Group, Select, Stack, Switch, Table, Text, TextInput } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answer, api, type Subscription } from "../api/client";
import { newKey } from "../api/key";
import { useJobs } from "../api/live";
import { deliveriesQuery, notificationsQuery, secretsQuery } from "../api/queries";
import { Failed } from "../shell/Failed";
import { usePopups } from "../shell/popups";
import { full, when } from "../shell/words";

const ends = ["succeeded", "failed", "stopped"] as const;

/** Who is told when runs end: this browser, webhooks, mailboxes. */
export function Notifications() {
  const cache = useQueryClient();
  const all = useQuery(notificationsQuery);
  const jobs = useJobs();
  const [shown, show] = useState<string>();
  const again = () => void cache.invalidateQueries({ queryKey: ["notifications"] });
  const remove = useMutation({ mutationFn: (id: string) => answer(api.DELETE("/api/notification/{id}", { params: { path: { id } } })), onSuccess: again });
  const test = useMutation({
    mutationFn: (id: string) => answer(api.POST("/api/notification/{id}/test", { params: { path: { id } } })),
    onSuccess: (_, id) => {
      show(id);
      void cache.invalidateQueries({ queryKey: ["notified", id] });
    },
  });
  return (
    <Stack gap="sm">
      <Browser />
      {all.error && <Failed error={all.error} />}
      {remove.error && <Failed error={remove.error} />}
      {test.error && <Failed error={test.error} />}
      {all.data?.length === 0 && <Text size="sm">Nobody else is told yet.</Text>}
      {(all.data?.length ?? 0) > 0 && (
        <div className="wide" tabIndex={0} role="region" aria-label="Table of notifications">
          <Table>
            <Table.Thead><Table.Tr><Table.Th>told</Table.Th><Table.Th>of job</Table.Th><Table.Th>when it</Table.Th><Table.Th>do</Table.Th></Table.Tr></Table.Thead>
            <Table.Tbody>
              {all.data!.map((s) => {
                const to = s.url ?? s.email ?? "";
                return (
                  <Table.Tr key={s.id}>
                    <Table.Td style={{ overflowWrap: "anywhere" }}>{to}</Table.Td><Table.Td>{s.job ? (jobs?.get(s.job)?.name ?? s.job) : "every job"}</Table.Td><Table.Td>{(s.on ?? []).join(", ")}</Table.Td>
                    <Table.Td>
                      <Group gap={4}>
                        <Button size="compact-xs" variant="default" loading={test.isPending && test.variables === s.id} onClick={() => test.mutate(s.id)} aria-label={`Send a test: ${to}`}>Send a test</Button>
                        <Button size="compact-xs" variant="default" aria-expanded={shown === s.id} onClick={() => show(shown === s.id ? undefined : s.id)} aria-label={`Sent: ${to}`}>Sent</Button>
                        <Button size="compact-xs" variant="default" onClick={() => remove.mutate(s.id)} aria-label={`Remove: ${to}`}>Remove</Button>
                      </Group>
                    </Table.Td>
                  </Table.Tr>
                );
              })}
            </Table.Tbody>
          </Table>
        </div>
      )}
      {shown && <Sent id={shown} />}
      <Add done={again} />
    </Stack>
  );
}

function Browser() {
  const { can, on, set, refused } = usePopups();
  return (
    <div>
      <Switch checked={on} disabled={!can} onChange={(e) => void set(e.currentTarget.checked)} label="This browser tells when a run ends, while the page is open" />
      {!can && <Text size="xs" c="dimmed">This browser cannot, or not at an address without https.</Text>}
      {refused && <Text size="xs" role="alert">The browser was told not to let this page do so: change that in its settings of the page.</Text>}
    </div>
  );
}

function Sent({ id }: { id: string }) {
  const sent = useQuery(deliveriesQuery(id));
  if (sent.error) return <Failed error={sent.error} />;
  return (
    <section aria-label="What was sent">
      <Text size="sm" fw={600}>What was sent</Text>
      {sent.data?.length === 0 && <Text size="sm" c="dimmed">Nothing yet.</Text>}
      <ul style={{ margin: 0, paddingLeft: 20 }}>
        {(sent.data ?? []).map((d) => {
          const last = d.tries?.at(-1);
          return <li key={d.id}><Text size="sm"><time dateTime={d.created} title={full(d.created)}>{when(d.created)}</time> {d.run ? `of run ${d.run}` : "a test"}: <b>{d.state}</b>{last ? `, ${(d.tries ?? []).length} tried, the last ${last.error ? `failed: ${last.error}` : "was taken"}` : ""}</Text></li>;
        })}
      </ul>
    </section>
  );
}

function Add({ done }: { done: () => void }) {
  const jobs = useJobs();
  const secrets = useQuery(secretsQuery);
  const [kind, setKind] = useState("email");
  const [to, setTo] = useState("");
  const [job, setJob] = useState<string | null>(null);
  const [secret, setSecret] = useState<string | null>(null);
  const [on, setOn] = useState<string[]>(["failed"]);
  const add = useMutation({
    mutationFn: () => answer(api.POST("/api/notification", {
      params: { header: { "Idempotency-Key": newKey() } },
      body: { ...(kind === "email" ? { email: to } : { url: to, ...(secret && { secret }) }), ...(job && { job }), on: on as Subscription["on"] & string[] },
    })),
    onSuccess: () => {
      setTo("");
      done();
    },
  });
  return (
    <form onSubmit={(e) => {
      e.preventDefault();
      add.mutate();
    }}>
      <Group align="end" gap="xs">
        <Select label="By" w={120} allowDeselect={false} value={kind} onChange={(v) => setKind(v ?? "email")} data={[{ value: "email", label: "e-mail" }, { value: "url", label: "webhook" }]} />
        <TextInput label={kind === "email" ? "Mailbox" : "URL"} required value={to} onChange={(e) => setTo(e.currentTarget.value)} style={{ flex: "1 1 200px" }} placeholder={kind === "email" ? "ada@example.org" : "https://hooks.example.org/mlaas"} />
        {kind === "url" && <Select label="Signed by secret" w={160} clearable value={secret} onChange={setSecret} data={(secrets.data ?? []).map((s) => s.name)} placeholder="not signed" />}
        <Select label="Of job" w={180} clearable searchable value={job} onChange={setJob} placeholder="every job" data={[...(jobs?.values() ?? [])].slice(-500).map((j) => ({ value: j.job, label: j.name }))} />
        <Checkbox.Group label="When it" value={on} onChange={setOn}><Group gap="sm" h={36}>{ends.map((e) => <Checkbox key={e} value={e} label={e} />)}</Group></Checkbox.Group>
        <Button type="submit" variant="default" loading={add.isPending}>Add</Button>
      </Group>
      {add.error && <Failed error={add.error} />}
    </form>
  );
}
