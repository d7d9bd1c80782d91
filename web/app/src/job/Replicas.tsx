import { ActionIcon, Menu, Modal, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useRef, useState } from "react";
import type { Job, Replica, Run } from "../api/client";
import { useReplicas } from "../api/live";
import { eventsQuery } from "../api/queries";
import { Log } from "../log/Log";
import { Failed } from "../shell/Failed";
import { final, Status } from "../shell/Status";
import { bytes, full, lasting, many, size, value, when } from "../shell/words";
import { parts, phases, told, type Phase } from "./phases";
import { Stacks } from "./Stacks";

const Terminal = lazy(() => import("./Terminal"));

type Look = { replica: string; at: "details" | "shell" | "stack" };

/** One row for each replica, and what all of them write. */
export default function Replicas({ job, run }: { job: Job; run: Run | undefined }) {
  const replicas = useReplicas(run?.id);
  const { replica } = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const [looked, look] = useState<Look>();
  const seen = useSeen(replicas);
  const now = useSeconds(replicas?.some((r) => !final(r.status)) ?? false);
  if (!run) return <Text>Replicas begin with the first run.</Text>;
  const one = looked && replicas?.find((r) => r.replica === looked.replica);
  const gpus = replicas?.some((r) => r.usage.gpuBusy !== undefined);
  return (
    <Stack>
      <section aria-label="Replicas">
        {!replicas && <Text size="sm" role="status">Asking for the replicas…</Text>}
        {replicas?.length === 0 && <Text size="sm" c="dimmed">None yet. {run.status.reason}</Text>}
        {replicas && replicas.length > 0 && (
          <div className="wide" tabIndex={0} role="region" aria-label="Table of replicas">
            <Table verticalSpacing={4} className="replicas">
              <Table.Thead>
                <Table.Tr><Table.Th>replica</Table.Th><Table.Th>status</Table.Th><Table.Th>phases</Table.Th><Table.Th ta="right">restarts</Table.Th><Table.Th ta="right">step</Table.Th><Table.Th>CPU</Table.Th><Table.Th>memory, peak</Table.Th>{gpus && <Table.Th>GPU</Table.Th>}<Table.Th>heard</Table.Th><Table.Th>why</Table.Th><Table.Th><span className="unseen">more</span></Table.Th></Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {replicas.map((r) => {
                  const of = seen.get(r.replica), over = final(r.status);
                  const all = phases(r, run.status.queued, now);
                  return (
                    <Table.Tr key={r.replica}>
                      <Table.Td>{r.replica}</Table.Td>
                      <Table.Td><Status of={r.status} />{r.exitCode !== undefined && r.exitCode !== 0 && <Text size="xs" c="dimmed">exit code {r.exitCode}</Text>}</Table.Td>
                      <Table.Td><Timeline all={all} /></Table.Td>
                      <Table.Td ta="right" title={r.epoch > 1 ? run.status.attempts?.filter((a) => a.reason).map((a) => `attempt ${a.epoch}: ${a.reason}`).join("\n") : undefined}>{Math.max(0, r.epoch - 1)}</Table.Td>
                      <Table.Td ta="right">{r.step.toLocaleString("en")}{!over && of && of.steps > 0 && <Text size="xs" c="dimmed">{value(of.steps, 3)}/s</Text>}</Table.Td>
                      <Table.Td>{of && of.cpu.length > 0 && !over ? <><Spark values={of.cpu} top={100} label={`CPU of ${r.replica}`} /> {Math.round(of.cpu.at(-1)!)} %</> : `${r.usage.cpuSeconds.toFixed(1)} s`}</Table.Td>
                      <Table.Td>{over ? size(r.usage.peak) : <>{of && <Spark values={of.memory} top={bytes(r.usage.peak)} label={`Memory of ${r.replica}`} />} {size(r.usage.memory)}, {size(r.usage.peak)}</>}</Table.Td>
                      {gpus && <Table.Td>{r.usage.gpuBusy !== undefined && <>{of && <Spark values={of.gpu} top={1} label={`GPUs of ${r.replica}`} />} {Math.round(100 * r.usage.gpuBusy)} %</>}</Table.Td>}
                      <Table.Td title={full(r.heard)}>{!r.heard || r.heard.startsWith("0001") ? "" : over ? when(r.heard) : `${lasting(Math.max(0, Math.round((now - Date.parse(r.heard)) / 1000) * 1000))} ago`}</Table.Td>
                      <Table.Td className="why">{r.reason}{r.oom ? " It reached its memory ceiling." : ""}</Table.Td>
                      <Table.Td>
                        <Menu position="bottom-end" withinPortal>
                          <Menu.Target><ActionIcon variant="default" size={26} aria-label={`More of ${r.replica}`}>⋯</ActionIcon></Menu.Target>
                          <Menu.Dropdown>
                            <Menu.Item onClick={() => void navigate({ search: (s) => ({ ...s, replica: s.replica === r.replica ? undefined : r.replica, line: undefined }) })}>{replica === r.replica ? "Log of all" : "Its log alone"}</Menu.Item>
                            <Menu.Item onClick={() => look({ replica: r.replica, at: "details" })}>Phases and history</Menu.Item>
                            <Menu.Item disabled={over} onClick={() => look({ replica: r.replica, at: "stack" })}>What it does now</Menu.Item>
                            <Menu.Item disabled={over} onClick={() => look({ replica: r.replica, at: "shell" })}>Shell</Menu.Item>
                          </Menu.Dropdown>
                        </Menu>
                      </Table.Td>
                    </Table.Tr>
                  );
                })}
              </Table.Tbody>
            </Table>
          </div>
        )}
      </section>
      <section aria-label="Log">
        <Title order={2} size="h5" mb="xs">Log</Title>
        <Log run={run} replicas={replicas ?? []} />
      </section>
      <Modal opened={looked?.at === "details"} onClose={() => look(undefined)} title={`Phases and history of ${looked?.replica ?? ""}`} size="lg" closeButtonProps={{ "aria-label": "Close" }}>
        {one && <Details job={job} run={run} replica={one} now={now} />}
      </Modal>
      <Modal opened={looked?.at === "stack"} onClose={() => look(undefined)} title={`What ${looked?.replica ?? ""} does now`} size="xl" closeButtonProps={{ "aria-label": "Close" }}>
        {looked?.at === "stack" && <Stacks job={job.id} run={run.id} replica={looked.replica} />}
      </Modal>
      {/* Esc is a key of the shell. */}
      <Modal opened={looked?.at === "shell"} onClose={() => look(undefined)} title={`Shell in ${looked?.replica ?? ""}`} size="xl" closeOnEscape={false} closeOnClickOutside={false} closeButtonProps={{ "aria-label": "Close" }}>
        {looked?.at === "shell" && <Suspense fallback={<Text role="status">Opening…</Text>}><Terminal job={job.id} run={run.id} replica={looked.replica} /></Suspense>}
      </Modal>
    </Stack>
  );
}

