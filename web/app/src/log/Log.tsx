import { Alert, Button, Group, Select, Switch, Text, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useDebouncedCallback } from "@mantine/hooks";
import { useEffect, useMemo, useRef, useState } from "react";
import { lines as readLines, type Line, type Replica, type Run } from "../api/client";
import { useLog } from "../api/live";
import { linesQuery } from "../api/queries";
import { natural } from "../api/topics";
import { typing } from "../shell/Shell";
import { useShortcuts } from "../shell/Shortcuts";
import { many } from "../shell/words";
import { errors, level, warnings } from "./levels";

const levels = [
  { value: "all", label: "every line" },
  { value: "error", label: "errors" },
  { value: "warning", label: "warnings and errors" },
  { value: "stderr", label: "standard error" },
  { value: "platform", label: "the platform's" },
] as const;

const around = 300; // lines before the one that a link leads to

/** What a run writes: followed live, or a place of it that was jumped to. Search and levels stay live. */
export function Log({ run, replicas }: { run: Run; replicas: Replica[] }) {
  const search = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const set = (to: Partial<typeof search>, replace = true) => void navigate({ search: (s) => ({ ...s, ...to }), replace });
  const [words, setWords] = useState(search.q ?? "");
  useEffect(() => setWords(search.q ?? ""), [search.q]);
  const look = useDebouncedCallback((q: string) => set({ q: q || undefined, line: undefined }), 250); // who types is not done
  const grep = search.q;
  const [follow, setFollow] = useState(true);
  const { on } = useShortcuts();

  // The platform searches; where it searches for words already, levels are told here.
  const byLevel = search.level === "error" ? errors : search.level === "warning" ? `${warnings}|${errors}` : undefined;
  const { log, refused } = useLog(run.id, { replica: search.replica, grep: grep || byLevel });
  const place = Number(search.line ?? 0);
  const there = useQuery({ ...linesQuery(run.id, { from: String(Math.max(1, place - around)), limit: "2000", ...(search.replica && { replica: search.replica }) }), enabled: place > 0 });
  const shown = useMemo(() => {
    const all = place > 0 ? (there.data ?? []) : (log?.lines ?? []);
    if (!search.level || place > 0) return all;
    return all.filter((l) =>
      search.level === "error" ? level(l.line) === "error" : search.level === "warning" ? level(l.line) !== "" : search.level === "stderr" ? l.stream === "stderr" : l.stream === "platform" || l.stream === "container");
  }, [log, place, search.level, there.data]);

  const jump = useMutation({
    mutationFn: async (query: Record<string, string>) => {
      const [first] = await readLines(run.id, { ...query, limit: "1", ...(search.replica && { replica: search.replica }) });
      if (!first) throw new Error("No line is like this.");
      return first;
    },
    onSuccess: (l) => set({ line: String(l.cursor) }, false),
    onError: (e) => notifications.show({ message: e.message }),
  });
  const download = useMutation({ mutationFn: () => save(run, search.replica), onError: (e) => notifications.show({ color: "red", title: "The log was not saved", message: e.message }) });
  const rate = useRate(log?.lines.at(-1)?.cursor);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (!on) return;
    const press = (e: KeyboardEvent) => {
      if (e.ctrlKey || e.metaKey || e.altKey || typing(e.target) || document.querySelector("[role=dialog]")) return;
      if (e.key === "/") field.current?.focus();
      else if (e.key === "f") {
        set({ line: undefined });
        setFollow(true);
      } else if (e.key === "e") jump.mutate({ grep: errors });
      else return;
      e.preventDefault();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  });

  return (
    <>
      <Group gap="xs" align="end" mb="xs">
        <Select label="Of" size="xs" w={130} allowDeselect={false} value={search.replica ?? ""} data={[{ value: "", label: "every replica" }, ...replicas.map((r) => ({ value: r.replica, label: r.replica }))]} onChange={(v) => set({ replica: v || undefined, line: undefined })} />
        <Select label="Show" size="xs" w={160} allowDeselect={false} value={search.level ?? "all"} data={levels} onChange={(v) => set({ level: v === "all" ? undefined : (v as typeof search.level), line: undefined })} />
        <TextInput ref={field} label="Search" size="xs" style={{ flex: "1 1 160px" }} placeholder="words, or a regular expression" value={words} error={refused} onChange={(e) => {
          setWords(e.currentTarget.value);
          look(e.currentTarget.value);
        }} />
        <TextInput label="Jump to time" size="xs" w={130} placeholder="14:03:20 or 10m" onKeyDown={(e) => {
          if (e.key === "Enter" && e.currentTarget.value) jump.mutate({ since: moment(e.currentTarget.value, run.created) });
        }} />
        <Button size="xs" variant="default" onClick={() => set({ line: "1" }, false)}>Start</Button>
        <Button size="xs" variant="default" loading={jump.isPending} onClick={() => jump.mutate({ grep: errors })}>First error</Button>
        <Button size="xs" variant="default" loading={download.isPending} onClick={() => download.mutate()}>Download</Button>
        <Switch size="xs" label="Follow" checked={follow && place === 0} mb={6} onChange={(e) => {
          setFollow(e.currentTarget.checked);
          if (e.currentTarget.checked) set({ line: undefined });
        }} />
      </Group>
      {place > 0 && (
        <Alert variant="outline" color="yellow" py={6} mb="xs">
          <Group justify="space-between"><Text size="sm">You look at a place of the log, around line {place.toLocaleString("en")}.</Text><Button size="compact-xs" variant="default" onClick={() => set({ line: undefined })}>Back to what comes now</Button></Group>
        </Alert>
      )}
      <Lines lines={shown} replicas={replicas} at={place} follow={follow && place === 0} setFollow={setFollow} select={(l) => set({ line: String(l.cursor) }, false)} dropped={place > 0 ? 0 : (log?.left ?? 0)} />
      <Text size="xs" c="dimmed" mt={4}>
        {shown.length === 0 ? (log || there.data ? "No line yet that is like this." : "Asking for the log…") : `${many(shown.length, "line")} here, up to number ${shown.at(-1)!.cursor.toLocaleString("en")}${rate > 0 && place === 0 ? `; ${many(rate, "line")} a second come` : ""}.${log && log.left > 0 && place === 0 ? " Earlier ones are kept by the platform: Start, or Download." : ""}`}
      </Text>
    </>
  );
}

