import { Alert, Anchor, Button, Group, Modal, NavLink, SegmentedControl, Select, Stack, Text, TextInput, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useMemo, useState } from "react";
import type { Job, Run } from "../api/client";
import { useReplicas } from "../api/live";
import { contentQuery, preparedQuery, versionsQuery } from "../api/queries";
import { natural } from "../api/topics";
import { useStart } from "../jobs/actions";
import { Log } from "../log/Log";
import { Failed } from "../shell/Failed";
import { Status } from "../shell/Status";
import { when } from "../shell/words";
import { keepDraft, readDraft, type Draft } from "./draft";
import { Editor } from "./Editor";
import { saveVersion } from "./save";

/** The files of a version, to read, to change and to run. Saving makes the next version; none is ever changed. */
export default function Code({ job, run }: { job: Job; run: Run | undefined }) {
  const search = useSearch({ from: "/jobs/$job/$tab" });
  const navigate = useNavigate({ from: "/jobs/$job/$tab" });
  const set = (to: Partial<typeof search>) => void navigate({ search: (s) => ({ ...s, ...to }), replace: true });
  const cache = useQueryClient();
  const versions = useQuery(versionsQuery(job.id));
  const newest = versions.data?.[0]?.number ?? job.versions;
  const [draft, setDraft] = useState<Draft | undefined>(() => readDraft(job.id));
  const number = Number(search.v) || draft?.base || newest;
  const content = useQuery({ ...contentQuery(job.id, `v${number}`), enabled: number > 0 });
  const mine = draft?.base === number ? draft : undefined;
  const changed = mine?.files ?? {};
  const replicas = useReplicas(run?.id);

  const paths = useMemo(() => {
    const all = new Set((content.data?.files ?? []).map((f) => f.path));
    for (const [p, text] of Object.entries(changed)) if (text === null) all.delete(p); else all.add(p);
    return [...all].sort(natural);
  }, [content.data, changed]);
  const path = search.file && paths.includes(search.file) ? search.file : (paths.find((p) => p === content.data?.entry) ?? paths[0]);
  const original = path === undefined ? undefined : content.data?.content?.[path];
  const text = path === undefined ? undefined : (changed[path] ?? original);

  const keep = (files: Draft["files"]) => {
    const next = Object.keys(files).length > 0 ? { base: number, files } : undefined;
    setDraft(next);
    keepDraft(job.id, next);
  };
  const edit = (file: string, to: string | null) => {
    const files = { ...changed };
    if (to === content.data?.content?.[file] && to !== null) delete files[file];
    else if (to === null && content.data && !content.data.files?.some((f) => f.path === file)) delete files[file];
    else files[file] = to;
    keep(files);
  };
  useEffect(() => {
    const leave = (e: BeforeUnloadEvent) => Object.keys(changed).length > 0 && !readDraft(job.id) && e.preventDefault();
    window.addEventListener("beforeunload", leave);
    return () => window.removeEventListener("beforeunload", leave);
  });

  const start = useStart();
  const save = useMutation({
    mutationFn: async () => {
      // Somebody may have saved since: who saves over it is told, and both versions stay.
      const now = await cache.fetchQuery({ ...versionsQuery(job.id), staleTime: 0 });
      const saved = await saveVersion(job.id, content.data, changed);
      return { saved, between: (now[0]?.number ?? 0) > number ? now[0]!.number : undefined };
    },
    onSuccess: ({ saved, between }) => {
      keep({});
      void cache.invalidateQueries({ queryKey: ["versions", job.id] });
      void cache.invalidateQueries({ queryKey: ["job"] });
      set({ v: String(saved.number) });
      if (between) notifications.show({ color: "yellow", title: `v${between} came meanwhile`, message: `Yours is v${saved.number}, made from v${number}; v${between} is kept beside it. Compare them under Changes.`, autoClose: 15_000 });
    },
  });
  const dirty = Object.keys(changed).length > 0;
  const saveIt = () => dirty && !save.isPending && save.mutate();
  const runIt = async () => {
    if (save.isPending || start.isPending) return;
    try {
      const version = dirty ? (await save.mutateAsync()).saved.number : number;
      await start.mutateAsync({ job: job.id, ask: { version: `v${version}` }, key: crypto.randomUUID() });
      void navigate({ search: (s) => ({ ...s, v: String(version), run: undefined, line: undefined, at: undefined }), replace: true });
    } catch {
      // each has said what failed
    }
  };
  const [naming, name] = useState(false);

  const before = versions.data?.find((v) => v.number < number)?.number;
  const older = useQuery({ ...contentQuery(job.id, `v${before ?? 0}`), enabled: search.show === "diff" && !dirty && !!before });
  const base = search.show !== "diff" || path === undefined ? undefined : dirty ? (original ?? "") : (older.data?.content?.[path] ?? "");

  if (content.error) return <Failed error={content.error} again={() => void content.refetch()} />;
  return (
    <Stack>
      <Group gap="xs" align="end">
        <Select label="Version" size="xs" w={200} allowDeselect={false} value={String(number)} placeholder="none yet"
          data={(versions.data ?? []).map((v) => ({ value: String(v.number), label: `v${v.number}, ${when(v.created)}` }))}
          onChange={(v) => v && set({ v, at: undefined })} />
        <SegmentedControl size="xs" aria-label="What is shown" value={search.show ?? "text"} onChange={(v) => set({ show: v === "text" ? undefined : (v as "prepared" | "diff") })}
          data={[{ value: "text", label: "Text" }, { value: "diff", label: "Changes" }, { value: "prepared", label: "As it runs" }]} />
        <Button size="xs" variant="default" onClick={() => name(true)}>New file</Button>
        <Button size="xs" variant="default" disabled={!path} onClick={() => path && edit(path, null)}>Remove file</Button>
        <Button size="xs" variant="default" disabled={!dirty} loading={save.isPending} onClick={saveIt} aria-keyshortcuts="Control+S">{dirty ? `Save as v${newest + 1}` : "Saved"}</Button>
        {dirty && <Button size="xs" variant="subtle" onClick={() => keep({})}>Give up changes</Button>}
        <Button size="xs" disabled={paths.length === 0} loading={start.isPending} onClick={() => void runIt()} aria-keyshortcuts="Control+Enter">{dirty ? "Save and run" : `Run v${number}`}</Button>
      </Group>
      {save.error && <Failed error={save.error} />}
      {draft && draft.base !== number && (
        <Alert variant="outline" color="yellow" py={6}><Group justify="space-between"><Text size="sm">You have changes of v{draft.base} that are not saved.</Text><Button size="compact-xs" variant="default" onClick={() => set({ v: String(draft.base) })}>Show them</Button></Group></Alert>
      )}
      {paths.length === 0 && !content.isLoading && <Text>There is no code yet. <Anchor component="button" underline="always" onClick={() => name(true)}>Begin with a file</Anchor>, or from a terminal: mlaas code push {job.name} FOLDER</Text>}
      {search.show === "prepared" && number > 0 ? <Prepared job={job} version={number} dirty={dirty} /> : (
        <div style={{ display: "flex", flexWrap: "wrap", gap: 12 }}>
          {paths.length > 0 && (
            <nav aria-label="Files" style={{ flex: "0 1 180px", minWidth: 140, maxHeight: "60vh", overflow: "auto" }}>
              {paths.map((p) => <NavLink key={p} component="button" type="button" label={`${p}${p in changed ? " *" : ""}`} active={p === path} aria-current={p === path ? "true" : undefined} py={4} onClick={() => set({ file: p, at: undefined })} />)}
            </nav>
          )}
          <div style={{ flex: "1 1 320px", minWidth: 0 }}>
            {path !== undefined && text !== undefined && text !== null && (
              <Editor key={`${path} ${search.show ?? ""}`} path={path} text={text} base={base} line={Number(search.at) || undefined} change={(to) => edit(path, to)} save={saveIt} run={() => void runIt()} />
            )}
            {path !== undefined && text === undefined && content.data && <Text c="dimmed">{path} is not text. <Anchor underline="always" href={`/api/job/${job.id}/code/v${number}/file/${path}`}>Download it</Anchor></Text>}
          </div>
        </div>
      )}
      {run && (
        <section aria-label="Output">
          <Group gap="sm" mb="xs"><Title order={2} size="h5">Output of run {run.number}</Title><Status of={run.status.state} /><Text size="sm" c="dimmed">{run.version.number === number && !dirty ? `of this code, v${number}` : `of v${run.version.number}; the code above is v${number}${dirty ? ", edited" : ""}`}</Text></Group>
          <Log run={run} replicas={replicas ?? []} />
        </section>
      )}
      <NewFile open={naming} close={() => name(false)} taken={paths} make={(p) => { edit(p, ""); set({ file: p }); }} />
    </Stack>
  );
}

function NewFile({ open, close, taken, make }: { open: boolean; close: () => void; taken: string[]; make: (path: string) => void }) {
  const [path, setPath] = useState("");
  const wrong = path === "" ? undefined : taken.includes(path) ? "there is a file of this name" : /^\/|\.\.|\\|^\s|\s$|\/$/.test(path) ? "a path with slashes, from the folder of the code: model/net.py" : undefined;
  return (
    <Modal opened={open} onClose={close} title="New file" closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={(e) => {
        e.preventDefault();
        if (path === "" || wrong) return;
        make(path);
        setPath("");
        close();
      }}>
        <TextInput data-autofocus label="Path" placeholder="main.py" value={path} error={wrong} onChange={(e) => setPath(e.currentTarget.value)} />
        <Button type="submit" mt="sm" disabled={path === "" || !!wrong}>Make</Button>
      </form>
    </Modal>
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