/** The phases of a replica as long as they took. */
function Timeline({ all }: { all: Phase[] }) {
  const whole = Math.max(1, all.reduce((n, p) => n + p.to - p.from, 0));
  const width = 140;
  let x = 0;
  return (
    <>
      <svg width={width} height={12} role="img" aria-label={told(all)} style={{ display: "block" }}>
        <title>{told(all)}</title>
        {all.map((p) => {
          const w = Math.max(2, ((p.to - p.from) / whole) * (width - 2 * all.length));
          const from = x;
          x += w + 1;
          return <rect key={p.name} x={from} width={w} height={12} rx={1} fill={`var(--${p.tone})`} />;
        })}
      </svg>
      {all.length > 0 && <Text size="xs" c="dimmed">{all.at(-1)!.name} {lasting(all.at(-1)!.to - all.at(-1)!.from)}</Text>}
    </>
  );
}

function Details({ job, run, replica, now }: { job: Job; run: Run; replica: Replica; now: number }) {
  const events = useQuery(eventsQuery(job.id, run.id, replica.replica));
  const row = (p: Phase, deep: boolean) => <Table.Tr key={p.name}><Table.Td pl={deep ? 28 : undefined}>{p.name}</Table.Td><Table.Td ta="right">{lasting(p.to - p.from)}</Table.Td><Table.Td>{new Date(p.from).toLocaleTimeString()}</Table.Td></Table.Tr>;
  return (
    <Stack>
      <Table aria-label="Phases">
        <Table.Thead><Table.Tr><Table.Th>phase of attempt {replica.epoch}</Table.Th><Table.Th ta="right">took</Table.Th><Table.Th>from</Table.Th></Table.Tr></Table.Thead>
        <Table.Tbody>{phases(replica, run.status.queued, now).flatMap((p) => [row(p, false), ...(p.name === "made ready" ? parts(replica, now).map((q) => row(q, true)) : [])])}</Table.Tbody>
      </Table>
      {replica.failure && <Text size="sm">{replica.failure.error}{replica.failure.file ? ` in ${replica.failure.file}, line ${replica.failure.line}` : ""}</Text>}
      <Text size="sm" fw={600}>{many(Math.max(0, replica.epoch - 1), "restart")}, {many(events.data?.length ?? replica.history?.length ?? 0, "event")}</Text>
      {events.error && <Failed error={events.error} />}
      <ol style={{ margin: 0, paddingLeft: 20 }}>
        {(events.data ?? replica.history ?? []).map((e, i) => <li key={i}><Text size="sm"><time dateTime={e.time} title={e.time}>{new Date(e.time).toLocaleTimeString()}</time> attempt {e.epoch}: <b>{e.status}</b>{e.reason ? `, ${e.reason}` : ""}</Text></li>)}
      </ol>
    </Stack>
  );
}

