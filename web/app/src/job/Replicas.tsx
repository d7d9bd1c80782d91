import { Button, Modal, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import type { Job, Replica, Run } from "../api/client";
import { useReplicas } from "../api/live";
import { eventsQuery } from "../api/queries";
import { Log } from "../log/Log";
import { Failed } from "../shell/Failed";
import { final, Status } from "../shell/Status";
import { full, lasting, size, when } from "../shell/words";

/** One row for each replica, and what all of them write. */
export default function Replicas({ job, run }: { job: Job; run: Run | undefined }) {
  const replicas = useReplicas(run?.id);
  const { replica } = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const [looked, look] = useState<string>();
  const rates = useRates(replicas);
  const now = useSeconds(replicas?.some((r) => !final(r.status)) ?? false);
  if (!run) return <Text>Replicas begin with the first run.</Text>;
  return (
    <Stack>
      <section aria-label="Replicas">
        {replicas?.length === 0 && <Text size="sm" c="dimmed">None yet. {run.status.reason}</Text>}
        {replicas && replicas.length > 0 && (
          <div className="wide" tabIndex={0} role="region" aria-label="Table of replicas">
            <Table verticalSpacing={4}>
              <Table.Thead>
                <Table.Tr><Table.Th>replica</Table.Th><Table.Th>status</Table.Th><Table.Th ta="right">attempt</Table.Th><Table.Th ta="right">step</Table.Th><Table.Th>CPU</Table.Th><Table.Th ta="right">memory, peak</Table.Th><Table.Th>heard</Table.Th><Table.Th>lasted</Table.Th><Table.Th>why</Table.Th><Table.Th><span style={{ position: "absolute", clip: "rect(0 0 0 0)" }}>more</span></Table.Th></Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {replicas.map((r) => {
                  const rate = rates.get(r.replica);
                  return (
                    <Table.Tr key={r.replica}>
                      <Table.Td style={{ whiteSpace: "nowrap" }}>{r.replica}</Table.Td>
                      <Table.Td><Status of={r.status} /></Table.Td>
                      <Table.Td ta="right">{r.epoch}</Table.Td>
                      <Table.Td ta="right">{r.step.toLocaleString("en")}</Table.Td>
                      <Table.Td style={{ whiteSpace: "nowrap" }}>{rate && !final(r.status) ? <><Spark values={rate} label={`CPU of ${r.replica}`} /> {Math.round(rate.at(-1)!)} %</> : `${r.usage.cpuSeconds.toFixed(1)} s`}</Table.Td>
                      <Table.Td ta="right" style={{ whiteSpace: "nowrap" }}>{final(r.status) ? "" : `${size(r.usage.memory)}, `}{size(r.usage.peak)}</Table.Td>
                      <Table.Td style={{ whiteSpace: "nowrap" }} title={full(r.heard)}>{!r.heard || r.heard.startsWith("0001") ? "" : final(r.status) ? when(r.heard) : `${lasting(Math.max(0, Math.round((now - Date.parse(r.heard)) / 1000) * 1000))} ago`}</Table.Td>
                      <Table.Td style={{ whiteSpace: "nowrap" }}>{r.started ? lasting((r.ended ? Date.parse(r.ended) : now) - Date.parse(r.started)) : ""}</Table.Td>
                      <Table.Td style={{ minWidth: 200 }}>{r.reason}{r.oom ? " It reached its memory ceiling." : ""}</Table.Td>
                      <Table.Td style={{ whiteSpace: "nowrap" }}>
                        <Button size="compact-xs" variant="subtle" onClick={() => look(r.replica)} aria-label={`History: ${r.replica}`}>History</Button>
                        <Button size="compact-xs" variant="subtle" aria-pressed={replica === r.replica} aria-label={replica === r.replica ? "All logs" : `Its log: ${r.replica}`}
                          onClick={() => void navigate({ search: (s) => ({ ...s, replica: s.replica === r.replica ? undefined : r.replica, line: undefined }) })}>{replica === r.replica ? "All logs" : "Its log"}</Button>
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
      <Modal opened={!!looked} onClose={() => look(undefined)} title={`History of ${looked ?? ""}`} size="lg" closeButtonProps={{ "aria-label": "Close" }}>
        {looked && <History job={job} run={run} replica={looked} />}
      </Modal>
    </Stack>
  );
}

function History({ job, run, replica }: { job: Job; run: Run; replica: string }) {
  const events = useQuery(eventsQuery(job.id, run.id, replica));
  if (events.error) return <Failed error={events.error} />;
  return (
    <ol style={{ margin: 0, paddingLeft: 20 }}>
      {(events.data ?? []).map((e, i) => <li key={i}><Text size="sm"><time dateTime={e.time} title={e.time}>{new Date(e.time).toLocaleTimeString()}</time> attempt {e.epoch}: <b>{e.status}</b>{e.reason ? `, ${e.reason}` : ""}</Text></li>)}
    </ol>
  );
}

/** Percent of a core that each replica took, of the last two minutes: from CPU seconds as they come. */
function useRates(replicas: Replica[] | undefined): Map<string, number[]> {
  const seen = useRef(new Map<string, { at: number; cpu: number; epoch: number; rates: number[] }>());
  for (const r of replicas ?? []) {
    const was = seen.current.get(r.replica);
    const at = Date.now();
    if (!was || was.epoch !== r.epoch) seen.current.set(r.replica, { at, cpu: r.usage.cpuSeconds, epoch: r.epoch, rates: [] });
    else if (r.usage.cpuSeconds > was.cpu && at - was.at > 500) {
      was.rates.push((100_000 * (r.usage.cpuSeconds - was.cpu)) / (at - was.at));
      if (was.rates.length > 60) was.rates.shift();
      [was.at, was.cpu] = [at, r.usage.cpuSeconds];
    }
  }
  return new Map([...seen.current].filter(([, s]) => s.rates.length > 0).map(([name, s]) => [name, s.rates]));
}

function Spark({ values, label }: { values: number[]; label: string }) {
  const top = Math.max(100, ...values);
  const d = values.map((v, i) => `${i === 0 ? "M" : "L"}${(i * 60) / Math.max(1, values.length - 1)} ${16 - (15 * v) / top}`).join("");
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
