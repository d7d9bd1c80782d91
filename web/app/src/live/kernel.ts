// The kernel of a job: what it said, and what it is told.
import { autocompletion, type CompletionContext, type CompletionResult } from "@codemirror/autocomplete";
import type { Extension } from "@codemirror/state";
import { hoverTooltip } from "@codemirror/view";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useMemo } from "react";
import { answer, api, type KernelState, type Variable } from "../api/client";
import { newKey } from "../api/key";
import { useSaid } from "../api/live";
import { executionsQuery, kernelQuery } from "../api/queries";
import { spans } from "./ansi";
import type { Execution, Said } from "./outputs";

export type Kernel = {
  state: string;
  reason: string;
  executions: Execution[];
  variables: Variable[];
  input: Said["input"];
  busy: boolean;
  error: Error | null;
  act: (what: "start" | "stop" | "restart" | "interrupt" | "input", value?: string) => void;
  /** Has code executed; the kernel is started where none lives. */
  execute: (ask: { code: string; path?: string; line?: number; cell?: string; version?: string }) => Promise<unknown>;
};

const of = (id: string) => ({ params: { path: { id } } });

/** The kernel of a job. What it says is heard from its beginning, so a reload shows all. */
export function useKernel(job: string): Kernel {
  const cache = useQueryClient();
  const view = useQuery(kernelQuery(job));
  const run = view.data?.run || undefined;
  const said = useSaid(run);
  const queue = useQuery({ ...executionsQuery(job), enabled: !!run });
  const fresh = (k: KernelState) => {
    cache.setQueryData(kernelQuery(job).queryKey, k);
    void cache.invalidateQueries({ queryKey: ["executions", job] });
  };
  const act = useMutation({
    mutationFn: async ({ what, value }: { what: "start" | "stop" | "restart" | "interrupt" | "input"; value: string }) => {
      switch (what) {
        case "start": return answer(api.POST("/api/job/{id}/kernel", { ...of(job), body: {} }));
        case "stop": return answer(api.POST("/api/job/{id}/kernel/stop", of(job)));
        case "restart": return answer(api.POST("/api/job/{id}/kernel/restart", of(job)));
        case "interrupt": return answer(api.POST("/api/job/{id}/kernel/interrupt", of(job)));
        case "input": return answer(api.POST("/api/job/{id}/kernel/input", { ...of(job), body: { value } }));
      }
    },
    onSuccess: fresh,
  });
  const execute = useMutation({
    mutationFn: (ask: { code: string; path?: string; line?: number; cell?: string; version?: string }) =>
      answer(api.POST("/api/job/{id}/kernel/execute", { params: { path: { id: job }, header: { "Idempotency-Key": newKey() } }, body: ask })),
    retry: 2,
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["kernel", job] });
      void cache.invalidateQueries({ queryKey: ["executions", job] });
    },
  });
  const executions = useMemo(() => {
    const known = said?.executions ?? [];
    const there = new Set(known.map((x) => x.id));
    const asked = new Map((queue.data ?? []).map((x) => [x.id, x]));
    const waiting = (queue.data ?? []).filter((x) => !there.has(x.id)).reverse();
    return [
      ...known.map((x) => {
        const record = asked.get(x.id);
        return record ? { ...x, code: x.code ?? record.code, path: x.path ?? record.path, line: x.line ?? record.line, cell: x.cell ?? record.cell, ...(record.state === "lost" && { state: "lost", error: record.error }) } : x;
      }),
      ...waiting.map((x): Execution => ({ id: x.id, state: x.state, code: x.code, path: x.path, line: x.line, cell: x.cell, error: x.error, time: x.created, outputs: [], clear: false })),
    ];
  }, [said?.executions, queue.data]);
  // What the kernel itself says is newer than what was asked, while its run lives.
  const asked = view.data?.state ?? "none";
  const state = ["none", "queued", "stopped"].includes(asked) ? asked : (said?.state ?? asked);
  return {
    state, reason: said?.reason || view.data?.reason || "", executions, variables: said?.variables ?? [], input: said?.input,
    busy: act.isPending || execute.isPending, error: act.error ?? execute.error ?? view.error,
    act: (what, value = "") => act.mutate({ what, value }), execute: execute.mutateAsync,
  };
}

/** What a live kernel knows of names: to complete them, and to say what they are. */
export function knows(job: string): Extension {
  const complete = async (c: CompletionContext): Promise<CompletionResult | null> => {
    const word = c.matchBefore(/[\w.]+$/);
    if (!c.explicit && (!word || (word.text.length < 2 && !word.text.endsWith(".")))) return null;
    const line = c.state.doc.lineAt(c.pos);
    try {
      const got = await answer(api.POST("/api/job/{id}/kernel/complete", { ...of(job), body: { code: line.text, cursor: c.pos - line.from } }));
      const from = line.from + got.start;
      return { from, to: line.from + got.end, validFor: /^\w*$/, options: got.matches.map((m) => ({ label: m.text, type: m.type === "instance" || m.type === "statement" ? "variable" : m.type })) };
    } catch {
      return null; // it has ended meanwhile: there is nothing to say
    }
  };
  const hover = hoverTooltip(async (view, pos) => {
    const word = view.state.wordAt(pos);
    if (!word) return null;
    const line = view.state.doc.lineAt(pos);
    const got = await answer(api.POST("/api/job/{id}/kernel/inspect", { ...of(job), body: { code: line.text, cursor: word.to - line.from } })).catch(() => undefined);
    if (!got?.found) return null;
    return {
      pos: word.from, end: word.to, above: true,
      create: () => {
        const dom = document.createElement("pre");
        dom.className = "cm-known";
        dom.textContent = spans(got.text).map((s) => s.text).join("").slice(0, 4000);
        return { dom };
      },
    };
  });
  return [autocompletion({ override: [complete] }), hover];
}
