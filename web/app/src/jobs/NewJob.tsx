import { Alert, Button, Code, CopyButton, Group, Modal, Select, SimpleGrid, Stack, Table, Text, Textarea, TextInput, Title } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useMemo, useState } from "react";
import { answer, api, Problem, type JobSpec, type Plan, type PlanAsk } from "../api/client";
import { newKey } from "../api/key";
import { datasetsQuery, environmentsQuery, planQuery } from "../api/queries";
import { first, fromWord, networkOf, toWord, type Network } from "../compose/network";
import { Failed } from "../shell/Failed";
import { Status } from "../shell/Status";
import { many } from "../shell/words";
import { blank, formOf, specOf, twin, type Form } from "./plan";
import { fromFiles, fromGit, Gallery, useSource, type Source } from "./Source";

const Builder = lazy(() => import("../compose/Builder").then((m) => ({ default: m.Builder })));

/** Makes a job and runs it: choose what it begins with, say what it needs, see what would become of it. */
export function NewJob() {
  const { from, net } = useSearch({ from: "/jobs/new" });
  const navigate = useNavigate({ from: "/jobs/new" });
  const cache = useQueryClient();
  const [form, setForm] = useState<Form>(blank);
  const [own, setOwn] = useState<Source>(); // of this machine or of a repository: no address says it
  const [pasted, setPasted] = useState<Partial<JobSpec>>();
  const [pasting, paste] = useState(false);
  const [trouble, setTrouble] = useState("");
  const shared = useMemo(() => (net ? fromWord(net) : undefined), [net]);
  const network = shared ?? first;
  const chosen = useSource(from === "git" ? undefined : from, network);
  const source = chosen ?? own;
  const base = useMemo(() => merged(source?.from, pasted), [source?.from, pasted]);
  const spec = useMemo(() => specOf(form, base), [form, base]);
  const ask = useMemo((): PlanAsk => ({ spec, ...source?.look }), [spec, source?.look]);
  const [asked] = useDebouncedValue(ask, 300);
  const plan = useQuery(planQuery(asked));
  const { data: environments } = useQuery(environmentsQuery);
  const datasets = useQuery(datasetsQuery).data;
  useEffect(() => {
    document.title = "New job · mlaas";
  }, []);
  // A name follows from what the job begins with, until another is typed.
  const [typed, type] = useState(false);
  useEffect(() => {
    if (source && !typed) setForm((f) => ({ ...f, name: source.name }));
  }, [source?.name, typed]);

  const make = useMutation({
    mutationFn: async (start: boolean) => {
      const planned = await answer(api.POST("/api/plan", { body: ask }));
      const { framework, packages, image } = planned.spec.environment;
      const body = { ...spec, environment: { ...spec.environment, ...(!image && { framework, packages: packages ?? [] }) } } as JobSpec;
      const job = await answer(api.POST("/api/job", { body, params: { header: { "Idempotency-Key": newKey() } } }));
      try {
        await source?.put?.(job.id, cache);
        if (start) await answer(api.POST("/api/job/{id}/run", { params: { path: { id: job.id }, header: { "Idempotency-Key": newKey() } }, body: {} }));
      } catch (e) {
        if (e instanceof Problem) throw new Problem(`The job ${job.name} was made, but: ${e.message}`, e.status, e.title, e.field, e.request);
        throw e;
      }
      return job;
    },
    onSuccess: (job) => {
      void cache.invalidateQueries({ queryKey: ["jobs"] });
      void navigate({ to: "/jobs/$job/$tab", params: { job: job.name, tab: source ? "overview" : "code" }, search: {} });
    },
  });
  const field = make.error instanceof Problem ? make.error.field : undefined;
  const wrong = (path: RegExp) => (field && path.test(field) ? make.error!.message : plan.data?.problems?.find((p) => p.field && path.test(p.field))?.message);
  const lacks = source?.needs && datasets && !datasets.some((d) => d.name === source.needs) ? source.needs : undefined;

  const begin = (s: Source, at: string | undefined) => {
    setTrouble("");
    setOwn(s);
    void navigate({ search: at ? { from: at } : {} });
  };
  const take = async (files: Parameters<typeof fromFiles>[0]) => {
    try {
      begin(await fromFiles(files), undefined);
    } catch (e) {
      setTrouble((e as Error).message);
    }
  };
  const set = (f: keyof Form) => (e: { currentTarget: { value: string } }) => {
    const { value } = e.currentTarget;
    if (f === "name") type(value !== "");
    setForm((was) => ({ ...was, [f]: value }));
  };
  const empty = !source && !pasted?.code?.composed;

  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h2">New job</Title>
        <Button size="xs" variant="default" onClick={() => paste(true)}>Paste a job file</Button>
      </Group>
      <section aria-label="Begin from">
        <Title order={2} size="h4" mb="xs">1 Begin from</Title>
        <Gallery from={from} own={!!own} choose={(f) => { setOwn(undefined); setTrouble(""); void navigate({ search: { from: f } }); }} take={(f) => void take(f)} git={(r) => begin(fromGit(r), "git")} />
        {trouble && <Text c="var(--bad)" size="sm" role="alert" mt="xs">{trouble}</Text>}
        <Text size="sm" mt="xs" aria-live="polite">{source ? <>It begins from {source.what}.</> : "Nothing chosen: the job begins without code, and you write it in the browser."}</Text>
        {(source?.left?.length ?? 0) > 0 && (
          <details><summary>{many(source!.left!.length, "thing")} left out</summary><ul>{source!.left!.slice(0, 200).map((l) => <li key={l}><Code>{l}</Code></li>)}</ul></details>
        )}
        {net && !shared && <Alert color="yellow" variant="outline" mt="xs">The link to the network was cut off: this is the one that everybody begins with.</Alert>}
      </section>
      {from === "composed" && (
        <section aria-label="Network">
          <Title order={2} size="h4" mb="xs">The network</Title>
          <Suspense fallback={<Text role="status">One moment…</Text>}>
            <Builder network={network} set={(n: Network) => void navigate({ search: { from: "composed", net: toWord(n) }, replace: true })} link={`${location.origin}/jobs/new?from=composed&net=${toWord(network)}`} />
          </Suspense>
        </section>
      )}
      <form onSubmit={(e) => {
        e.preventDefault();
        make.mutate(!empty);
      }}>
        <SimpleGrid cols={{ base: 1, md: 2 }} spacing="lg">
          <section aria-label="What it needs">
            <Title order={2} size="h4" mb="xs">2 What it needs</Title>
            <Stack gap="xs">
              <TextInput label="Name" required pattern="[a-z0-9._\-]{1,63}" description="1 to 63 of a-z, 0-9, dot, _ and -" value={form.name} error={form.name ? wrong(/^name/) : undefined} onChange={set("name")} />
              <SimpleGrid cols={2} spacing="xs">
                <Select label="Framework" placeholder="by the imports" clearable clearButtonProps={{ "aria-label": "By the imports" }} value={form.framework || null} data={(environments?.catalogue ?? []).map((f) => f.name)} error={wrong(/^environment\.framework/)} onChange={(v) => setForm((f) => ({ ...f, framework: v ?? "" }))} />
                <Select label="Mode" placeholder={base.code?.mode ?? "nonintrusive"} clearable clearButtonProps={{ "aria-label": "As it begins" }} value={form.mode || null} data={["nonintrusive", "annotation", "guiding", "plain"]} disabled={!!base.code?.composed} error={wrong(/^code\.mode/)} onChange={(v) => setForm((f) => ({ ...f, mode: v ?? "" }))} />
              </SimpleGrid>
              <TextInput label="Packages" description="as pip reads them, with spaces between" placeholder="numpy==2.1 pandas" value={form.packages} error={wrong(/packages/)} onChange={set("packages")} />
              <SimpleGrid cols={2} spacing="xs">
                <TextInput label="Workers" description="4: up to 4; 2-8: at least 2" placeholder="1" value={form.workers} error={wrong(/worker\.replicas/)} onChange={set("workers")} />
                <TextInput label="Parameter servers" description="exactly so many" placeholder="0" value={form.ps} error={wrong(/ps\.replicas/)} onChange={set("ps")} />
                <TextInput label="CPU of each" description="cores, or worker=2,ps=500m" placeholder="500m" value={form.cpu} error={wrong(/cpu/)} onChange={set("cpu")} />
                <TextInput label="Memory of each" description="1.5Gi, 512M, or by role" placeholder="1Gi" value={form.memory} error={wrong(/memory/)} onChange={set("memory")} />
                <TextInput label="GPUs of each" description="1, or KIND:2" placeholder="0" value={form.gpu} error={wrong(/gpu/)} onChange={set("gpu")} />
                <TextInput label="Disk of each" description="on clusters: 20Gi" placeholder="what its node has" value={form.disk} error={wrong(/disk/)} onChange={set("disk")} />
              </SimpleGrid>
              <TextInput label="Command" description="else the entry file" placeholder="python main.py" value={form.command} error={wrong(/command/)} onChange={set("command")} />
              <Textarea label="Parameters" description="name=value, one a line" autosize minRows={1} value={form.parameters} error={wrong(/parameters/)} onChange={set("parameters")} />
              <Textarea label="Data" description="name=source, one a line: dataset:NAME, https://…, s3://…, git+https://…" autosize minRows={1} value={form.data} error={wrong(/^data/)} onChange={set("data")} />
            </Stack>
          </section>
          <section aria-label="What would become of it" aria-busy={plan.isFetching}>
            <Title order={2} size="h4" mb="xs">3 What would become of it</Title>
            {plan.error && <Failed error={plan.error} again={() => void plan.refetch()} />}
            {!plan.data && !plan.error && <Text role="status">The platform is being asked…</Text>}
            {plan.data && <Foreseen plan={plan.data} code={!empty} />}
            <Twin command={twin(form, source?.what.startsWith("the folder") ? source.name : "FOLDER")} file={plan.data?.file ?? ""} />
            {lacks && <Text size="sm" role="alert" mt="sm" c="var(--bad)">There is no dataset {lacks} yet. From a terminal: <Code>mlaas data put {lacks} "$(bash examples/get_mnist.sh)"</Code></Text>}
            {make.error && <Failed error={make.error} />}
            <Group mt="md">
              <Button type="submit" loading={make.isPending}>{empty ? "Make it and write code" : "Run"}</Button>
              {!empty && <Button variant="default" disabled={make.isPending || form.name === ""} onClick={() => make.mutate(false)}>Make it without running</Button>}
            </Group>
          </section>
        </SimpleGrid>
      </form>
      <Paste open={pasting} close={() => paste(false)} take={(stated) => {
        const own = networkOf(stated as never);
        const said = formOf(stated);
        setForm(said.form);
        type(said.form.name !== "");
        if (own) {
          setPasted({ ...said.from, code: {} });
          setForm({ ...said.form, data: "" });
          void navigate({ search: { from: "composed", net: toWord(own) } });
        } else setPasted(said.from);
      }} />
    </Stack>
  );
}

