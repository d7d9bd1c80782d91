import { Button, Card, Code, FileButton, Group, Select, SimpleGrid, Stack, Table, Text, Textarea, TextInput, Title, UnstyledButton } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useMemo, useState } from "react";
import { answer, api, Problem, send, type JobSpec, type Version } from "../api/client";
import { contentQuery, datasetsQuery, environmentsQuery, jobQuery } from "../api/queries";
import { saveVersion } from "../job/save";
import { Failed } from "../shell/Failed";
import { many } from "../shell/words";
import { blank, plan, type Form } from "./plan";
import { templates } from "./templates";

/** What a job is made of: texts that the page knows, or an archive that it passes on. */
type Source = { what: string; files: Record<string, string>; archive?: File; from: Partial<JobSpec>; needs?: string };

/** Makes a job and runs it: choose what it begins from, say what it needs, see what will be. */
export function NewJob() {
  const { from } = useSearch({ from: "/jobs/new" });
  const navigate = useNavigate({ from: "/jobs/new" });
  const cache = useQueryClient();
  const cloned = from?.startsWith("job:") ? from.slice(4) : undefined;
  const [form, setForm] = useState<Form>(blank);
  const [own, setOwn] = useState<Source>();
  const [trouble, setTrouble] = useState("");
  const source = useSource(from, cloned) ?? own;
  const { data: environments } = useQuery(environmentsQuery);
  const datasets = useQuery(datasetsQuery).data;
  const planned = useMemo(() => plan(form, source?.files ?? {}, source?.from ?? {}), [form, source]);
  const set = (field: keyof Form) => (e: { currentTarget: { value: string } }) => setForm((f) => ({ ...f, [field]: e.currentTarget?.value ?? "" }));
  useEffect(() => {
    document.title = "New job · mlaas";
  }, []);
  useEffect(() => {
    if (!from) return;
    const base = cloned ? `${cloned}-copy` : from;
    setForm((f) => (f.name === "" ? { ...f, name: base } : f));
  }, [from, cloned]);

  const make = useMutation({
    mutationFn: async (start: boolean) => {
      const job = await answer(api.POST("/api/job", { body: planned.spec, params: { header: { "Idempotency-Key": crypto.randomUUID() } } }));
      try {
        if (source?.archive) await send<Version>(`/api/job/${job.id}/code`, source.archive.name.endsWith(".zip") ? "application/zip" : "application/gzip", source.archive);
        else if (source && cloned) await clone(cache, cloned, job.id);
        else if (source) await saveVersion(job.id, undefined, source.files);
        if (start) await answer(api.POST("/api/job/{id}/run", { params: { path: { id: job.id }, header: { "Idempotency-Key": crypto.randomUUID() } }, body: {} }));
      } catch (e) {
        if (e instanceof Problem) throw new Problem(`The job ${job.name} was made, but: ${e.message}`, e.status, e.title, e.field, e.request);
        throw e;
      }
      return job;
    },
    onSuccess: (job) => void navigate({ to: "/jobs/$job/$tab", params: { job: job.name, tab: source ? "overview" : "code" }, search: {} }),
  });
  const field = make.error instanceof Problem ? make.error.field : undefined;
  const wrong = (path: RegExp) => (field && path.test(field) ? make.error!.message : undefined);
  const lacks = source?.needs && datasets && !datasets.some((d) => d.name === source.needs) ? source.needs : undefined;

  const take = async (files: File[] | File | null) => {
    const all = files === null ? [] : Array.isArray(files) ? files : [files];
    setTrouble("");
    if (all.length === 0) return;
    try {
      setOwn(await read(all));
      const name = all.length === 1 ? all[0]!.name.replace(/\.(py|zip|tar\.gz|tgz)$/, "") : (all[0]!.webkitRelativePath.split("/")[0] ?? "");
      setForm((f) => ({ ...f, name: f.name || name.toLowerCase().replace(/[^a-z0-9._-]+/g, "-") }));
      void navigate({ search: {} });
    } catch (e) {
      setTrouble((e as Error).message);
    }
  };

  return (
    <Stack>
      <Title order={1} size="h2">New job</Title>
      <section aria-label="Begin from">
        <Title order={2} size="h4" mb="xs">1 Begin from</Title>
        <SimpleGrid cols={{ base: 1, xs: 2, md: 3, xl: 4 }} spacing="sm">
          {templates.map((t) => (
            <UnstyledButton key={t.id} aria-pressed={from === t.id} onClick={() => { setOwn(undefined); setForm((f) => ({ ...f, name: templates.some((x) => x.id === f.name) || f.name === "" ? t.id : f.name })); void navigate({ search: { from: t.id } }); }}>
              <Card withBorder h="100%" padding="sm" style={from === t.id ? { outline: "2px solid var(--mantine-primary-color-filled)" } : undefined}>
                <Text fw={600}>{t.name}</Text><Text size="sm" c="dimmed">{t.what}</Text>{t.data && <Text size="xs" c="dimmed" mt={4}>Needs the dataset {t.data}.</Text>}
              </Card>
            </UnstyledButton>
          ))}
          <Card withBorder padding="sm">
            <Text fw={600}>Your own code</Text><Text size="sm" c="dimmed" mb="xs">It runs as it is.</Text>
            <Group gap="xs">
              <FileButton onChange={(f) => void take(f)} multiple accept=".py,.txt,.json,.yaml,.yml,.toml,.md">{(p) => <Button size="xs" variant="default" {...p}>Files</Button>}</FileButton>
              <FileButton onChange={(f) => void take(f)} multiple inputProps={{ webkitdirectory: "" } as object}>{(p) => <Button size="xs" variant="default" {...p}>Folder</Button>}</FileButton>
              <FileButton onChange={(f) => void take(f)} accept=".zip,.tar.gz,.tgz">{(p) => <Button size="xs" variant="default" {...p}>Zip or tar.gz</Button>}</FileButton>
            </Group>
          </Card>
        </SimpleGrid>
        {trouble && <Text c="var(--bad)" size="sm" role="alert" mt="xs">{trouble}</Text>}
        <Text size="sm" mt="xs" aria-live="polite">{source ? <>It begins from {source.what}.</> : "Nothing chosen: the job begins without code, and you write it in the browser."}</Text>
      </section>
      <form onSubmit={(e) => {
        e.preventDefault();
        make.mutate(!!source);
      }}>
        <SimpleGrid cols={{ base: 1, md: 2 }} spacing="lg">
          <section aria-label="What it needs">
            <Title order={2} size="h4" mb="xs">2 What it needs</Title>
            <Stack gap="xs">
              <TextInput label="Name" required pattern="[a-z0-9._\-]{1,63}" description="1 to 63 of a-z, 0-9, dot, _ and -" value={form.name} error={wrong(/^name/)} onChange={set("name")} />
              <Select label="Framework" placeholder="by the imports" clearable clearButtonProps={{ "aria-label": "By the imports" }} value={form.framework || null} data={(environments?.catalogue ?? []).map((f) => f.name)} error={wrong(/^environment\.framework/)} onChange={(v) => setForm((f) => ({ ...f, framework: v ?? "" }))} />
              <TextInput label="Packages" description="as pip reads them, with spaces between" placeholder="numpy==2.1 pandas" value={form.packages} error={wrong(/packages/)} onChange={set("packages")} />
              <SimpleGrid cols={2} spacing="xs">
                <TextInput label="Workers" description="4: up to 4; 2-8: at least 2" placeholder="1" value={form.workers} error={wrong(/worker\.replicas/)} onChange={set("workers")} />
                <TextInput label="Parameter servers" description="exactly so many" placeholder="0" value={form.ps} error={wrong(/ps\.replicas/)} onChange={set("ps")} />
                <TextInput label="CPU of each" description="cores: any amount" placeholder="500m" value={form.cpu} error={wrong(/cpu/)} onChange={set("cpu")} />
                <TextInput label="Memory of each" description="any amount" placeholder="1Gi" value={form.memory} error={wrong(/memory/)} onChange={set("memory")} />
                <TextInput label="GPUs of each" description="1, or KIND:2" placeholder="0" value={form.gpu} error={wrong(/gpu/)} onChange={set("gpu")} />
                <TextInput label="Command" description="else the entry file" placeholder="python main.py" value={form.command} error={wrong(/command/)} onChange={set("command")} />
              </SimpleGrid>
              <Textarea label="Parameters" description="name=value, one a line" autosize minRows={1} value={form.parameters} error={wrong(/parameters/)} onChange={set("parameters")} />
              <Textarea label="Data" description="name=source, one a line: dataset:NAME, https://…, s3://…, git+https://…" autosize minRows={1} value={form.data} error={wrong(/^data/)} onChange={set("data")} />
            </Stack>
          </section>
          <section aria-label="What will be">
            <Title order={2} size="h4" mb="xs">3 What will be</Title>
            <Table verticalSpacing={4}>
              <Table.Thead><Table.Tr><Table.Th>what</Table.Th><Table.Th>value</Table.Th><Table.Th>why</Table.Th></Table.Tr></Table.Thead>
              <Table.Tbody>{planned.rows.map((r) => <Table.Tr key={r.what}><Table.Td>{r.what}</Table.Td><Table.Td style={{ overflowWrap: "anywhere" }}>{r.value}</Table.Td><Table.Td><Text size="sm" c="dimmed">{r.why}</Text></Table.Td></Table.Tr>)}</Table.Tbody>
            </Table>
            <Text size="sm" mt="md" mb={4}>The same from a terminal:</Text>
            <pre className="code" tabIndex={0}>{planned.command}</pre>
            <details style={{ marginTop: 8 }}><summary>As a job file (mlaas.yaml; JSON is YAML)</summary><pre className="code" tabIndex={0}>{JSON.stringify(planned.spec, null, 2)}</pre></details>
            {lacks && <Text size="sm" role="alert" mt="sm" c="var(--bad)">There is no dataset {lacks} yet. From a terminal: <Code>mlaas data put {lacks} "$(bash examples/get_mnist.sh)"</Code></Text>}
            {make.error && !field && <Failed error={make.error} />}
            {field && <Failed error={make.error!} />}
            <Group mt="md">
              <Button type="submit" loading={make.isPending}>{source ? "Run" : "Make it and write code"}</Button>
              {source && <Button variant="default" disabled={make.isPending || form.name === ""} onClick={() => make.mutate(false)}>Make it without running</Button>}
            </Group>
          </section>
        </SimpleGrid>
      </form>
    </Stack>
  );
}

