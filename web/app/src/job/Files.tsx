import { Button, CloseButton, FileButton, Group, Modal, NavLink, Stack, Text, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useQuery } from "@tanstack/react-query";
import { useState, type DragEvent } from "react";
import { answer, api, Problem, type Draft } from "../api/client";
import { draftTextsQuery } from "../api/queries";
import { many } from "../shell/words";
import { digestOf } from "./save";

export type Shown = { path: string; change?: string | undefined };

type Props = {
  job: string;
  files: Shown[];
  path: string | undefined;
  /** Whether they are those of the draft, and may be changed. */
  edits: boolean;
  open: (path: string, line?: number) => void;
  changed: (draft: Draft) => void;
};

const drafts = (job: string) => ({ params: { path: { id: job } } });
const told = (error: Error) => notifications.show({ color: "red", title: "It did not work", message: error.message, autoClose: 10_000 });

/** The files of a draft or of a version: to open, to search in, to make, to name and to take away. */
export function Files({ job, files, path, edits, open, changed }: Props) {
  const [asked, ask] = useState<"new" | "rename" | undefined>();
  const [find, setFind] = useState("");
  const [over, setOver] = useState(false);
  const taken = files.map((f) => f.path);
  const act = async (what: Promise<Draft>, then?: () => void) => {
    try {
      changed(await what);
      then?.();
    } catch (e) {
      told(e as Error);
    }
  };
  const make = (to: string) => act(answer(api.POST("/api/job/{id}/draft/file", { ...drafts(job), body: { path: to, text: "" } })), () => open(to));
  const rename = (to: string) => path && act(answer(api.POST("/api/job/{id}/draft/rename", { ...drafts(job), body: { from: path, to } })), () => open(to));
  const remove = () => path && act(answer(api.DELETE("/api/job/{id}/draft/file/{path}", { params: { path: { id: job, path } } })));
  const upload = async (chosen: File[]) => {
    for (const f of chosen) {
      const name = f.webkitRelativePath || f.name;
      try {
        changed(await put(job, name, f, false));
        open(name);
      } catch (e) {
        if (e instanceof Problem && e.status === 409) {
          const id = notifications.show({
            color: "yellow", title: `There is a file ${name}`, autoClose: false,
            message: <Group><Button size="compact-xs" variant="default" onClick={() => { notifications.hide(id); void act(put(job, name, f, true), () => open(name)); }}>Replace it</Button></Group>,
          });
        } else told(e as Error);
      }
    }
  };
  const drop = (e: DragEvent) => {
    e.preventDefault();
    setOver(false);
    if (edits) void upload([...e.dataTransfer.files]);
  };
  return (
    <nav aria-label="Files" className="files" data-over={over} onDragOver={(e) => { e.preventDefault(); setOver(edits); }} onDragLeave={() => setOver(false)} onDrop={drop}>
      {edits && (
        <Group gap={4} mb={4}>
          <Button size="compact-xs" variant="default" onClick={() => ask("new")}>New file</Button>
          <FileButton multiple onChange={(chosen) => void upload(chosen)}>{(props) => <Button {...props} size="compact-xs" variant="default">Upload</Button>}</FileButton>
          <Button size="compact-xs" variant="default" disabled={!path} onClick={() => ask("rename")}>Rename</Button>
          <Button size="compact-xs" variant="default" disabled={!path} onClick={() => void remove()}>Remove file</Button>
        </Group>
      )}
      {edits && <TextInput size="xs" mb={4} aria-label="Search in files" placeholder="Search in files" value={find} onChange={(e) => setFind(e.currentTarget.value)} rightSection={find && <CloseButton size="xs" aria-label="End the search" onClick={() => setFind("")} />} />}
      {find ? <Hits job={job} find={find} open={open} /> : <Tree files={files} path={path} open={open} />}
      <Naming key={asked ?? ""} open={asked !== undefined} title={asked === "rename" ? `Rename ${path}` : "New file"} verb={asked === "rename" ? "Rename" : "Make"} first={asked === "rename" ? (path ?? "") : ""}
        close={() => ask(undefined)} taken={taken} done={(to) => void (asked === "rename" ? rename(to) : make(to))} />
    </nav>
  );
}

