import { answer, api, Problem, type Version, type VersionContent } from "../api/client";

/**
 * Makes a version of another one with some files changed (null: gone). Files
 * that nobody touched stay as they are, byte for byte.
 */
export async function saveVersion(job: string, base: VersionContent | undefined, changed: Record<string, string | null>): Promise<Version> {
  const path = { params: { path: { id: job } } };
  const kept = (base?.files ?? []).filter((f) => !(f.path in changed));
  const texts = Object.entries(changed).filter((e): e is [string, string] => e[1] !== null);
  if (globalThis.crypto?.subtle) {
    const tree = [...kept];
    for (const [file, text] of texts) {
      const bytes = new TextEncoder().encode(text);
      const digest = `sha256:${hex(await crypto.subtle.digest("SHA-256", bytes))}`;
      const sent = await fetch(`/api/blob/${digest}`, { method: "PUT", headers: { "Content-Type": "application/octet-stream" }, body: bytes });
      if (!sent.ok) throw new Problem(((await sent.json().catch(() => ({}))) as { detail?: string }).detail ?? `${file} was not taken: ${sent.status}`, sent.status, "It was not saved");
      const was = base?.files?.find((f) => f.path === file);
      tree.push({ path: file, digest, size: bytes.length, ...(was?.exec && { exec: true }) });
    }
    return answer(api.POST("/api/job/{id}/code", { ...path, body: { tree } }));
  }
  // A browser gives no digests to a page that came without TLS from another machine.
  const files: Record<string, string> = {};
  for (const f of kept) {
    const text = base?.content?.[f.path];
    if (text === undefined) throw new Problem(`${f.path} is not text, and without TLS this browser can send texts alone. Use mlaas code push, or come by https.`, 0, "It was not saved");
    files[f.path] = text;
  }
  for (const [file, text] of texts) files[file] = text;
  return answer(api.POST("/api/job/{id}/code", { ...path, body: { files } }));
}

/** The digest of bytes; undefined where the browser gives none, as to a page that came without TLS from another machine. */
export async function digestOf(bytes: BufferSource): Promise<string | undefined> {
  return globalThis.crypto?.subtle ? `sha256:${hex(await crypto.subtle.digest("SHA-256", bytes))}` : undefined;
}

const hex = (bytes: ArrayBuffer) => [...new Uint8Array(bytes)].map((b) => b.toString(16).padStart(2, "0")).join("");
