import { Accordion, Anchor, Button, Code, Group, Stack, Table, Text, TextInput, Title } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { Problem } from "../api/client";
import { Failed } from "../shell/Failed";

type Parameter = { name: string; in: string; description?: string; required?: boolean };
type Operation = { operationId: string; summary?: string; parameters?: Parameter[]; requestBody?: { content: Record<string, { schema?: { $ref?: string } }> }; responses: Record<string, { description?: string }> };
type Document = { info: { version: string }; paths: Record<string, Record<string, Operation>> };
type Route = { method: string; path: string; of: Operation };

/** Every route of the API; those that only read can be tried here. */
export function Api() {
  const doc = useQuery({
    queryKey: ["openapi"],
    staleTime: Infinity,
    queryFn: async () => {
      const r = await fetch("/openapi.json");
      if (!r.ok) throw new Problem(`The document was not given: ${r.status}.`, r.status, "It did not work");
      return (await r.json()) as Document;
    },
  });
  const [words, setWords] = useState("");
  const routes = useMemo(() => Object.entries(doc.data?.paths ?? {}).flatMap(([path, ms]) => Object.entries(ms).map(([method, of]): Route => ({ method: method.toUpperCase(), path, of }))), [doc.data]);
  const found = routes.filter((r) => `${r.method} ${r.path} ${r.of.operationId} ${r.of.summary}`.toLowerCase().includes(words.toLowerCase()));
  if (doc.error) return <Failed error={doc.error} again={() => void doc.refetch()} />;
  return (
    <Stack>
      <Title order={1} size="h2">REST API</Title>
      <Text>With a token from a terminal: <Code>curl -H "Authorization: Bearer $(cat DIR/token)" {location.origin}/api/job</Code>. The whole as <Anchor href="/openapi.json" underline="always">OpenAPI</Anchor>.</Text>
      <TextInput label="Find" value={words} onChange={(e) => setWords(e.currentTarget.value)} maw={360} />
      <Text size="sm" c="dimmed" aria-live="polite">{found.length} of {routes.length} routes</Text>
      <Accordion variant="contained" chevronPosition="left" order={2}>
        {found.map((r) => (
          <Accordion.Item key={`${r.method} ${r.path}`} value={`${r.method} ${r.path}`}>
            <Accordion.Control><Text component="span" size="sm"><b>{r.method}</b> <Code>{r.path}</Code> {r.of.summary}</Text></Accordion.Control>
            <Accordion.Panel><One route={r} /></Accordion.Panel>
          </Accordion.Item>
        ))}
      </Accordion>
    </Stack>
  );
}

function One({ route: { method, path, of } }: { route: Route }) {
  const [values, setValues] = useState<Record<string, string>>({});
  const asked = (of.parameters ?? []).filter((p) => p.in !== "header");
  const url = path.replace(/\{([^}.]+)[^}]*\}/g, (_, name: string) => encodeURIComponent(values[name] ?? "")) + query(asked.filter((p) => p.in === "query"), values);
  const ask = useMutation({
    mutationFn: async () => {
      const r = await fetch(url);
      return `${r.status} ${r.statusText}\n\n${pretty((await r.text()).slice(0, 100_000))}`;
    },
  });
  const tries = method === "GET" && !/stream|shell|port|backup|login/.test(path);
  return (
    <Stack gap="xs">
      {(of.parameters?.length ?? 0) > 0 && (
        <Table><Table.Thead><Table.Tr><Table.Th>parameter</Table.Th><Table.Th>in</Table.Th><Table.Th>what</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>{of.parameters!.map((p) => <Table.Tr key={`${p.in} ${p.name}`}><Table.Td>{p.name}</Table.Td><Table.Td>{p.in}</Table.Td><Table.Td>{p.description}</Table.Td></Table.Tr>)}</Table.Tbody></Table>
      )}
      {of.requestBody && <Text size="sm">Takes {Object.entries(of.requestBody.content).map(([type, c]) => `${type}${c.schema?.$ref ? ` (${c.schema.$ref.split("/").at(-1)})` : ""}`).join(", ")}</Text>}
      <Text size="sm">Answers {Object.entries(of.responses).map(([status, r]) => `${status} ${r.description ?? ""}`).join("; ")}</Text>
      {tries && (
        <form onSubmit={(e) => {
          e.preventDefault();
          ask.mutate();
        }}>
          <Group align="end" gap="xs">
            {asked.map((p) => <TextInput key={p.name} size="xs" label={p.name} required={p.in === "path"} value={values[p.name] ?? ""} onChange={(e) => setValues({ ...values, [p.name]: e.currentTarget.value })} />)}
            <Button type="submit" size="xs" variant="default" loading={ask.isPending}>Try it</Button>
          </Group>
        </form>
      )}
      {ask.error && <Failed error={ask.error} />}
      {ask.data && <pre className="code" tabIndex={0} style={{ maxHeight: 320 }}>{ask.data}</pre>}
    </Stack>
  );
}

function query(of: Parameter[], values: Record<string, string>): string {
  const q = new URLSearchParams(of.flatMap((p) => (values[p.name] ? [[p.name, values[p.name]!]] : [])));
  return q.size > 0 ? `?${q}` : "";
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // it is no JSON
  }
}