/** How many lines a second come, of the last seconds; 0 where that is few. */
function useRate(last: number | undefined): number {
  const now = useRef(last ?? 0);
  now.current = last ?? 0;
  const [rate, setRate] = useState(0);
  useEffect(() => {
    let before = now.current, at = performance.now();
    const t = setInterval(() => {
      const n = before > 0 ? Math.round((1000 * (now.current - before)) / (performance.now() - at)) : 0;
      [before, at] = [now.current, performance.now()];
      setRate(n >= 100 ? n : 0);
    }, 1000);
    return () => clearInterval(t);
  }, []);
  return rate;
}

const height = 20; // of a line, in pixels; page.css has the same

function Lines({ lines, replicas, at, follow, setFollow, select, dropped }: {
  lines: Line[]; replicas: Replica[]; at: number; follow: boolean; setFollow: (on: boolean) => void; select: (l: Line) => void; dropped: number;
}) {
  const box = useRef<HTMLDivElement>(null);
  const list = useVirtualizer({ count: lines.length, getScrollElement: () => box.current, estimateSize: () => height, overscan: 20, getItemKey: (i) => lines[i]!.cursor });
  const lanes = useMemo(() => new Map([...new Set([...replicas.map((r) => r.replica), ...lines.slice(-2000).map((l) => l.replica)])].sort(natural).map((r, i) => [r, i % 6])), [lines, replicas]);

  // Who follows stays at the end; for who reads, the lines stay where they are
  // although old ones leave.
  const before = useRef(dropped);
  useEffect(() => {
    const e = box.current;
    if (!e) return;
    if (follow) e.scrollTop = e.scrollHeight;
    else if (dropped > before.current) e.scrollTop -= (dropped - before.current) * height;
    before.current = dropped;
  }, [lines, follow, dropped]);
  const found = at > 0 ? lines.findIndex((l) => l.cursor >= at) : -1;
  useEffect(() => {
    if (found >= 0) list.scrollToIndex(found, { align: "center" });
  }, [found, list]);

  return (
    <div ref={box} className="log" role="log" aria-live="off" aria-label="Log of the run" tabIndex={0} style={{ height: "min(60vh, 720px)", minHeight: 200 }}
      onScroll={(e) => {
        const { scrollHeight, scrollTop, clientHeight } = e.currentTarget;
        const end = scrollHeight - scrollTop - clientHeight < 2 * height;
        if (follow && !end && e.nativeEvent.isTrusted && recent(e.currentTarget)) setFollow(false);
        else if (!follow && at === 0 && end) setFollow(true);
      }}
      onWheel={(e) => { e.currentTarget.dataset.moved = String(Date.now()); }}
      onTouchMove={(e) => { e.currentTarget.dataset.moved = String(Date.now()); }}
      onPointerDown={(e) => { e.currentTarget.dataset.moved = String(Date.now()); }}
      onKeyDown={(e) => { e.currentTarget.dataset.moved = String(Date.now()); }}>
      <div style={{ height: list.getTotalSize(), position: "relative" }}>
        {list.getVirtualItems().map((v) => {
          const l = lines[v.index]!;
          return (
            <div key={v.key} className="line" data-stream={l.stream} data-level={level(l.line)} data-at={l.cursor === at} style={{ transform: `translateY(${v.start}px)` }}>
              <button type="button" className="when" tabIndex={-1} title={`Line ${l.cursor}, ${l.time ?? "no time"}: a link to it`} onClick={() => select(l)}>{l.time ? clock(l.time) : ""}</button>
              <span className="where" style={{ color: `var(--lane-${lanes.get(l.replica) ?? 0})` }}>{l.replica}</span>
              <span className="what">{l.line}</span>
            </div>
          );
        })}
      </div>
    </div>
  );
}

