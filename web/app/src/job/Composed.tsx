import { Button, Group, Stack, Text } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answer, api, type Job } from "../api/client";
import { composeQuery } from "../api/queries";
import { Builder, Program } from "../compose/Builder";
import { first, networkOf, specOf, toWord } from "../compose/network";
import { Failed } from "../shell/Failed";

/** The network of a composed job in place of its code: to be changed, and its program to be read, also before it ever ran. */
export default function Composed({ job }: { job: Job }) {
  const cache = useQueryClient();
  const kept = networkOf(job as never) ?? first;
  const [network, set] = useState(kept);
  const dirty = toWord(network) !== toWord(kept);
  const composed = useQuery(composeQuery({ name: "network", ...specOf(network) })).data;
  const header = { "If-Match": `"${job.revision}"` };
  const done = () => {
    void cache.invalidateQueries({ queryKey: ["job"] });
    void cache.invalidateQueries({ queryKey: ["versions", job.id] });
  };
  const save = useMutation({
    mutationFn: () => answer(api.PATCH("/api/job/{id}", {
      params: { path: { id: job.id }, header },
      body: { data: [...(job.data ?? []).filter((d) => d.name !== kept.composed.input?.data), ...(specOf(network).data ?? [])], code: { composed: nulled(kept.composed as never, network.composed as never) } } as never,
    })),
    onSuccess: done,
  });
  const eject = useMutation({ mutationFn: () => answer(api.POST("/api/job/{id}/eject", { params: { path: { id: job.id }, header } })), onSuccess: done });
  return (
    <Stack>
      <Group gap="xs">
        <Button size="xs" disabled={!dirty} loading={save.isPending} onClick={() => save.mutate()}>{dirty ? "Save the network" : "Saved"}</Button>
        {dirty && <Button size="xs" variant="subtle" onClick={() => set(kept)}>Give up changes</Button>}
        <Button size="xs" variant="default" disabled={dirty} loading={eject.isPending} onClick={() => eject.mutate()}>Make it an ordinary job</Button>
        <Text size="sm" c="dimmed">An ordinary job has the program as its code, which you then change.</Text>
      </Group>
      {save.error && <Failed error={save.error} />}
      {eject.error && <Failed error={eject.error} />}
      <Builder network={network} set={set} link={`${location.origin}/jobs/new?from=composed&net=${toWord(network)}`} />
      <Program all={composed} />
    </Stack>
  );
}

/** What is to be written so that nothing of what was stays: a merge patch takes away what is null. */
function nulled(was: Record<string, unknown>, to: Record<string, unknown>): Record<string, unknown> {
  const out: Record<string, unknown> = { ...to };
  for (const [k, v] of Object.entries(was)) {
    const next = to[k];
    if (next === undefined) out[k] = null;
    else if (typeof v === "object" && v !== null && !Array.isArray(v) && typeof next === "object" && next !== null) out[k] = nulled(v as Record<string, unknown>, next as Record<string, unknown>);
  }
  return out;
}
