import { Anchor, NavLink, Stack, Text, TextInput, Title } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { useLocation, useNavigate, useParams, useRouter, useSearch } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import type { DocPage } from "../api/client";
import { docPageQuery, docsQuery } from "../api/queries";
import { Failed } from "../shell/Failed";
import { NavTo, To } from "../shell/links";
import { many } from "../shell/words";

const groups = [
  ["tutorials", "Tutorials"],
  ["how-to", "How to"],
  ["reference", "Reference"],
  ["explanation", "Explanation"],
  ["design", "Why it is built so"],
] as const;

/** The documentation of this very version: it is in the binary, and needs no network. */
export function Docs() {
  const { _splat: path } = useParams({ strict: false });
  const { q } = useSearch({ strict: false });
  const navigate = useNavigate();
  const pages = useQuery(docsQuery(""));
  const [words, setWords] = useState(q ?? "");
  useEffect(() => setWords(q ?? ""), [q]);
  const [asked] = useDebouncedValue(words, 150);
  return (
    <div className="docs">
      <nav aria-label="Documentation">
        <TextInput label="Search the docs" data-filter value={words} mb="sm" onChange={(e) => {
          setWords(e.currentTarget.value);
          void navigate({ to: path ? "/docs/$" : "/docs", params: { _splat: path ?? "" }, search: { q: e.currentTarget.value || undefined }, replace: true });
        }} />
        {path && <div className="narrow"><To to="/docs" search={{}}>All pages</To></div>}
        {pages.data && !asked && <div className={path ? "contents" : undefined}><Contents pages={pages.data} at={path} /></div>}
      </nav>
      <div style={{ minWidth: 0 }}>
        {pages.error && <Failed error={pages.error} again={() => void pages.refetch()} />}
        {asked ? <Found words={asked} /> : path ? <Page path={path} /> : <Start />}
      </div>
    </div>
  );
}

function Contents({ pages, at }: { pages: DocPage[]; at: string | undefined }) {
  return (
    <>
      {groups.map(([group, name]) => (
        <NavLink key={group} component="button" label={name} defaultOpened={group !== "design" || !!at?.startsWith("design/")} childrenOffset={12}>
          {pages.filter((p) => p.group === group).map((p) => <NavTo key={p.path} to="/docs/$" params={{ _splat: p.path }} search={{}} label={p.title} active={p.path === at} aria-current={p.path === at ? "page" : undefined} />)}
        </NavLink>
      ))}
      <NavTo to="/docs/api" label="REST API" />
    </>
  );
}

function Start() {
  return (
    <Stack maw={720}>
      <Title order={1} size="h2">Docs</Title>
      <Text>All of it belongs to the version that runs here and needs no network. Begin with <To to="/docs/$" params={{ _splat: "tutorials/first-job" }} search={{}}>your first job</To>; <To to="/docs/$" params={{ _splat: "reference/job" }} search={{}}>a job, field by field</To> says what can be asked for, <To to="/docs/$" params={{ _splat: "guarantees" }} search={{}}>what is promised</To> what you may rely on.</Text>
      <Text><To to="/docs/api">The REST API</To>: every route, with what it takes and gives; those that read can be tried there. The same as an <Anchor href="/openapi.json" underline="always">OpenAPI document</Anchor>, or <Anchor href="/openapi.yaml" underline="always">as YAML</Anchor>.</Text>
      <Text>Each command says what it does, with examples: <code>mlaas --help</code>.</Text>
    </Stack>
  );
}

function Found({ words }: { words: string }) {
  const found = useQuery(docsQuery(words));
  if (found.error) return <Failed error={found.error} again={() => void found.refetch()} />;
  if (!found.data) return <Text role="status">Searching…</Text>;
  const hits = found.data.flatMap((p) => p.hits ?? []);
  return (
    <Stack gap="sm" maw={720}>
      <Title order={1} size="h2">Found in the docs</Title>
      <Text size="sm" c="dimmed" aria-live="polite">{hits.length === 0 ? "No section has all these words. Take one out, or look through the list of pages." : `${many(hits.length, "section")} on ${many(found.data.length, "page")}`}</Text>
      {hits.map((h) => (
        <div key={`${h.path}#${h.id}`}>
          <To to="/docs/$" params={{ _splat: h.path }} search={{}} {...(h.id && { hash: h.id })} fw={600}>{h.title}{h.heading ? `: ${h.heading}` : ""}</To>
          <Text size="sm" style={{ overflowWrap: "anywhere" }}>{h.excerpt}</Text>
        </div>
      ))}
    </Stack>
  );
}

function Page({ path }: { path: string }) {
  const page = useQuery(docPageQuery(path));
  const { hash } = useLocation();
  const router = useRouter();
  const text = useRef<HTMLElement>(null);
  const html = page.data?.html;

  // The text is the platform's own. What it cannot bring along is made here.
  useEffect(() => {
    const e = text.current;
    if (!e || html === undefined) return;
    e.innerHTML = html;
    for (const h of e.querySelectorAll("h2[id], h3[id]")) {
      const a = document.createElement("a");
      a.href = `#${h.id}`;
      a.className = "anchor";
      a.textContent = "#";
      a.setAttribute("aria-label", `A link to: ${h.textContent}`);
      h.append(" ", a);
    }
    for (const pre of e.querySelectorAll("pre")) {
      const box = document.createElement("div");
      box.className = "copied";
      pre.before(box);
      const copy = document.createElement("button");
      copy.type = "button";
      copy.textContent = "Copy";
      copy.onclick = () => void navigator.clipboard.writeText(pre.textContent ?? "").then(() => { copy.textContent = "Copied"; }, () => { copy.textContent = "The browser does not let it"; });
      pre.tabIndex = 0;
      box.append(pre, copy);
    }
    for (const table of e.querySelectorAll("table")) table.tabIndex = 0;
  }, [html]);
  useEffect(() => {
    if (html === undefined) return;
    if (hash) document.getElementById(hash)?.scrollIntoView();
    else window.scrollTo(0, 0);
  }, [html, hash]);
  useEffect(() => {
    if (page.data) document.title = `${page.data.title} · mlaas`;
  }, [page.data]);

  if (page.error) return <><Title order={1} size="h2">Docs</Title><Failed error={page.error} again={() => void page.refetch()} /></>;
  if (!page.data) return <Text role="status">Asking for the page…</Text>;
  return (
    <article className="doc" ref={text} onClick={(e) => {
      const to = (e.target as HTMLElement).closest("a")?.getAttribute("href");
      if (!to || e.ctrlKey || e.metaKey || e.shiftKey || !(to.startsWith("#") || to.startsWith("/docs/"))) return;
      e.preventDefault();
      router.history.push(to.startsWith("#") ? `/docs/${path}${to}` : to);
    }} />
  );
}
