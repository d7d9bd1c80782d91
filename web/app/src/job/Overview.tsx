import { Card, Checkbox, Code, Group, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import type { Job, Role, Run } from "../api/client";
import { useCurves, useReplicas } from "../api/live";
import { judgedQuery, versionsQuery } from "../api/queries";
import { Status } from "../shell/Status";
import { full, lasting, many, size, value, when } from "../shell/words";
import { Cause } from "./Cause";
import { ButtonTo, To } from "../shell/links";
import { Headline } from "./Headline";

/** What a run is, how it came to where it stands, and what it is made of. */
export function Overview({ job, run, runs }: { job: Job; run: Run | undefined; runs: Run[] }) {
  return (
    <Stack>
      {!run && <Text>This job has never run. {job.versions === 0 ? "It has no code yet: the tab Code takes it." : "Run starts its newest version."}</Text>}
      {run?.status.state === "failed" && <Cause job={job} run={run} />}
      <div className="cards">
        {run && <Life run={run} />}
        {run && <Measured job={job} run={run} />}
        <Plan spec={run?.spec ?? job} />
        {run && <Given run={run} />}
        <Versions job={job} />
      </div>
      {runs.length > 0 && <Runs job={job} runs={runs} />}
    </Stack>
  );
}

function Part({ title, children }: { title: string; children: React.ReactNode }) {
  return <Card withBorder padding="sm" component="section" aria-label={title}><Title order={2} size="h5" mb="xs">{title}</Title>{children}</Card>;
}

/** The phases of a run's newest attempt with how long each took, and what ended the ones before. */
function Life({ run }: { run: Run }) {
  const { queued, started, ended, attempts } = run.status;
  const placed = attempts?.[0]?.began;
  const end = ended ?? new Date().toISOString();
  const phases = [
    { name: "waited", from: queued, to: placed ?? end },
    ...(placed ? [{ name: "was made ready", from: placed, to: started ?? end }] : []),
    ...(started ? [{ name: ended ? "ran" : "runs", from: started, to: end }] : []),
  ];
  return (
    <Part title="Life">
      <dl className="facts">
        <dt>asked for</dt><dd title={full(run.created)}>{when(run.created)}</dd>
        {phases.map((p) => [<dt key={p.name}>{p.name}</dt>, <dd key={`${p.name}-for`}>{lasting(Date.parse(p.to) - Date.parse(p.from))}</dd>])}
        {ended && <><dt>ended</dt><dd title={full(ended)}>{when(ended)}</dd></>}
        {run.status.exitCode !== undefined && <><dt>exit code</dt><dd>{run.status.exitCode}</dd></>}
      </dl>
      {(attempts?.length ?? 0) > 1 && (
        <>
          <Text size="sm" fw={600} mt="xs">Attempts</Text>
          <ol style={{ margin: 0, paddingLeft: 20 }}>
            {attempts!.map((a) => <li key={a.epoch}><Text size="sm">{when(a.began)} on {a.cluster}{a.step ? `, from step ${a.step}` : ""}{a.reason ? `: ${a.reason}` : ""}</Text></li>)}
          </ol>
        </>
      )}
    </Part>
  );
}

function Measured({ job, run }: { job: Job; run: Run }) {
  const curves = useCurves(run.id);
  const replicas = useReplicas(run.id);
  const last = new Map<string, string>();
  for (const c of curves?.values() ?? []) {
    const p = c.points.at(-1);
    if (p && !last.has(c.key)) last.set(c.key, `${value(p.last)} at step ${value(p.step)}`);
  }
  const shown = [...last].slice(0, 8);
  return (
    <Part title="Where it stands">
      {shown.length === 0 && <Text size="sm" c="dimmed">Nothing was measured yet. In the program: <Code>mlaas.log({"{"}"loss": loss{"}"}, step)</Code></Text>}
      <Headline job={job} run={run} />
      <dl className="facts">
        {shown.map(([key, text]) => [<dt key={key}>{key}</dt>, <dd key={`${key}-last`}>{text}</dd>])}
        {replicas && replicas.length > 0 && <><dt>replicas</dt><dd>{tally(replicas.map((r) => r.status))}</dd></>}
      </dl>
      {last.size > shown.length && <Text size="sm" c="dimmed">and {last.size - shown.length} more under Metrics & evaluation</Text>}
    </Part>
  );
}

function tally(states: string[]): string {
  const n = new Map<string, number>();
  for (const s of states) n.set(s, (n.get(s) ?? 0) + 1);
  return [...n].map(([s, k]) => `${k} ${s}`).join(", ");
}

const short = (v: unknown) => (typeof v === "number" ? value(v) : String(v));

/** What was asked for, and what of it is a default. */
function Plan({ spec }: { spec: Pick<Job, "environment" | "roles" | "execution" | "data" | "code"> }) {
  const e = spec.environment;
  const parameters = Object.entries(spec.execution.parameters ?? {});
  return (
    <Part title="Plan">
      <dl className="facts">
        <dt>framework</dt><dd>{e.image ?? e.framework}{e.python ? `, Python ${e.python}` : ""}</dd>
        {(e.packages?.length ?? 0) > 0 && <><dt>packages</dt><dd>{e.packages!.join(", ")}</dd></>}
        {Object.entries(spec.roles).map(([role, r]) => [<dt key={role}>{role}</dt>, <dd key={`${role}-needs`}>{needs(r)}</dd>])}
        <dt>command</dt><dd>{(spec.execution.command?.length ?? 0) > 0 ? <Code>{spec.execution.command!.join(" ")}</Code> : "python and the entry file"}</dd>
        {parameters.length > 0 && <><dt>parameters</dt><dd>{parameters.map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(" ")}</dd></>}
        {(spec.data ?? []).map((d) => [<dt key={d.name}>data {d.name}</dt>, <dd key={`${d.name}-from`}>{d.source}</dd>])}
        <dt>tracking</dt><dd>{spec.code.mode}</dd>
      </dl>
    </Part>
  );
}

/** "1 to 4, each 500m CPU, 1 GiB". */
export function needs(r: Role): string {
  const { min, max } = r.replicas;
  const each = [`${r.cpu ?? "500m (default)"} CPU`, r.memory ? size(r.memory) : "1 GiB (default)", r.gpu ? `GPU ${typeof r.gpu === "object" ? JSON.stringify(r.gpu) : r.gpu}` : ""].filter(Boolean);
  return `${min === max ? max : `${min} to ${max}`}, each ${each.join(", ")}`;
}

function Given({ run }: { run: Run }) {
  const a = run.status.allocation;
  const rest = Object.entries(a.remainder ?? {}).filter(([, n]) => n > 0);
  return (
    <Part title="Given">
      {a.cluster ? (
        <dl className="facts">
          <dt>cluster</dt><dd><To to="/clusters">{a.cluster}</To></dd>
          {Object.entries(a.granted ?? {}).map(([role, n]) => [<dt key={role}>{role}</dt>, <dd key={`${role}-n`}>{n} of {a.requested?.[role] ?? n}</dd>])}
          <dt>in all</dt><dd>{a.total.cpu} CPU, {size(a.total.memory)}</dd>
          {rest.length > 0 && <><dt>still waits for</dt><dd>{rest.map(([role, n]) => many(n, role)).join(", ")}</dd></>}
        </dl>
      ) : <Text size="sm" c="dimmed">Nothing now. {run.status.reason}</Text>}
    </Part>
  );
}

function Versions({ job }: { job: Job }) {
  const versions = useQuery(versionsQuery(job.id)).data ?? [];
  return (
    <Part title="Versions">
      {versions.length === 0 && <Text size="sm" c="dimmed">No code yet.</Text>}
      <dl className="facts">
        {versions.slice(0, 8).map((v) => [
          <dt key={v.id}><To to="/jobs/$job/$tab" params={{ job: job.name, tab: "code" }} search={{ v: String(v.number) }}>v{v.number}</To></dt>,
          <dd key={`${v.id}-is`} title={full(v.created)}>{many(v.files?.length ?? 0, "file")}, {size(v.size)}, {when(v.created)}</dd>,
        ])}
      </dl>
    </Part>
  );
}

function Runs({ job, runs }: { job: Job; runs: Run[] }) {
  const judged = useQuery(judgedQuery(job.id)).data;
  const [chosen, choose] = useState<string[]>([]);
  const did = new Map(judged?.runs.map((r) => [r.run, r]));
  return (
    <section aria-label="Runs">
      <Group mb="xs" gap="sm">
        <Title order={2} size="h5">Runs</Title>
        {chosen.length >= 2 && <ButtonTo size="compact-sm" variant="default" to="/compare" search={{ runs: chosen.map((n) => `${job.name}/${n}`).join(",") }}>Compare {chosen.length}</ButtonTo>}
        {runs.length >= 2 && chosen.length < 2 && <Text size="xs" c="dimmed">Select two to compare.</Text>}
      </Group>
      <div className="wide" tabIndex={0} role="region" aria-label="Table of runs">
        <Table>
          <Table.Thead><Table.Tr><Table.Th aria-label="Selected" /><Table.Th>run</Table.Th><Table.Th>status</Table.Th>{judged?.headline && <Table.Th>{judged.headline.metric}</Table.Th>}<Table.Th>version</Table.Th><Table.Th>asked for</Table.Th><Table.Th>lasted</Table.Th><Table.Th>why</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>
            {runs.slice(0, 50).map((r) => (
              <Table.Tr key={r.id}>
                <Table.Td><Checkbox size="xs" aria-label={`Select run ${r.number}`} checked={chosen.includes(String(r.number))} disabled={chosen.length >= 8 && !chosen.includes(String(r.number))}
                  onChange={(e) => { const on = e.currentTarget.checked; choose((was) => (on ? [...was, String(r.number)] : was.filter((n) => n !== String(r.number)))); }} /></Table.Td>
                <Table.Td><To to="/jobs/$job/$tab" params={{ job: job.name, tab: "overview" }} search={{ run: String(r.number) }}>{r.number}</To></Table.Td>
                <Table.Td><Status of={r.status.state} /></Table.Td>
                {judged?.headline && <Table.Td title={did.has(r.id) ? `best, at step ${did.get(r.id)!.best.step}` : undefined}>{did.has(r.id) ? `${judged.best === r.id && judged.runs.length > 1 ? "★ " : ""}${short(did.get(r.id)!.best.value)}` : ""}</Table.Td>}
                <Table.Td>v{r.version.number}</Table.Td>
                <Table.Td title={full(r.created)}>{when(r.created)}</Table.Td>
                <Table.Td>{r.status.started && r.status.ended ? lasting(Date.parse(r.status.ended) - Date.parse(r.status.started)) : ""}</Table.Td>
                <Table.Td>{r.status.reason}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </section>
  );
}
