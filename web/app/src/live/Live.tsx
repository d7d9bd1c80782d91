import { Badge, Button, Group, PasswordInput, Stack, Table, Text, TextInput, Title } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import type { Variable } from "../api/client";
import { Failed } from "../shell/Failed";
import { when } from "../shell/words";
import type { Kernel } from "./kernel";
import type { Execution } from "./outputs";
import { Shown } from "./Rich";

const tones: Record<string, string> = { idle: "green", busy: "blue", starting: "blue", queued: "yellow", dead: "red", stopped: "gray", none: "gray" };
const words: Record<string, string> = { none: "not started", dead: "died, begins again" };

/** What the kernel of the job says, beside the code: it goes on while nobody looks, and is all here when somebody does. */
export function Live({ kernel, to }: { kernel: Kernel; to: (file: string, line: number) => void }) {
  const { state, reason, executions, variables, input, busy, error, act } = kernel;
  const live = ["idle", "busy", "starting", "queued", "dead"].includes(state);
  const end = useRef<HTMLDivElement>(null);
  const newest = executions.at(-1);
  useEffect(() => {
    void end.current?.scrollIntoView({ block: "nearest" }); // newer browsers answer a promise, which is no end of an effect
  }, [newest?.id, newest?.outputs]);
  return (
    <section aria-label="Live output" className="live">
      <Group gap="xs" mb={6}>
        <Title order={2} size="h5">Live</Title>
        <Badge variant="outline" color={tones[state] ?? "gray"} role="status" className="kernel">{words[state] ?? state}</Badge>
        <Button size="compact-xs" variant="default" disabled={state !== "busy"} onClick={() => act("interrupt")}>Interrupt</Button>
        <Button size="compact-xs" variant="default" disabled={!live} onClick={() => act("restart")}>Restart</Button>
        {live ? <Button size="compact-xs" variant="default" onClick={() => act("stop")}>Stop</Button> : <Button size="compact-xs" variant="default" loading={busy} onClick={() => act("start")}>Start</Button>}
      </Group>
      {reason && state !== "idle" && state !== "busy" && <Text size="xs" c="dimmed" mb={6}>{reason}</Text>}
      {error && <Failed error={error} />}
      <div className="executions" role="log" aria-label="What was executed" tabIndex={0}>
        {executions.length === 0 && <Text size="sm" c="dimmed">Ctrl+Enter runs the selection or the cell (from one # %% to the next) in a Python that stays; Shift+Ctrl+Enter the whole file.</Text>}
        {executions.map((x) => <One key={x.id} of={x} to={to} />)}
        {input && <Answer key={`${input.execution} ${input.prompt}`} prompt={input.prompt} password={input.password} say={(value) => act("input", value)} />}
        <div ref={end} />
      </div>
      <Variables all={variables} />
    </section>
  );
}

const states: Record<string, string> = { queued: "waits", running: "runs", ok: "done", error: "failed", interrupted: "interrupted", lost: "lost" };

function One({ of: x, to }: { of: Execution; to: (file: string, line: number) => void }) {
  const name = `${x.path ?? "Code"}${x.line ? `, line ${x.line}` : ""}`;
  const first = (x.code ?? "").split("\n").find((l) => l.trim() !== "") ?? "";
  return (
    <article aria-label={name} className="execution" data-state={x.state}>
      <Group gap={6} className="of">
        {x.path && x.line ? <button type="button" className="frame" onClick={() => to(x.path!, x.line!)}>{x.path}:{x.line}</button> : null}
        <code>{first.slice(0, 80)}</code>
        <Text size="xs" c="dimmed">{states[x.state] ?? x.state}{x.time ? `, ${when(x.time)}` : ""}</Text>
      </Group>
      {x.outputs.map((o, i) => <Shown key={i} output={o} name={name} to={to} />)}
      {x.error && !x.outputs.some((o) => o.type === "error") && <Text size="sm" className="bad">{x.error}</Text>}
    </article>
  );
}

/** What a program asks its user. */
function Answer({ prompt, password, say }: { prompt: string; password: boolean; say: (value: string) => void }) {
  const [value, set] = useState("");
  const Field = password ? PasswordInput : TextInput;
  return (
    <form onSubmit={(e) => { e.preventDefault(); say(value); set(""); }}>
      <Group align="end" gap="xs"><Field autoFocus size="xs" label={prompt || "The program asks"} value={value} onChange={(e) => set(e.currentTarget.value)} style={{ flex: 1 }} /><Button size="xs" type="submit">Answer</Button></Group>
    </form>
  );
}

function Variables({ all }: { all: Variable[] }) {
  if (all.length === 0) return null;
  return (
    <details className="variables">
      <summary>{all.length} {all.length === 1 ? "variable" : "variables"}</summary>
      <div className="wide" tabIndex={0} role="region" aria-label="Variables">
        <Table fz="xs" verticalSpacing={2}>
          <Table.Thead><Table.Tr><Table.Th>Name</Table.Th><Table.Th>Type</Table.Th><Table.Th>Shape</Table.Th><Table.Th>Value</Table.Th></Table.Tr></Table.Thead>
          <Table.Tbody>
            {all.map((v) => <Table.Tr key={v.name}><Table.Td>{v.name}</Table.Td><Table.Td>{v.type}{v.dtype ? ` ${v.dtype}` : ""}</Table.Td><Table.Td>{v.shape ? v.shape.join(" × ") : (v.size ?? "")}</Table.Td><Table.Td><Stack gap={0}><code>{v.repr}</code></Stack></Table.Td></Table.Tr>)}
          </Table.Tbody>
        </Table>
      </div>
    </details>
  );
}
