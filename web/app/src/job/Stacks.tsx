import { Button, Group, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { stackQuery } from "../api/queries";
import { Failed } from "../shell/Failed";

/** What every thread of a replica's Python processes does now, also of one that hangs. */
export function Stacks({ job, run, replica }: { job: string; run: string; replica: string }) {
  const asked = useQuery(stackQuery(job, run, replica));
  return (
    <Stack gap="sm">
      <Group justify="space-between">
        <Text size="sm" c="dimmed">{asked.data ? `As of ${new Date(asked.dataUpdatedAt).toLocaleTimeString()}, the innermost call first.` : "The program goes on meanwhile."}</Text>
        <Button size="xs" variant="default" loading={asked.isFetching} onClick={() => void asked.refetch()}>Look again</Button>
      </Group>
      {asked.error && <Failed error={asked.error} />}
      {asked.isPending && <Text role="status">Asking the replica…</Text>}
      {(asked.data?.processes ?? []).map((p) => (
        <section key={p.pid} aria-label={`Process ${p.pid}`}>
          <Text size="sm" fw={600} style={{ overflowWrap: "anywhere" }}>process {p.pid}: {p.command?.join(" ")}</Text>
          {p.error && <Text size="sm" c="dimmed">{p.error}</Text>}
          {(p.threads ?? []).map((t) => (
            <pre key={t.id} className="code" tabIndex={0} aria-label={`Thread ${t.name || t.id}`} style={{ marginTop: 8 }}>
              {`${t.name || `thread ${t.id}`}\n${(t.frames ?? []).map((f) => `  ${f.function}  ${f.file}${f.line ? `:${f.line}` : ""}${f.text ? `\n      ${f.text}` : ""}`).join("\n")}`}
            </pre>
          ))}
        </section>
      ))}
    </Stack>
  );
}
