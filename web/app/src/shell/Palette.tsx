import { Modal, ScrollArea, Text, TextInput, UnstyledButton, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useNavigate } from "@tanstack/react-router";
import { useId, useMemo, useState } from "react";
import { useQuery } from "@tanstack/react-query";
import { useJobs } from "../api/live";
import { docsQuery } from "../api/queries";
import { places } from "./places";

type Choice = { name: string; what: string; act: () => void };

/** Everything by its name: pages, jobs, what can be done. */
export function Palette({ open, close, keys }: { open: boolean; close: () => void; keys: () => void }) {
  return (
    <Modal opened={open} onClose={close} withCloseButton={false} padding="xs" size="lg" title="Search">
      {open && <Search close={close} keys={keys} />}
    </Modal>
  );
}

function Search({ close, keys }: { close: () => void; keys: () => void }) {
  const [words, setWords] = useState("");
  const [at, setAt] = useState(0);
  const navigate = useNavigate();
  const jobs = useJobs();
  const docs = useQuery(docsQuery("")).data;
  const scheme = useComputedColorScheme("light");
  const { setColorScheme } = useMantineColorScheme();
  const list = useId();
  const all = useMemo<Choice[]>(() => [
    { name: "New job", what: "do", act: () => void navigate({ to: "/jobs/new" }) },
    ...places.map((p) => ({ name: p.name, what: "page", act: () => void navigate({ to: p.to }) })),
    { name: "Compare runs", what: "page", act: () => void navigate({ to: "/compare" }) },
    { name: "REST API", what: "page", act: () => void navigate({ to: "/docs/api" }) },
    { name: scheme === "dark" ? "Use light colours" : "Use dark colours", what: "do", act: () => setColorScheme(scheme === "dark" ? "light" : "dark") },
    { name: "Keyboard shortcuts", what: "do", act: keys },
    ...[...(jobs?.values() ?? [])].reverse().map((j) => ({ name: j.name, what: `job, ${j.status?.state || "never run"}`, act: () => void navigate({ to: "/jobs/$job/$tab", params: { job: j.name, tab: "overview" } }) })),
    ...(docs ?? []).map((d) => ({ name: d.title, what: "docs", act: () => void navigate({ to: "/docs/$", params: { _splat: d.path }, search: {} }) })),
  ], [jobs, docs, navigate, scheme, setColorScheme, keys]);
  const found = useMemo(() => {
    const parts = words.toLowerCase().split(/\s+/).filter(Boolean);
    return all.filter((c) => parts.every((p) => c.name.toLowerCase().includes(p))).slice(0, 50);
  }, [all, words]);
  const chosen = Math.min(at, found.length - 1);
  const take = (c: Choice | undefined) => {
    if (!c) return;
    close();
    c.act();
  };
  return (
    <>
      <TextInput data-autofocus aria-label="Search pages, jobs and what can be done" placeholder="A page, a job, or what to do" value={words}
        role="combobox" aria-expanded aria-controls={list} aria-activedescendant={found[chosen] ? `${list}-${chosen}` : undefined}
        onChange={(e) => { setWords(e.currentTarget.value); setAt(0); }}
        onKeyDown={(e) => {
          if (e.key === "ArrowDown") setAt(Math.min(chosen + 1, found.length - 1));
          else if (e.key === "ArrowUp") setAt(Math.max(chosen - 1, 0));
          else if (e.key === "Enter") take(found[chosen]);
          else return;
          e.preventDefault();
        }} />
      <ScrollArea.Autosize mah={360} mt="xs" viewportProps={{ tabIndex: -1 }}>
        <div role="listbox" id={list} aria-label="Found">
          {found.map((c, i) => (
            <UnstyledButton key={`${c.what} ${c.name}`} id={`${list}-${i}`} role="option" aria-selected={i === chosen} tabIndex={-1} onClick={() => take(c)} onMouseMove={() => setAt(i)}
              ref={i === chosen ? (e) => { e?.scrollIntoView({ block: "nearest" }); } : undefined}
              style={{ display: "flex", justifyContent: "space-between", width: "100%", padding: "8px 10px", borderRadius: 4, background: i === chosen ? "var(--mantine-color-default-hover)" : undefined }}>
              <span>{c.name}</span><Text component="span" size="xs" c="dimmed">{c.what}</Text>
            </UnstyledButton>
          ))}
        </div>
        {found.length === 0 && <Text size="sm" c="dimmed" p="xs">Nothing is called so.</Text>}
      </ScrollArea.Autosize>
    </>
  );
}
