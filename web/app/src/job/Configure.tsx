import { Alert, Button, Group, Modal, Stack, Text, Textarea, TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { answer, api, Problem, type Job } from "../api/client";
import { Failed } from "../shell/Failed";

/** What of a job is edited here; its code is another matter. */
const parts = ["environment", "roles", "execution", "data", "evaluation", "rules", "labels"] as const;
const shown = (j: Job) => JSON.stringify(Object.fromEntries(parts.filter((p) => j[p] !== undefined).map((p) => [p, j[p]])), null, 2);

/** Renames a job and changes its configuration. Who saves over another's change is told, and nothing is overwritten. */
export default function Configure({ job, close }: { job: Job; close: () => void }) {
  const cache = useQueryClient();
  const navigate = useNavigate();
  const [base, setBase] = useState(job);
  const [name, setName] = useState(job.name);
  const [text, setText] = useState(() => shown(job));
  const save = useMutation({
    mutationFn: async () => {
      let to: Record<string, unknown>;
      try {
        to = JSON.parse(text) as Record<string, unknown>;
      } catch (e) {
        throw new Problem(`The configuration is no JSON: ${(e as Error).message}`, 400, "It was not saved");
      }
      const was = JSON.parse(shown(base)) as Record<string, unknown>;
      return answer(api.PATCH("/api/job/{id}", { params: { path: { id: job.id }, header: { "If-Match": `"${base.revision}"` } }, body: { ...patch(was, to), name } as never }));
    },
    onSuccess: (j) => {
      void cache.invalidateQueries({ queryKey: ["job"] });
      void cache.invalidateQueries({ queryKey: ["jobs"] });
      close();
      if (j.name !== job.name) void navigate({ to: "/jobs/$job/$tab", params: { job: j.name, tab: "overview" }, search: {} });
    },
  });
  const stale = save.error instanceof Problem && save.error.status === 412;
  const newest = useMutation({
    mutationFn: () => answer(api.GET("/api/job/{id}", { params: { path: { id: job.id } } })),
    onSuccess: (j) => {
      setBase(j);
      save.reset();
    },
  });
  return (
    <Modal opened onClose={close} title={`Configure ${job.name}`} size="xl" closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={(e) => {
        e.preventDefault();
        save.mutate();
      }}>
        <Stack gap="sm">
          <TextInput label="Name" required pattern="[a-z0-9._\-]{1,63}" value={name} onChange={(e) => setName(e.currentTarget.value)} />
          <Textarea label="Configuration" description="Resources, parameters, data, rules: as in the job file (JSON)" autosize minRows={10} maxRows={24} styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }} spellCheck={false} value={text} onChange={(e) => setText(e.currentTarget.value)} />
          {save.error && !stale && <Failed error={save.error} />}
          {stale && (
            <Alert color="yellow" variant="outline" role="alert" title="Somebody changed this job meanwhile">
              <Text size="sm">Yours is not saved, and theirs is kept. Save yours over it, field by field, or begin from theirs.</Text>
              <Group mt="xs">
                <Button size="xs" variant="default" loading={newest.isPending} onClick={() => newest.mutate(undefined, { onSuccess: () => save.mutate() })}>Save mine over it</Button>
                <Button size="xs" variant="default" onClick={() => newest.mutate(undefined, { onSuccess: (j) => { setText(shown(j)); setName(j.name); } })}>Begin from theirs</Button>
              </Group>
            </Alert>
          )}
          {newest.error && <Failed error={newest.error} />}
          <Group><Button type="submit" loading={save.isPending}>Save</Button><Button variant="default" onClick={close}>Cancel</Button></Group>
        </Stack>
      </form>
    </Modal>
  );
}

/** The merge patch (RFC 7396) from one object to another. */
function patch(was: Record<string, unknown>, to: Record<string, unknown>): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const object = (v: unknown): v is Record<string, unknown> => typeof v === "object" && v !== null && !Array.isArray(v);
  for (const k of Object.keys(was)) if (!(k in to)) out[k] = null;
  for (const [k, v] of Object.entries(to)) {
    const old = was[k];
    if (object(old) && object(v)) {
      const p = patch(old, v);
      if (Object.keys(p).length > 0) out[k] = p;
    } else if (JSON.stringify(old) !== JSON.stringify(v)) out[k] = v;
  }
  return out;
}
