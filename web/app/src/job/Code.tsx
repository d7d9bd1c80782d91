import { Alert, Anchor, Button, Group, Popover, SegmentedControl, Select, Stack, Text, TextInput, Title } from "@mantine/core";
import { useLocalStorage, useSessionStorage } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import type { EditorView } from "@codemirror/view";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { answer, api, Problem, type Draft, type Job, type Run } from "../api/client";
import { newKey } from "../api/key";
import { useDraft, useLive, useReplicas } from "../api/live";
import { contentQuery, docQuery, preparedQuery, versionsQuery } from "../api/queries";
import { natural } from "../api/topics";
import { useStart, useStop } from "../jobs/actions";
import { Log } from "../log/Log";
import { Failed } from "../shell/Failed";
import { final, Status } from "../shell/Status";
import { when } from "../shell/words";
import { failureIn } from "../live/outputs";
import { knows, useKernel } from "../live/kernel";
import { Live } from "../live/Live";
import { laneOf, type Kept, type Together } from "./collab";
import { Editor, pieceOf } from "./Editor";
import type { Piece } from "./cells";
import { Files } from "./Files";

/** A word by which the edits of one editor are known; nobody has to guess it. */
const word = () => Math.random().toString(36).slice(2, 12);

/**
 * The code of a job: its draft, which everybody edits together and the platform
 * keeps, and its versions, which never change. Saving makes the next version.
 */