/** What a job begins with, and over it what was pasted. */
function merged(from: Partial<JobSpec> | undefined, over: Partial<JobSpec> | undefined): Partial<JobSpec> {
  if (!over) return from ?? {};
  return { ...from, ...over, code: { ...from?.code, ...over.code }, environment: { ...from?.environment, ...over.environment } as never, execution: { ...from?.execution, ...over.execution } };
}

/** What the platform says of a run before there is one. */
function Foreseen({ plan, code }: { plan: Plan; code: boolean }) {
  const word = { now: "starts now", waits: "waits", never: "can never start", unknown: "not known" }[plan.starts];
  const problems = (plan.problems ?? []).filter((p) => p.field !== "name");
  return (
    <Stack gap="xs">
      <div role="status" aria-label="Whether it starts">
        <Group gap="xs" wrap="nowrap" align="start"><Status of={plan.starts === "now" ? "ready" : plan.starts === "never" ? "failed" : "queued"} word={word} /><Text size="sm">{plan.reason}</Text></Group>
      </div>
      {problems.length > 0 && (
        <Alert color="red" variant="outline" title={problems.length === 1 ? "One thing is in the way" : `${problems.length} things are in the way`} role="alert">
          {problems.map((p) => <Text key={p.message} size="sm">{p.file && <Code>{p.file}{p.line ? `:${p.line}` : ""}</Code>} {p.message}</Text>)}
        </Alert>
      )}
      <div className="wide" tabIndex={0} role="region" aria-label="Table of what is decided">
        <Table verticalSpacing={4}>
          <Table.Thead><Table.Tr><Table.Th>what</Table.Th><Table.Th>value</Table.Th><Table.Th>why</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>
            {(plan.rows ?? []).map((r) => <Table.Tr key={r.what}><Table.Td>{r.what}</Table.Td><Table.Td style={{ overflowWrap: "anywhere" }}>{r.value}</Table.Td><Table.Td><Text size="sm" c="dimmed">{r.why}</Text></Table.Td></Table.Tr>)}
            <Table.Tr><Table.Td>environment</Table.Td><Table.Td>{plan.environment.state}</Table.Td><Table.Td><Text size="sm" c="dimmed">{plan.environment.why}</Text></Table.Td></Table.Tr>
          </Table.Tbody>
        </Table>
      </div>
      {code && (plan.says ?? []).map((s) => <Text key={s} size="sm">{s}</Text>)}
      {(plan.changes?.length ?? 0) > 0 && (
        <details>
          <summary>What is injected: {many(plan.changes!.length, "file")}</summary>
          {plan.changes!.map((f) => <section key={f.path} aria-label={f.path}><Text size="sm" fw={600} mt="xs">{f.path}{f.new ? " (made by the engine)" : ""}</Text><pre className="code" tabIndex={0}>{f.diff}</pre></section>)}
        </details>
      )}
      {code && (plan.notes ?? []).map((n) => <Text key={n} size="sm" c="dimmed">{n}</Text>)}
    </Stack>
  );
}