/** A template, or a job that is cloned. */
function useSource(from: string | undefined, cloned: string | undefined): Source | undefined {
  const job = useQuery({ ...jobQuery(cloned ?? ""), enabled: !!cloned }).data;
  const content = useQuery({ ...contentQuery(cloned ?? "", "latest"), enabled: !!cloned && (job?.versions ?? 0) > 0 }).data;
  return useMemo(() => {
    const t = templates.find((x) => x.id === from);
    if (t) return { what: t.name, files: t.files, from: t.spec, ...(t.data && { needs: t.data }) };
    if (!cloned || !job) return undefined;
    const { name: _, environment, roles, execution, data, code, evaluation, rules, labels } = job;
    const spec = { environment, roles, execution, data: data ?? [], code: { ...code, version: undefined }, evaluation, rules, labels } as unknown as Partial<JobSpec>;
    return { what: `the job ${cloned}${content ? `, v${content.number}` : ", which has no code"}`, files: content?.content ?? {}, from: spec };
  }, [from, cloned, job, content]);
}

async function clone(cache: ReturnType<typeof useQueryClient>, from: string, to: string) {
  const content = await cache.fetchQuery(contentQuery(from, "latest"));
  await answer(api.POST("/api/job/{id}/code", { params: { path: { id: to } }, body: { tree: content.files ?? [] } }));
}

const mostText = 4 << 20; // bytes of a file that the page reads itself

async function read(files: File[]): Promise<Source> {
  const first = files[0]!;
  if (files.length === 1 && /\.(zip|tar\.gz|tgz)$/.test(first.name)) return { what: first.name, files: {}, archive: first, from: {} };
  const texts: Record<string, string> = {};
  for (const f of files) {
    const path = f.webkitRelativePath ? f.webkitRelativePath.split("/").slice(1).join("/") : f.name;
    if (/(^|\/)(\.git|\.venv|__pycache__|node_modules)\//.test(path)) continue;
    const bytes = new Uint8Array(await f.arrayBuffer());
    if (bytes.length > mostText || bytes.subarray(0, 8000).includes(0)) throw new Error(`${path} is not text or is larger than 4 MiB. Send the folder as a zip, or by mlaas run.`);
    texts[path] = new TextDecoder().decode(bytes);
  }
  if (Object.keys(texts).length === 0) throw new Error("There is no file in it that a job could use.");
  return { what: many(Object.keys(texts).length, "file"), files: texts, from: {} };
}