/** Puts a file into the draft, whatever it is. */
async function put(job: string, path: string, file: File, replace: boolean): Promise<Draft> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const digest = await digestOf(bytes);
  if (digest === undefined) { // a browser gives no digests to a page that came without TLS
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw new Problem(`${path} is not text, and without TLS this browser can send texts alone. Use mlaas code push, or come by https.`, 0, "It was not uploaded");
    }
    return answer(api.POST("/api/job/{id}/draft/file", { ...drafts(job), body: { path, text, replace } }));
  }
  const sent = await fetch(`/api/blob/${digest}`, { method: "PUT", headers: { "Content-Type": "application/octet-stream" }, body: bytes });
  if (!sent.ok) throw new Problem(((await sent.json().catch(() => ({}))) as { detail?: string }).detail ?? `${path} was not taken: ${sent.status}`, sent.status, "It was not uploaded");
  return answer(api.POST("/api/job/{id}/draft/file", { ...drafts(job), body: { path, digest, replace } }));
}

function Tree({ files, path, open }: { files: Shown[]; path: string | undefined; open: (path: string) => void }) {
  const top = new Map<string, Shown[]>(); // by folder, "" first
  for (const f of files) {
    const folder = f.path.includes("/") ? f.path.slice(0, f.path.lastIndexOf("/")) : "";
    top.set(folder, [...(top.get(folder) ?? []), f]);
  }
  const leaf = (f: Shown, name: string) => (
    <NavLink key={f.path} component="button" type="button" label={`${name}${f.change === "new" ? " (new)" : f.change ? " *" : ""}`} title={f.path} active={f.path === path} aria-current={f.path === path ? "true" : undefined} py={4} onClick={() => open(f.path)} />
  );
  return [...top].map(([folder, all]) => folder === ""
    ? all.map((f) => leaf(f, f.path))
    : (
      <NavLink key={folder} component="button" type="button" label={`${folder}/`} py={4} childrenOffset={12} defaultOpened={files.length <= 200 || !!path?.startsWith(`${folder}/`)}>
        {all.map((f) => leaf(f, f.path.slice(folder.length + 1)))}
      </NavLink>
    ));
}

const mostHits = 200;

/** The lines of all files that have what is searched for. */
function Hits({ job, find, open }: { job: string; find: string; open: (path: string, line?: number) => void }) {
  const texts = useQuery(draftTextsQuery(job));
  if (texts.error) return <Text size="sm" role="alert">{texts.error.message}</Text>;
  if (!texts.data) return <Text size="sm" role="status">Reading the files…</Text>;
  const small = find.toLowerCase();
  const hits: { path: string; line: number; text: string }[] = [];
  for (const [path, text] of Object.entries(texts.data)) {
    text.split("\n").forEach((l, i) => {
      if (hits.length < mostHits && l.toLowerCase().includes(small)) hits.push({ path, line: i + 1, text: l.trim() });
    });
  }
  return (
    <>
      <Text size="xs" c="dimmed" role="status">{hits.length === mostHits ? `the first ${mostHits} lines` : many(hits.length, "line")}</Text>
      {hits.map((h) => <NavLink key={`${h.path}:${h.line}`} component="button" type="button" py={2} label={`${h.path}:${h.line}`} description={h.text.slice(0, 80)} onClick={() => open(h.path, h.line)} />)}
    </>
  );
}

function Naming({ open, close, taken, done, title, verb, first }: { open: boolean; close: () => void; taken: string[]; done: (path: string) => void; title: string; verb: string; first: string }) {
  const [path, setPath] = useState(first);
  const wrong = path === "" || path === first ? undefined : taken.includes(path) ? "there is a file of this name" : /^\/|\.\.|\\|^\s|\s$|\/$/.test(path) ? "a path with slashes, from the folder of the code: model/net.py" : undefined;
  return (
    <Modal opened={open} onClose={close} title={title} closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={(e) => {
        e.preventDefault();
        if (path === "" || path === first || wrong) return;
        done(path);
        close();
      }}>
        <Stack gap="sm">
          <TextInput data-autofocus label="Path" placeholder="main.py" value={path} error={wrong} onChange={(e) => setPath(e.currentTarget.value)} />
          <Group><Button type="submit" disabled={path === "" || path === first || !!wrong}>{verb}</Button></Group>
        </Stack>
      </form>
    </Modal>
  );
}
