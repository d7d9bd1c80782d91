// A folder of this machine as it is sent: without what is no code, and as one
// archive. Pure, but for the compression that the browser has.

/** What is never code, wherever it lies; the command line leaves out the same. */
const never = ".git/\n.hg/\n.svn/\n__pycache__/\n*.pyc\n*.pyo\n*.egg-info/\n.venv/\nvenv/\nnode_modules/\n.mypy_cache/\n.pytest_cache/\n.ruff_cache/\n.ipynb_checkpoints/\n.tox/\n.nox/\n.idea/\n.vscode/\n.DS_Store\n.env\nmlaas-runs/\n";

export const most = { files: 10_000, bytes: 256 * 2 ** 20 };

type Rule = { match: RegExp; keep: boolean; folders: boolean };

function rules(text: string): Rule[] {
  return text.split("\n").map((l) => l.trimEnd()).filter((l) => l !== "" && !l.startsWith("#")).map((l) => {
    const keep = l.startsWith("!");
    let pattern = keep ? l.slice(1) : l;
    const folders = pattern.endsWith("/");
    if (folders) pattern = pattern.slice(0, -1);
    const anchored = pattern.includes("/");
    return { keep, folders, match: new RegExp(`^${anchored ? "" : "(?:.*/)?"}${glob(pattern.replace(/^\//, ""))}$`) };
  });
}

const glob = (p: string) =>
  p.replace(/\*\*\/|\*\*|\*|\?|\[!?[^\]]+\]|[.+^${}()|[\]\\]/g, (m) => (m === "**/" ? "(?:.*/)?" : m === "**" ? ".*" : m === "*" ? "[^/]*" : m === "?" ? "[^/]" : /^\[.+\]$/.test(m) ? m.replace("[!", "[^") : `\\${m}`));

/** Which of the paths go along, and which are left out by .mlaasignore or by habit. A folder that is left out takes all of it along. */
export function chosen(paths: string[], ignore = ""): { kept: string[]; left: string[] } {
  const all = rules(never + ignore);
  const out = (path: string, folder: boolean) => {
    for (const r of [...all].reverse()) if ((folder || !r.folders) && r.match.test(path)) return !r.keep;
    return false;
  };
  const kept: string[] = [];
  const left = new Set<string>();
  for (const path of paths) {
    const parts = path.split("/");
    const at = parts.findIndex((_, i) => out(parts.slice(0, i + 1).join("/"), i < parts.length - 1));
    if (at < 0) kept.push(path);
    else left.add(parts.slice(0, at + 1).join("/") + (at < parts.length - 1 ? "/" : ""));
  }
  return { kept, left: [...left] };
}

/** Files as a tar, one after another, as POSIX has it. */
export function tar(files: { path: string; bytes: Uint8Array }[]): Uint8Array[] {
  const out: Uint8Array[] = [];
  for (const f of files) {
    const name = new TextEncoder().encode(f.path);
    if (name.length > 100) {
      // A longer name comes in a record of its own in front.
      const record = ` path=${f.path}\n`;
      let size = new TextEncoder().encode(record).length;
      for (let n = 0; n !== String(size).length; ) {
        n = String(size).length;
        size = new TextEncoder().encode(record).length + n;
        if (String(size).length === n) break;
      }
      const text = new TextEncoder().encode(`${size}${record}`);
      out.push(head("long name", text.length, "x"), text, rest(text.length));
    }
    out.push(head(name.length > 100 ? "long" : f.path, f.bytes.length, "0"), f.bytes, rest(f.bytes.length));
  }
  out.push(new Uint8Array(1024));
  return out;
}

const rest = (size: number) => new Uint8Array((512 - (size % 512)) % 512);

function head(name: string, size: number, kind: string): Uint8Array {
  const h = new Uint8Array(512);
  const put = (text: string, at: number) => h.set(new TextEncoder().encode(text), at);
  put(name, 0);
  put("0000644\0", 100);
  put("0000000\0", 108);
  put("0000000\0", 116);
  put(`${size.toString(8).padStart(11, "0")}\0`, 124);
  put("00000000000\0", 136);
  put("        ", 148); // the sum is counted with spaces in its place
  put(kind, 156);
  put("ustar\x0000", 257);
  put(`${h.reduce((a, b) => a + b, 0).toString(8).padStart(6, "0")}\0 `, 148);
  return h;
}

export async function gzipped(parts: Uint8Array[]): Promise<Blob> {
  return new Response(new Blob(parts as BlobPart[]).stream().pipeThrough(new CompressionStream("gzip"))).blob();
}

/** Every file that was dropped, also in folders: their paths begin with the folder's name. */
export async function dropped(items: DataTransferItemList): Promise<{ path: string; file: File }[]> {
  const entries = [...items].map((i) => i.webkitGetAsEntry()).filter((e) => e !== null);
  const out: { path: string; file: File }[] = [];
  const walk = async (e: FileSystemEntry): Promise<void> => {
    if (e.isFile) {
      const file = await new Promise<File>((done, fail) => (e as FileSystemFileEntry).file(done, fail));
      out.push({ path: e.fullPath.replace(/^\//, ""), file });
      return;
    }
    const reader = (e as FileSystemDirectoryEntry).createReader();
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((done, fail) => reader.readEntries(done, fail));
      if (some.length === 0 || out.length > most.files * 2) return;
      for (const one of some) await walk(one);
    }
  };
  for (const e of entries) await walk(e);
  return out;
}