/** The same as a command and as a file. */
function Twin({ command, file }: { command: string; file: string }) {
  return (
    <>
      <Group justify="space-between" mt="md" mb={4}><Text size="sm">The same from a terminal:</Text><Copy what="the command" value={command} /></Group>
      <pre className="code" tabIndex={0}>{command}</pre>
      <details style={{ marginTop: 8 }}>
        <summary>As a job file, mlaas.yaml</summary>
        <Group justify="end" mb={4}><Copy what="the job file" value={file} /></Group>
        <pre className="code" tabIndex={0} aria-label="Job file">{file}</pre>
      </details>
    </>
  );
}

function Copy({ what, value }: { what: string; value: string }) {
  return <CopyButton value={value}>{({ copied, copy }) => <Button size="compact-xs" variant="default" onClick={copy} aria-label={`Copy ${what}`}>{copied ? "Copied" : "Copy"}</Button>}</CopyButton>;
}

/** Takes the text of a job file, and fills the form with it. */
function Paste({ open, close, take }: { open: boolean; close: () => void; take: (stated: Partial<JobSpec>) => void }) {
  const [text, setText] = useState("");
  const read = useMutation({
    mutationFn: () => answer(api.POST("/api/plan", { body: { spec: { name: "" }, text } })),
    onSuccess: (p) => {
      take(p.stated as Partial<JobSpec>);
      close();
    },
  });
  return (
    <Modal opened={open} onClose={close} title="Paste a job file" size="lg" closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={(e) => {
        e.preventDefault();
        read.mutate();
      }}>
        <Textarea data-autofocus label="YAML or JSON, as in mlaas.yaml" autosize minRows={8} maxRows={20} styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }} value={text} onChange={(e) => setText(e.currentTarget.value)} />
        {read.error && <Failed error={read.error} />}
        <Button type="submit" mt="sm" loading={read.isPending} disabled={text.trim() === ""}>Fill the form</Button>
      </form>
    </Modal>
  );
}
