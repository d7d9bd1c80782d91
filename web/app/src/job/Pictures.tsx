import { Anchor, Select, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import type { Run } from "../api/client";
import { artifactsQuery } from "../api/queries";
import { natural } from "../api/topics";
import { final } from "../shell/Status";

const pictures = /\.(png|jpe?g|gif|webp|svg)$/i;
const most = 24;

/** The step that a name says: "samples-1200.png" and "step_3/a.png"; none where it says none. */
export function stepOf(path: string): number | undefined {
  const found = [...path.replace(/\.[^.]*$/, "").matchAll(/\d+/g)].at(-1);
  return found ? Number(found[0]) : undefined;
}

const types: Record<string, string> = { png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", svg: "image/svg+xml" };

/** One picture. Files of programs are served as bytes alone; what kind this one is follows from its name. */
function Picture({ at, name }: { at: string; name: string }) {
  const got = useQuery({
    queryKey: ["picture", at],
    staleTime: Infinity,
    queryFn: async () => {
      const response = await fetch(at);
      if (!response.ok) throw new Error(`the answer was ${response.status}`);
      return new Blob([await response.arrayBuffer()], { type: types[name.toLowerCase().replace(/.*\./, "")] ?? "" });
    },
  });
  const [url, set] = useState<string>();
  useEffect(() => {
    if (!got.data) return;
    const made = URL.createObjectURL(got.data);
    set(made);
    return () => URL.revokeObjectURL(made);
  }, [got.data]);
  if (got.error) return <Text size="xs">{name} could not be read: {got.error.message}.</Text>;
  return <a href={at} download aria-label={`${name}, as a file`}>{url && <img src={url} alt={name} style={{ maxWidth: "100%", maxHeight: 300 }} />}</a>;
}

/** Pictures and figures that a run left, by the step that their names say. */
export function Pictures({ run }: { run: Run }) {
  const ended = final(run.status.state);
  const files = useQuery({ ...artifactsQuery(run.id), enabled: ended }).data ?? [];
  const [step, set] = useState<string | null>(null);
  const [more, show] = useState(most);
  const all = files.filter((f) => pictures.test(f.path)).map((f) => ({ ...f, step: stepOf(f.path) })).sort((a, b) => (a.step ?? -1) - (b.step ?? -1) || natural(a.path, b.path));
  if (all.length === 0) return null;
  const steps = [...new Set(all.flatMap((f) => (f.step === undefined ? [] : [String(f.step)])))];
  const shown = all.filter((f) => !step || String(f.step) === step);
  const href = (f: (typeof all)[number]) => `/api/run/${run.id}/artifact/${f.replica}/${f.path.split("/").map(encodeURIComponent).join("/")}`;
  return (
    <section aria-label="Pictures">
      <Title order={2} size="h5" mb="xs">Pictures ({all.length})</Title>
      {steps.length > 1 && <Select size="xs" label="Of step" placeholder="all" clearable searchable data={steps} value={step} onChange={set} w={160} mb="xs" />}
      <div className="charts">
        {shown.slice(0, more).map((f) => (
          <figure key={`${f.replica}/${f.path}`} style={{ margin: 0 }}>
            <Picture at={href(f)} name={f.path} />
            <figcaption><Text size="xs" style={{ overflowWrap: "anywhere" }}>{f.path.replace(/^mlaas\/figures\//, "")}{f.step !== undefined ? ` · step ${f.step}` : ""} · {f.replica}</Text></figcaption>
          </figure>
        ))}
      </div>
      {shown.length > more && <Anchor component="button" size="sm" onClick={() => show(more + most)}>{shown.length - more} more</Anchor>}
    </section>
  );
}
