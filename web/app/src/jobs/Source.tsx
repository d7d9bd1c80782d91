import { Button, Card, FileButton, Group, Select, SimpleGrid, Stack, Text, TextInput, Title, UnstyledButton } from "@mantine/core";
import { useQuery, type QueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { answer, api, send, type JobSpec, type PlanAsk, type Version } from "../api/client";
import { contentQuery, jobQuery, newestJobs, templatesQuery } from "../api/queries";
import { networkOf, specOf, type Network } from "../compose/network";
import { saveVersion } from "../job/save";
import { many, size } from "../shell/words";
import annotated from "../templates/annotated.py?raw";
import { chosen, dropped, gzipped, most, tar } from "./pack";
import { templates } from "./templates";

/** What a job begins with. */
export type Source = {
  what: string;
  name: string;
  from: Partial<JobSpec>;
  /** What of its code a plan reads. */
  look: Pick<PlanAsk, "files" | "job">;
  /** Puts its code into a job that was just made; without, it has none or needs none. */
  put?: (job: string, cache: QueryClient) => Promise<unknown>;
  /** What was left out of it. */
  left?: string[];
  network?: Network;
  needs?: string;
};

/** A repository, as it was typed. */
export type Repository = { url: string; ref: string; folder: string };

const texts = (what: string, name: string, files: Record<string, string>, from: Partial<JobSpec>): Source => ({ what, name, from, look: { files }, put: (job) => saveVersion(job, undefined, files) });

const nameOf = (text: string) => text.toLowerCase().replace(/[^a-z0-9._-]+/g, "-").replace(/^[-._]+|[-._]+$/g, "").slice(0, 63) || "job";

/** What the address says that a job begins with: an example, a template, a network, or another job. */
export function useSource(from: string | undefined, network: Network): Source | undefined {
  const cloned = from?.startsWith("job:") ? from.slice(4) : undefined;
  const guided = from?.startsWith("guiding:") ? from.slice(8) : undefined;
  const job = useQuery({ ...jobQuery(cloned ?? ""), enabled: !!cloned }).data;
  const content = useQuery({ ...contentQuery(cloned ?? "", "latest"), enabled: !!cloned && (job?.versions ?? 0) > 0 }).data;
  const guides = useQuery({ ...templatesQuery, enabled: !!guided }).data;
  return useMemo((): Source | undefined => {
    const example = templates.find((x) => x.id === from);
    if (example) return { ...texts(example.name, example.id, example.files, example.spec), ...(example.data && { needs: example.data }) };
    if (from === "annotation") return texts("a program with marks", "annotated", { "main.py": annotated }, { code: { mode: "annotation" } });
    if (from === "composed") return { what: "a network", name: "network", from: specOf(network), look: {}, network };
    const guide = guides?.find((t) => t.name === guided);
    if (guide) return texts(`the template ${guide.name}: model.py is the file to change`, `${guide.name}-guided`, guide.files ?? {}, { code: { mode: "guiding" }, environment: { framework: guide.framework } as never });
    if (!cloned || !job) return undefined;
    const { environment, roles, execution, data, code, evaluation, rules, labels } = job;
    const spec = { environment, roles, execution, data: data ?? [], code: { ...code, version: undefined }, evaluation, rules, labels } as unknown as Partial<JobSpec>;
    const own = networkOf(job as never);
    const clone: Source = { what: `the job ${cloned}${content ? `, v${content.number}` : own ? "" : ", which has no code"}`, name: `${cloned}-copy`, from: spec, look: own ? {} : { job: cloned } };
    if (content && !own) clone.put = (to) => answer(api.POST("/api/job/{id}/code", { params: { path: { id: to } }, body: { tree: content.files ?? [] } }));
    return clone;
  }, [from, network, guides, guided, cloned, job, content]);
}

/** A repository of others: the platform fetches it, and says which commit it was. */
export function fromGit(r: Repository): Source {
  const name = nameOf(r.url.replace(/\.git$/, "").split("/").filter(Boolean).at(-1) ?? "");
  return {
    what: `${r.url}${r.ref ? ` at ${r.ref}` : ""}${r.folder ? `, folder ${r.folder}` : ""}`, name, from: {}, look: {},
    put: (job) => answer(api.POST("/api/job/{id}/code/git", { params: { path: { id: job } }, body: { url: r.url, ...(r.ref && { ref: r.ref }), ...(r.folder && { folder: r.folder }) } })),
  };
}

const readable = 4 << 20; // bytes of a program that a plan reads

/** Files of this machine as they were chosen or dropped: one archive as it is, or files and folders, of which what is no code is left out. */
export async function fromFiles(all: { path: string; file: File }[]): Promise<Source> {
  const first = all[0]!;
  if (all.length === 1 && /\.(zip|tar\.gz|tgz)$/.test(first.file.name)) {
    if (first.file.size > most.bytes) throw new Error(`${first.file.name} is ${size(first.file.size)}, and code is at most ${size(most.bytes)}. Send what is data as a dataset.`);
    const type = first.file.name.endsWith(".zip") ? "application/zip" : "application/gzip";
    return { what: `${first.file.name}, ${size(first.file.size)}`, name: nameOf(first.file.name.replace(/\.(zip|tar\.gz|tgz)$/, "")), from: {}, look: {}, put: (job) => send<Version>(`/api/job/${job}/code`, type, first.file) };
  }
  // A folder is what is in it, and not itself.
  const folder = all.every((f) => f.path.includes("/") && f.path.split("/")[0] === first.path.split("/")[0]) ? first.path.split("/")[0]! : "";
  const inside = all.map((f) => ({ path: folder ? f.path.slice(folder.length + 1) : f.path, file: f.file }));
  const ignore = inside.find((f) => f.path === ".mlaasignore");
  const { kept, left } = chosen(inside.map((f) => f.path), ignore ? await ignore.file.text() : "");
  const files = inside.filter((f) => kept.includes(f.path));
  if (files.length === 0) throw new Error("There is no file in it that a job could use.");
  if (files.length > most.files) throw new Error(`It has ${files.length.toLocaleString("en")} files, and code has at most ${most.files.toLocaleString("en")}. Name what is no code in a file .mlaasignore in it.`);
  const total = files.reduce((n, f) => n + f.file.size, 0);
  if (total > most.bytes) {
    const large = [...files].sort((a, b) => b.file.size - a.file.size).slice(0, 3).map((f) => `${f.path} (${size(f.file.size)})`).join(", ");
    throw new Error(`It is ${size(total)}, and code is at most ${size(most.bytes)}; the largest files are ${large}. Send what is data as a dataset, or name it in a file .mlaasignore.`);
  }
  const loaded = await Promise.all(files.map(async (f) => ({ path: f.path, bytes: new Uint8Array(await f.file.arrayBuffer()) })));
  let read = 0;
  const look: Record<string, string> = {};
  for (const f of loaded) {
    if (f.bytes.subarray(0, 8000).includes(0) || (read += f.bytes.length) > readable) continue;
    look[f.path] = new TextDecoder().decode(f.bytes);
  }
  const py = files.length === 1 ? files[0]!.path.replace(/\.py$/, "") : "";
  return {
    what: `${folder ? `the folder ${folder}: ` : ""}${many(files.length, "file")}, ${size(total)}`, name: nameOf(folder || py || "job"), from: {}, look: { files: look }, left,
    put: async (job) => send<Version>(`/api/job/${job}/code`, "application/gzip", await gzipped(tar(loaded))),
  };
}

type GalleryProps = {
  from: string | undefined;
  own: boolean;
  choose: (from: string) => void;
  take: (files: { path: string; file: File }[]) => void;
  git: (r: Repository) => void;
};

/** Every way to begin a job. */
export function Gallery({ from, own, choose, take, git }: GalleryProps) {
  const guides = useQuery(templatesQuery).data ?? [];
  const jobs = useQuery(newestJobs).data ?? [];
  const [over, setOver] = useState(false);
  const [r, setR] = useState<Repository>({ url: "", ref: "", folder: "" });
  const picked = (f: File[] | File | null) => {
    const all = f === null ? [] : Array.isArray(f) ? f : [f];
    if (all.length > 0) take(all.map((file) => ({ path: file.webkitRelativePath || file.name, file })));
  };
  return (
    <Stack gap="sm">
      <SimpleGrid cols={{ base: 1, xs: 2, lg: 3 }} spacing="sm">
        <Way title="Guiding" what="Fill in define_model, setup_train and step_train; the engine trains, records and resumes." on={from?.startsWith("guiding:")}>
          <Select aria-label="Template of guiding mode" size="xs" placeholder="Choose a framework" allowDeselect={false} value={from?.startsWith("guiding:") ? from.slice(8) : null} data={guides.map((t) => ({ value: t.name, label: `${t.name}: ${t.framework}` }))} onChange={(v) => v && choose(`guiding:${v}`)} />
        </Way>
        <Way title="Annotation" what="A program with #@ marks in comments: each becomes a call on its own line." on={from === "annotation"}>
          <Button size="xs" variant="default" aria-pressed={from === "annotation"} onClick={() => choose("annotation")}>Begin with an annotated program</Button>
        </Way>
        <Way title="Non-intrusive" what="Your own code as it is, from this machine. Drop files or a folder here." on={own && from === undefined} over={over}
          drop={{
            onDragOver: (e) => {
              e.preventDefault();
              setOver(true);
            },
            onDragLeave: () => setOver(false),
            onDrop: (e) => {
              e.preventDefault();
              setOver(false);
              void dropped(e.dataTransfer.items).then((all) => all.length > 0 && take(all));
            },
          }}>
          <Group gap="xs">
            <FileButton onChange={picked} multiple>{(p) => <Button size="xs" variant="default" {...p}>Files</Button>}</FileButton>
            <FileButton onChange={picked} multiple inputProps={{ webkitdirectory: "" } as object}>{(p) => <Button size="xs" variant="default" {...p}>Folder</Button>}</FileButton>
            <FileButton onChange={picked} accept=".zip,.tar.gz,.tgz">{(p) => <Button size="xs" variant="default" {...p}>Zip or tar.gz</Button>}</FileButton>
          </Group>
        </Way>
        <Way title="Composed" what="Build a network layer by layer, without programming." on={from === "composed"}>
          <Button size="xs" variant="default" aria-pressed={from === "composed"} onClick={() => choose("composed")}>Build a network</Button>
        </Way>
        <Way title="From git" what="The platform fetches a repository; the version says which commit it was." on={from === "git"}>
          <form onSubmit={(e) => {
            e.preventDefault();
            git(r);
          }}>
            <Group gap="xs" align="end">
              <TextInput size="xs" aria-label="Address of the repository" placeholder="https://…" required type="url" pattern="https://.*" style={{ flex: "1 1 100%" }} value={r.url} onChange={(e) => setR({ ...r, url: e.currentTarget.value })} />
              <TextInput size="xs" aria-label="Branch, tag or commit" placeholder="branch, tag, commit" style={{ flex: "1 1 80px" }} value={r.ref} onChange={(e) => setR({ ...r, ref: e.currentTarget.value })} />
              <TextInput size="xs" aria-label="Folder in the repository" placeholder="folder" style={{ flex: "1 1 80px" }} value={r.folder} onChange={(e) => setR({ ...r, folder: e.currentTarget.value })} />
              <Button size="xs" variant="default" type="submit">Take it</Button>
            </Group>
          </form>
        </Way>
        <Way title="Clone" what="Another job with its code, to be changed." on={from?.startsWith("job:")}>
          <Select aria-label="Job to clone" size="xs" searchable placeholder={jobs.length > 0 ? "Choose a job" : "There is no job yet"} disabled={jobs.length === 0} allowDeselect={false} value={from?.startsWith("job:") ? from.slice(4) : null} data={jobs.map((j) => j.name)} onChange={(v) => v && choose(`job:${v}`)} />
        </Way>
      </SimpleGrid>
      <Title order={3} size="h6">Examples that are ready to run</Title>
      <SimpleGrid cols={{ base: 1, xs: 2, md: 3, xl: 5 }} spacing="sm">
        {templates.map((t) => (
          <UnstyledButton key={t.id} aria-pressed={from === t.id} onClick={() => choose(t.id)}>
            <Card withBorder h="100%" padding="sm" className={from === t.id ? "chosen" : undefined}>
              <Text fw={600}>{t.name}</Text><Text size="sm" c="dimmed">{t.what}</Text>{t.data && <Text size="xs" c="dimmed" mt={4}>Needs the dataset {t.data}.</Text>}
            </Card>
          </UnstyledButton>
        ))}
      </SimpleGrid>
    </Stack>
  );
}

function Way({ title, what, on, over, drop, children }: { title: string; what: string; on?: boolean | undefined; over?: boolean; drop?: React.ComponentProps<"div">; children: React.ReactNode }) {
  return (
    <div {...drop}>
      <Card withBorder padding="sm" h="100%" component="section" aria-label={title} className={over || on ? "chosen" : undefined}>
        <Text fw={600}>{title}</Text><Text size="sm" c="dimmed" mb="xs">{what}</Text>
        {children}
      </Card>
    </div>
  );
}