export default function Code({ job, run }: { job: Job; run: Run | undefined }) {
  const search = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const set = useCallback((to: Partial<typeof search>) => void navigate({ search: (s) => ({ ...s, ...to }), replace: true }), [navigate]);
  const cache = useQueryClient();
  const { hub } = useLive();
  const { draft, refused } = useDraft(job.id);
  const versions = useQuery(versionsQuery(job.id));
  const newest = draft?.newest ?? versions.data?.[0]?.number ?? job.versions;
  useEffect(() => void cache.invalidateQueries({ queryKey: ["versions", job.id] }), [cache, job.id, newest]);

  // What is looked at: the draft, or a version that is not what the draft is.
  const asked = Number(search.v) || undefined;
  const number = asked && !(draft && !draft.changed && draft.base === asked) ? asked : refused ? newest : undefined;
  const edits = number === undefined && draft !== undefined;
  const content = useQuery({ ...contentQuery(job.id, `v${number ?? 0}`), enabled: !!number });
  const files = useMemo(
    () => (edits ? draft.files.map((f) => ({ path: f.path, change: f.change })) : (content.data?.files ?? []).map((f) => ({ path: f.path }))).sort((a, b) => natural(a.path, b.path)),
    [edits, draft, content.data],
  );
  const entry = edits ? (files.find((f) => f.path === "main.py") ?? files[0])?.path : content.data?.entry;
  const path = search.file && files.some((f) => f.path === search.file) ? search.file : (entry ?? files[0]?.path);
  const changed = (d: Draft) => cache.setQueryData<Draft>(["topic", { topic: "draft", job: job.id }], (known) => (known && known.changes > d.changes ? known : d));

  // The text that is edited, and how far what is typed has come.
  const [opening, again] = useState(0);
  const doc = useQuery({ ...docQuery(job.id, path ?? "", opening), enabled: edits && path !== undefined });
  const [kept, setKept] = useState<Kept>("kept");
  const waiters = useRef<{ state: Kept; all: ((state: Kept) => void)[] }>({ state: "kept", all: [] });
  const [name, setName] = useLocalStorage({ key: "mlaas-name", defaultValue: "", getInitialValueInEffect: false });
  const called = useRef("");
  called.current = name || "Somebody";
  const here = doc.data?.path === path ? doc.data : undefined;
  const together = useMemo<Together | undefined>(() => here && {
    job: job.id, doc: here, client: word(), hub,
    name: () => called.current,
    kept: (state) => {
      setKept(state);
      waiters.current.state = state;
      if (state !== "going") for (const f of waiters.current.all.splice(0)) f(state);
    },
    lost: (why, unsent) => {
      if (why !== "gone") again((n) => n + 1); // else there is nothing to open: the list of files says so in a moment
      setKept("kept");
      waiters.current.state = "kept";
      if (unsent === undefined) return;
      const copy = `${here.path}.mine-${word().slice(0, 4)}`;
      const say = why === "gone" ? `${here.path} was removed by somebody while you edited it` : `Too much was edited in ${here.path} while you were away`;
      answer(api.POST("/api/job/{id}/draft/file", { params: { path: { id: job.id } }, body: { path: copy, text: unsent } })).then(
        () => notifications.show({ color: "yellow", title: say, message: `What you typed is in ${copy}.`, autoClose: false }),
        (e: Error) => notifications.show({ color: "red", title: say, message: `What you typed could not be kept: ${e.message}`, autoClose: false }),
      );
    },
  }, [here, job.id, hub]);
  /** Waits until the platform has what was typed. */
  const settled = () => new Promise<void>((resolve, reject) => {
    const end = (state: Kept) => (state === "kept" ? resolve() : reject(new Problem("The last that you typed has not reached the platform yet. It is sent as soon as the connection is back; save then.", 0, "It was not saved")));
    if (waiters.current.state === "going") waiters.current.all.push(end);
    else end(waiters.current.state);
  });
  useEffect(() => {
    const leave = (e: BeforeUnloadEvent) => waiters.current.state !== "kept" && e.preventDefault();
    window.addEventListener("beforeunload", leave);
    return () => window.removeEventListener("beforeunload", leave);
  });

  // Versions of it.
  const of = { params: { path: { id: job.id } } };
  const save = useMutation({
    mutationFn: async () => {
      await settled();
      return answer(api.POST("/api/job/{id}/draft/save", { ...of, body: {} }));
    },
    onSuccess: (saved) => {
      changed(saved.draft);
      void cache.invalidateQueries({ queryKey: ["versions", job.id] });
      void cache.invalidateQueries({ queryKey: ["job"] });
      if (saved.between) notifications.show({ color: "yellow", title: `v${saved.between} came meanwhile`, message: `Yours is v${saved.version.number}; v${saved.between} is kept beside it. Compare them under Changes.`, autoClose: 15_000 });
    },
  });
  const reset = useMutation({
    mutationFn: async (to: number) => {
      await settled();
      const saved = to !== draft?.base && draft?.changed ? await answer(api.POST("/api/job/{id}/draft/save", { ...of, body: {} })) : undefined; // so that nothing is lost
      changed(await answer(api.POST("/api/job/{id}/draft/reset", { ...of, body: { version: `v${to}` } })));
      return saved?.version.number;
    },
    onSuccess: (saved) => {
      if (saved) notifications.show({ message: `What was edited is kept as v${saved}.`, autoClose: 10_000 });
      set({ v: undefined });
    },
  });
  const merge = useMutation({
    mutationFn: async (keep: boolean) => {
      await settled();
      return answer(api.POST("/api/job/{id}/draft/merge", { ...of, body: { version: `v${draft?.came ?? 0}`, keep } }));
    },
    onSuccess: (m) => {
      changed(m.draft);
      for (const say of m.says) notifications.show({ color: "yellow", title: "Both changed this", message: say, autoClose: false });
    },
  });
  const came = draft?.came, follows = !!came && !draft.changed && edits;
  const follow = reset.mutate;
  useEffect(() => {
    if (follows) follow(came); // nothing is edited here: the newest is what is shown
  }, [follows, came, follow]);

  const start = useStart();
  const stop = useStop();
  const dirty = edits && draft.changed;
  const saveIt = () => edits && dirty && !save.isPending && save.mutate();
  /** The version of what is shown, saved where it is not yet. */
  const version = async () => (!edits ? number! : dirty || kept === "going" ? (await save.mutateAsync()).version.number : draft.base);
  const runIt = async (ask: { worker?: Amounts; instead?: string } = {}) => {
    if (save.isPending || start.isPending) return;
    try {
      const v = await version();
      if (ask.instead) await stop.mutateAsync(ask.instead);
      await start.mutateAsync({ job: job.id, ask: { version: `v${v}`, ...(ask.worker && { roles: { worker: ask.worker } }) }, key: newKey() });
      void navigate({ search: (s) => ({ ...s, run: undefined, line: undefined, at: undefined }), replace: true });
    } catch {
      // each has said what failed
    }
  };

  // What it is compared with.
  const against = search.show === "diff" ? Number(search.against) || (edits ? (dirty ? draft.base : before(versions.data, draft.base)) : before(versions.data, number ?? 0)) : undefined;
  const older = useQuery({ ...contentQuery(job.id, `v${against ?? 0}`), enabled: !!against });
  const base = search.show !== "diff" || path === undefined || (against && !older.data) ? undefined : (older.data?.content?.[path] ?? "").replace(/\r\n?/g, "\n");

  const [tabs, setTabs] = useSessionStorage<string[]>({ key: `mlaas-open-${job.id}`, defaultValue: [] });
  const opened = tabs.filter((p) => files.some((f) => f.path === p));
  const shownTabs = path !== undefined && !opened.includes(path) ? [...opened, path] : opened;
  const open = (to: string, line?: number) => {
    setTabs([...new Set([...shownTabs, to])].slice(-12));
    set({ file: to, at: line ? String(line) : undefined });
  };
  const close = (p: string) => {
    const left = shownTabs.filter((t) => t !== p);
    setTabs(left);
    if (p === path) set({ file: left.at(-1), at: undefined });
  };

  // Code that is run at once, in a Python that stays. Each run is of a version.
  const kernel = useKernel(job.id);
  const alive = kernel.state === "idle" || kernel.state === "busy";
  const also = useMemo(() => (alive && path?.endsWith(".py") ? knows(job.id) : undefined), [alive, path, job.id]);
  const failures = useMemo(() => (path ? failureIn(kernel.executions, path) : []), [kernel.executions, path]);
  const runLive = async (piece: Piece) => {
    if (piece.code.trim() === "" || path === undefined) return;
    try {
      await kernel.execute({ code: piece.code, path, line: piece.line, version: `v${await version()}` });
    } catch {
      // each has said what failed
    }
  };
  const view = useRef<EditorView>(undefined);
  const replicas = useReplicas(run?.id);
  const text = path === undefined ? undefined : content.data?.content?.[path];
  const people = useMemo(() => (draft?.people ?? []).filter((p) => p.client !== together?.client), [draft?.people, together]);
  const besides = people.filter((p) => p.doc === here?.doc);

  if (content.error) return <Failed error={content.error} again={() => void content.refetch()} />;
  if (!draft && !refused) return <Text role="status">Opening the draft…</Text>;
  return (
    <Stack>
      <Group gap="xs" align="end">
        <Select label="Version" size="xs" w={200} allowDeselect={false} value={edits ? "draft" : String(number ?? "")} placeholder="none yet"
          data={[...(draft ? [{ value: "draft", label: draft.base ? (dirty ? `draft, made of v${draft.base}` : `v${draft.base}, to edit`) : "draft" }] : []), ...(versions.data ?? []).map((v) => ({ value: String(v.number), label: `v${v.number}, ${when(v.created)}` }))]}
          onChange={(v) => v && set({ v: v === "draft" ? undefined : v, at: undefined })} />
        <SegmentedControl size="xs" aria-label="What is shown" value={search.show ?? "text"} onChange={(v) => set({ show: v === "text" ? undefined : (v as "prepared" | "diff"), against: undefined })}
          data={[{ value: "text", label: "Text" }, { value: "diff", label: "Changes" }, { value: "prepared", label: "As it runs" }]} />
        {search.show === "diff" && <Select label="Against" size="xs" w={130} allowDeselect={false} value={against ? String(against) : null} placeholder="nothing"
          data={(versions.data ?? []).map((v) => ({ value: String(v.number), label: `v${v.number}` }))} onChange={(v) => v && set({ against: v })} />}
        {edits && path?.endsWith(".py") && <Button size="xs" variant="light" disabled={!together} onClick={() => view.current && void runLive(pieceOf(view.current, true))} aria-keyshortcuts="Shift+Control+Enter">Run file live</Button>}
        {edits && <Button size="xs" variant="default" disabled={!dirty} loading={save.isPending} onClick={saveIt} aria-keyshortcuts="Control+S">{dirty ? `Save as v${newest + 1}` : "Saved"}</Button>}
        {dirty && draft.base > 0 && <Sure label="Give up changes" sure="Really give them up?" act={() => reset.mutate(draft.base)} />}
        {!edits && draft && number && <Button size="xs" variant="default" loading={reset.isPending} onClick={() => reset.mutate(number)}>Go back to v{number}</Button>}
        <RunAs job={job} label={dirty ? "Save and run as job" : `Run v${edits ? draft.base : number} as job`} disabled={files.length === 0} busy={start.isPending} go={(worker) => void runIt(worker && { worker })} />
        {run && !final(run.status.state) && (dirty || (edits ? draft.base : number) !== run.version.number) && (
          <Button size="xs" variant="default" loading={stop.isPending} title={`Stops run ${run.number}, which is of v${run.version.number}, and starts this code in its place. It goes on from the last checkpoint where the program looks for one.`} onClick={() => void runIt({ instead: run.id })}>Restart run {run.number} with this</Button>
        )}
      </Group>
      {[save.error, reset.error, merge.error].filter((e) => e !== null).map((e) => <Failed key={e.message} error={e} />)}
      {refused && <Text size="sm" c="dimmed">{refused}</Text>}
      {came && dirty && (
        <Alert variant="outline" color="yellow" py={6} role="status">
          <Group gap="xs"><Text size="sm">v{came} came meanwhile, by a push or from another browser. What you edit stays as it is.</Text>
            <Button size="compact-xs" variant="default" loading={merge.isPending} onClick={() => merge.mutate(false)}>Merge v{came} in</Button>
            <Button size="compact-xs" variant="default" onClick={() => merge.mutate(true)}>Keep mine</Button>
            <Button size="compact-xs" variant="subtle" onClick={() => set({ show: "diff", against: String(came) })}>Compare</Button></Group>
        </Alert>
      )}
      {draft && asked && number && <Text size="sm">You read v{number}, which never changes. <Anchor component="button" underline="always" onClick={() => set({ v: undefined })}>Edit the draft</Anchor></Text>}
      {files.length === 0 && !content.isLoading && <Text>There is no code yet. Begin with a new file, drop files on the list, or from a terminal: mlaas code push {job.name} FOLDER</Text>}
      {search.show === "prepared" && newest > 0 ? <Prepared job={job} version={number ?? draft?.base ?? newest} dirty={dirty} /> : (
        <div className="code-room">
          <Files job={job.id} files={files} path={path} edits={edits} open={open} changed={changed} />
          <div className="code-text">
            <Group gap="xs" justify="space-between" mb={4}>
              <div role="group" aria-label="Open files" className="open-files">
                {shownTabs.map((p) => (
                  <span key={p} data-at={p === path}>
                    <button type="button" aria-current={p === path ? "true" : undefined} onClick={() => open(p)}>{p}</button>
                    <button type="button" aria-label={`Close ${p}`} onClick={() => close(p)}>×</button>
                  </span>
                ))}
              </div>
              {edits && (
                <Group gap={6}>
                  <Text size="xs" c="dimmed" role="status">{kept === "kept" ? "Kept by the platform" : kept === "going" ? "Keeping…" : "Waits for the network"}</Text>
                  {besides.map((p) => <Text key={p.client} size="xs" fw={600} className={`lane-${laneOf(p.client)}`}>{p.name} is here too</Text>)}
                  <You name={name} set={setName} />
                </Group>
              )}
            </Group>
            {edits && together && <Editor key={`${path} ${opening}`} path={together.doc.path} text="" with={together} base={base} people={besides} line={Number(search.at) || undefined} failures={failures} also={also} save={saveIt} run={(piece) => void runLive(piece)} made={(v) => { view.current = v; }} />}
            {!edits && path !== undefined && text !== undefined && <Editor key={path} path={path} text={text} base={base} line={Number(search.at) || undefined} save={() => {}} run={() => {}} />}
            {edits && doc.error && <Failed error={doc.error} again={() => again((n) => n + 1)} />}
            {edits && path !== undefined && doc.isLoading && <Text role="status">Opening {path}…</Text>}
            {!edits && path !== undefined && text === undefined && content.data && <Text c="dimmed">{path} is not text. <Anchor underline="always" href={`/api/job/${job.id}/code/v${number}/file/${path}`}>Download it</Anchor></Text>}
          </div>
          {edits && <Live kernel={kernel} to={(file, line) => open(file, line)} />}
        </div>
      )}
      {run && (
        <section aria-label="Output">
          <Group gap="sm" mb="xs"><Title order={2} size="h5">Output of run {run.number}</Title><Status of={run.status.state} /><Text size="sm" c="dimmed">{run.version.number === (number ?? draft?.base) && !dirty ? `of this code, v${run.version.number}` : `of v${run.version.number}; the code above is v${number ?? draft?.base}${dirty ? ", edited" : ""}`}</Text></Group>
          <Log run={run} replicas={replicas ?? []} />
        </section>
      )}
    </Stack>
  );
}