/** Whether the user, and not a change of the log, has moved what is seen. */
const recent = (e: HTMLElement) => Date.now() - Number(e.dataset.moved ?? 0) < 1000;

const clock = (time: string) => {
  const t = new Date(time);
  return `${t.toLocaleTimeString(undefined, { hour12: false })}.${String(t.getMilliseconds()).padStart(3, "0")}`;
};

/** "14:03:20" as a time of the day on which the run was; the rest is the platform's to read. */
function moment(text: string, created: string): string {
  const [, h, m, s] = /^(\d{1,2}):(\d{2})(?::(\d{2}))?$/.exec(text.trim()) ?? [];
  if (!h) return text.trim();
  const t = new Date(created);
  t.setHours(Number(h), Number(m), Number(s ?? 0), 0);
  return t.toISOString();
}

/** Saves every line, as text. */
async function save(run: Run, replica: string | undefined) {
  const parts: string[] = [];
  for (let from = 1; ;) {
    const page = await readLines(run.id, { from: String(from), limit: "10000", ...(replica && { replica }) });
    if (page.length === 0) break;
    parts.push(page.map((l) => `${l.time ?? ""} ${l.replica} ${l.line}\n`).join(""));
    from = page.at(-1)!.cursor + 1;
  }
  const a = document.createElement("a");
  a.href = URL.createObjectURL(new Blob(parts, { type: "text/plain" }));
  a.download = `${run.jobName}-${run.number}${replica ? `-${replica}` : ""}.log`;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 60_000);
}
