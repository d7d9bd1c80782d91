import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { chosen, gzipped, tar } from "./pack";

test("what is no code is left out, by habit and by .mlaasignore", () => {
  const paths = ["main.py", "lib/net.py", ".git/HEAD", "lib/__pycache__/net.pyc", "weights.bin", "logs/a.txt", "a/logs/b.txt", "a/tmp/x", "data/keep.txt", "data/b.bin", "tmp", ".env"];
  const { kept, left } = chosen(paths, "# mine\n*.bin\n/logs/\n**/tmp/\n!data/keep.txt\n");
  expect(kept).toEqual(["main.py", "lib/net.py", "a/logs/b.txt", "data/keep.txt", "tmp"]);
  expect(left).toEqual([".git/", "lib/__pycache__/", "weights.bin", "logs/", "a/tmp/", "data/b.bin", ".env"]);
  expect(chosen(["a.py", "x[1].py", "b+c.py"], "[!ab].py\nx[[]1].py").kept).toEqual(["a.py", "b+c.py"]);
});

test("tar reads what was packed, long and foreign names included", async () => {
  const dir = mkdtempSync(path.join(tmpdir(), "mlaas-pack-"));
  try {
    const long = `${"folder/".repeat(20)}ä.py`;
    const files = [{ path: "main.py", bytes: new TextEncoder().encode("print(1)\n") }, { path: long, bytes: new Uint8Array(1500).fill(7) }, { path: "empty", bytes: new Uint8Array() }];
    const archive = path.join(dir, "a.tar.gz");
    writeFileSync(archive, new Uint8Array(await (await gzipped(tar(files))).arrayBuffer()));
    execFileSync("tar", ["-xzf", archive, "-C", dir]);
    for (const f of files) expect(new Uint8Array(readFileSync(path.join(dir, f.path)))).toEqual(f.bytes);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
