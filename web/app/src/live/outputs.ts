// What a kernel said, put together: a pure function from what was known and
// what was heard, as those of api/topics.ts.
import type { Event } from "../api/hub";
import type { Variable } from "../api/client";
import { typed } from "./ansi";

export type Frame = { file: string; line: number; function?: string };
export type Output =
  | { type: "text"; name: string; text: string; left: boolean } // left: the beginning is no longer kept here
  | { type: "data"; data: Record<string, unknown>; display?: string | undefined }
  | { type: "error"; error: string; value: string; traceback: string[]; file?: string | undefined; line?: number | undefined; frames: Frame[] };

export type Execution = {
  id: string;
  state: string;
  code?: string | undefined;
  path?: string | undefined;
  line?: number | undefined;
  cell?: string | undefined;
  error?: string | undefined;
  time?: string | undefined;
  outputs: Output[];
  clear: boolean; // the next output takes the place of all
};

export type Said = {
  state?: string;
  reason?: string;
  executions: Execution[]; // oldest first
  variables: Variable[];
  input?: { execution: string; prompt: string; password: boolean } | undefined;
};

/** An event of a kernel, as the API has it. */
export type KernelEvent = {
  seq?: number; time?: string; execution?: string; type: string;
  state?: string; reason?: string; code?: string; path?: string; line?: number; cell?: string;
  name?: string; text?: string; data?: Record<string, unknown>; display?: string; wait?: boolean;
  error?: string; value?: string; traceback?: string[]; file?: string; frames?: Frame[];
  prompt?: string; password?: boolean; variables?: Variable[];
};

export const keptExecutions = 200, keptText = 200_000, keptOutputs = 300;

const over = (state: string) => state !== "queued" && state !== "running";

export function said(known: Said | undefined, heard: Event[]): Said {
  const now: Said = { ...(known ?? { executions: [], variables: [] }) };
  now.executions = now.executions.slice();
  const at = new Map(now.executions.map((x, i) => [x.id, i]));
  const mine = new Set<string>();
  /** The execution, to be changed. */
  const of = (id: string, time?: string): Execution => {
    let i = at.get(id);
    if (i === undefined) {
      i = now.executions.push({ id, state: "queued", time, outputs: [], clear: false }) - 1;
      at.set(id, i);
    } else if (!mine.has(id)) now.executions[i] = { ...now.executions[i]!, outputs: now.executions[i]!.outputs.slice() };
    mine.add(id);
    return now.executions[i]!;
  };
  const put = (x: Execution, o: Output) => {
    if (x.clear) [x.outputs, x.clear] = [[], false];
    const last = x.outputs.at(-1);
    if (o.type === "text" && last?.type === "text" && last.name === o.name) {
      const text = typed(last.text, o.text);
      x.outputs[x.outputs.length - 1] = { ...last, text: text.slice(-keptText), left: last.left || text.length > keptText };
    } else if (x.outputs.length < keptOutputs) x.outputs.push(o.type === "text" ? { ...o, text: typed("", o.text) } : o);
  };
  for (const e of heard) {
    if (e.type === "reset" || e.type === "snapshot") {
      [now.executions, now.variables, now.input] = [[], [], undefined];
      at.clear();
      mine.clear();
    }
    if (e.type !== "delta" && e.type !== "snapshot") continue;
    for (const k of (e.data ?? []) as KernelEvent[]) take(now, k, of, put);
  }
  if (now.executions.length > keptExecutions) now.executions = now.executions.slice(-keptExecutions);
  return now;
}

function take(now: Said, k: KernelEvent, of: (id: string, time?: string) => Execution, put: (x: Execution, o: Output) => void) {
  if (k.type === "kernel") {
    if (k.state) now.state = k.state;
    now.reason = k.reason ?? "";
    if (k.state === "starting" || k.state === "dead") now.variables = [];
    if (k.state !== "busy") now.input = undefined;
    return;
  }
  if (k.type === "variables") {
    now.variables = k.variables ?? [];
    return;
  }
  if (!k.execution) return;
  const x = of(k.execution, k.time);
  switch (k.type) {
    case "execution":
      x.state = k.state ?? x.state;
      x.error = k.error ?? x.error;
      x.code = k.code ?? x.code;
      x.path = k.path ?? x.path;
      x.line = k.line ?? x.line;
      x.cell = k.cell ?? x.cell;
      if (over(x.state) && now.input?.execution === x.id) now.input = undefined;
      break;
    case "stream":
      put(x, { type: "text", name: k.name ?? "stdout", text: k.text ?? "", left: false });
      break;
    case "display":
    case "result":
      put(x, { type: "data", data: k.data ?? {}, display: k.display });
      break;
    case "update":
      for (const e of now.executions) {
        const i = e.outputs.findIndex((o) => o.type === "data" && o.display === k.display);
        if (i >= 0) of(e.id).outputs[i] = { type: "data", data: k.data ?? {}, display: k.display };
      }
      break;
    case "clear":
      if (k.wait) x.clear = true;
      else x.outputs = [];
      break;
    case "error":
      put(x, { type: "error", error: k.error ?? "", value: k.value ?? "", traceback: k.traceback ?? [], file: k.file, line: k.line, frames: k.frames ?? [] });
      break;
    case "input":
      now.input = { execution: k.execution, prompt: k.prompt ?? "", password: k.password ?? false };
  }
}

/** The error of the newest execution of a file, if it had one there. */
export function failureIn(executions: Execution[], path: string): { line: number; says: string }[] {
  const newest = executions.findLast((x) => x.path === path);
  for (const o of newest?.outputs ?? []) {
    if (o.type !== "error") continue;
    const at = o.frames.findLast((f) => f.file === path) ?? (o.file === path && o.line ? { line: o.line } : undefined);
    if (at) return [{ line: at.line, says: `${o.error}: ${o.value.split("\n")[0]}` }];
  }
  return [];
}
