import { Text } from "@mantine/core";
import DOMPurify from "dompurify";
import { useMemo } from "react";
import { spans } from "./ansi";
import type { Output } from "./outputs";

/** A text with the colours that it says. */
export function Terminal({ text }: { text: string }) {
  const parts = useMemo(() => spans(text.endsWith("\r") ? text.slice(0, -1) : text), [text]);
  return parts.map((s, i) => (s.colour === undefined && !s.bold ? s.text : <span key={i} className={`${s.colour === undefined ? "" : `ansi-${s.colour}`} ${s.bold ? "bold" : ""}`.trim()}>{s.text}</span>));
}

const joined = (v: unknown) => (Array.isArray(v) ? v.join("") : typeof v === "string" ? v : JSON.stringify(v, undefined, 1));

/**
 * What a program shows: a picture, a table, or text. What it says in HTML is
 * taken for what it looks like alone: no scripts, styles, forms or frames.
 */
export function Rich({ data, name }: { data: Record<string, unknown>; name: string }) {
  const words = joined(data["text/plain"] ?? "");
  const html = data["text/html"] === undefined ? undefined : joined(data["text/html"]);
  const clean = useMemo(() => (html === undefined ? "" : DOMPurify.sanitize(html, { FORBID_TAGS: ["style", "form", "input", "button", "iframe", "link", "base"], FORBID_ATTR: ["style", "id", "name", "class"] })), [html]);
  for (const type of ["image/png", "image/jpeg", "image/gif", "image/webp"]) {
    if (data[type] !== undefined) return <img className="figure" src={`data:${type};base64,${joined(data[type]).replace(/\s/g, "")}`} alt={`${name}: ${words || "a figure"}`} />;
  }
  const svg = data["image/svg+xml"];
  if (svg !== undefined) return <img className="figure" src={`data:image/svg+xml;charset=utf-8,${encodeURIComponent(joined(svg))}`} alt={`${name}: ${words || "a drawing"}`} />;
  if (clean) return <div className="rich" tabIndex={0} role="group" aria-label={name} dangerouslySetInnerHTML={{ __html: clean }} />;
  const other = Object.keys(data)[0];
  return <pre className="said">{words || (other ? joined(data[other]) : "")}</pre>;
}

/** One thing that was said, and where in the code where it failed. */
export function Shown({ output: o, name, to }: { output: Output; name: string; to: (file: string, line: number) => void }) {
  if (o.type === "text") {
    return (
      <>
        {o.left && <Text size="xs" c="dimmed">Earlier text is not shown here any more.</Text>}
        <pre className="said" data-stream={o.name}><Terminal text={o.text} /></pre>
      </>
    );
  }
  if (o.type === "data") return <Rich data={o.data} name={name} />;
  return (
    <div role="alert" className="failure">
      <Text size="sm" fw={600} className="bad">{o.error}: {o.value}</Text>
      {o.frames.map((f, i) => <button key={i} type="button" className="frame" onClick={() => to(f.file, f.line)}>{f.file}, line {f.line}{f.function && f.function !== "<module>" ? `, in ${f.function}` : ""}</button>)}
      {o.traceback.length > 0 && <details><summary>The whole traceback</summary><pre className="said"><Terminal text={o.traceback.join("\n")} /></pre></details>}
    </div>
  );
}