const before = (versions: { number: number }[] | undefined, number: number) => versions?.find((v) => v.number < number)?.number;

/** A button that asks once more. */
function Sure({ label, sure, act }: { label: string; sure: string; act: () => void }) {
  const [asks, ask] = useState(false);
  return <Button size="xs" variant="subtle" color={asks ? "red" : undefined} onBlur={() => ask(false)} onClick={() => { ask(!asks); if (asks) act(); }}>{asks ? sure : label}</Button>;
}

/** What others call who sits here. */
function You({ name, set }: { name: string; set: (name: string) => void }) {
  return (
    <Popover withArrow trapFocus position="bottom-end">
      <Popover.Target><Button size="compact-xs" variant="default">{name || "Your name"}</Button></Popover.Target>
      <Popover.Dropdown><TextInput size="xs" label="What others see beside your cursor" maxLength={40} value={name} onChange={(e) => set(e.currentTarget.value)} /></Popover.Dropdown>
    </Popover>
  );
}

type Amounts = { replicas?: string; cpu?: string; memory?: string };

/** Runs this very code as a job, with as much as is said of this run alone. */
function RunAs({ job, label, disabled, busy, go }: { job: Job; label: string; disabled: boolean; busy: boolean; go: (worker: Amounts | undefined) => void }) {
  const [amounts, setAmounts] = useState<Amounts>({});
  const usual = job.roles?.worker;
  const said = Object.fromEntries(Object.entries(amounts).filter(([, v]) => v !== ""));
  const field = (of: keyof Amounts, label: string, placeholder: string) => (
    <TextInput size="xs" label={label} placeholder={placeholder} value={amounts[of] ?? ""} onChange={(e) => { const v = e.currentTarget.value; setAmounts((a) => ({ ...a, [of]: v })); }} />
  );
  return (
    <Group gap={0} wrap="nowrap">
      <Button size="xs" disabled={disabled} loading={busy} onClick={() => go(undefined)}>{label}</Button>
      {usual && (
        <Popover withArrow trapFocus position="bottom-end">
          <Popover.Target><Button size="xs" px={8} disabled={disabled} aria-label="On how many workers, with how much">⋯</Button></Popover.Target>
          <Popover.Dropdown>
            <Stack gap="xs">
              <Text size="xs">Of this run alone; where nothing is said, as the job has it.</Text>
              {field("replicas", "Workers", usual.replicas.min === usual.replicas.max ? String(usual.replicas.max) : `${usual.replicas.min}-${usual.replicas.max}`)}
              {field("cpu", "CPU of each", usual.cpu ?? "")}
              {field("memory", "Memory of each", usual.memory ?? "")}
              <Button size="xs" disabled={Object.keys(said).length === 0} onClick={() => go(said)}>Run so</Button>
            </Stack>
          </Popover.Dropdown>
        </Popover>
      )}
    </Group>
  );
}

/** What a run would start: each file that is not as it was written. */
function Prepared({ job, version, dirty }: { job: Job; version: number; dirty: boolean }) {
  const prepared = useQuery(preparedQuery(job.id, `v${version}`));
  if (prepared.error) return <Failed error={prepared.error} again={() => void prepared.refetch()} />;
  if (!prepared.data) return <Text role="status">Reading the code as the engine does…</Text>;
  const { says, files, mode } = prepared.data;
  return (
    <Stack gap="xs">
      <Text size="sm">Mode {mode}.{dirty ? ` Of v${version} as it was saved, without what is edited.` : ""}</Text>
      {(says ?? []).map((s) => <Text key={s} size="sm">{s}</Text>)}
      {(files ?? []).length === 0 && <Text size="sm" c="dimmed">Every file starts as it was written.</Text>}
      {(files ?? []).map((f) => <section key={f.path} aria-label={f.path}><Title order={3} size="h6" mb={4}>{f.path}{f.new ? " (made by the engine)" : ""}</Title><pre className="code" tabIndex={0}>{f.diff}</pre></section>)}
    </Stack>
  );
}