type Seen = { at: number; epoch: number; used: number; step: number; cpu: number[]; memory: number[]; gpu: number[]; steps: number };
const kept = 60; // measures of each line; one comes every two seconds or so

/** What each replica took lately: percent of a core, bytes, the part of its GPUs, steps a second, from what it says as it comes. */
function useSeen(replicas: Replica[] | undefined): ReadonlyMap<string, Seen> {
  const seen = useRef(new Map<string, Seen>());
  for (const r of replicas ?? []) {
    const was = seen.current.get(r.replica);
    const at = Date.now();
    if (!was || was.epoch !== r.epoch) {
      seen.current.set(r.replica, { at, epoch: r.epoch, used: r.usage.cpuSeconds, step: r.step, cpu: [], memory: [], gpu: [], steps: 0 });
      continue;
    }
    if (at - was.at < 500 || (r.usage.cpuSeconds <= was.used && r.step <= was.step)) continue;
    const push = (to: number[], v: number) => {
      to.push(v);
      if (to.length > kept) to.shift();
    };
    const s = (at - was.at) / 1000;
    push(was.cpu, (100 * (r.usage.cpuSeconds - was.used)) / s);
    push(was.memory, bytes(r.usage.memory));
    if (r.usage.gpuBusy !== undefined) push(was.gpu, r.usage.gpuBusy);
    was.steps = (r.step - was.step) / s;
    [was.at, was.used, was.step] = [at, r.usage.cpuSeconds, r.step];
  }
  return seen.current;
}

function Spark({ values, top, label }: { values: number[]; top: number; label: string }) {
  if (values.length === 0) return null;
  const most = Math.max(top, ...values);
  const d = values.map((v, i) => `${i === 0 ? "M" : "L"}${(i * 60) / Math.max(1, values.length - 1)} ${16 - (15 * v) / most}`).join("");
  return <svg width={60} height={16} role="img" aria-label={label}><path d={values.length > 1 ? d : `${d}h60`} fill="none" stroke="var(--busy)" strokeWidth={1.5} /></svg>;
}

/** The time, each second while something goes on. */
function useSeconds(on: boolean): number {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    if (!on) return;
    const t = setInterval(() => set(Date.now()), 1000);
    return () => clearInterval(t);
  }, [on]);
  return now;
}
