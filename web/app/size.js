// Prints what the first load of Jobs costs, and fails where it is more than
// promised: 300 KB of script, gzipped.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const page = new URL("../dist/page/", import.meta.url);
const manifest = JSON.parse(readFileSync(new URL(".vite/manifest.json", page)));
const first = new Set();
const take = (name) => {
  if (first.has(name)) return;
  first.add(name);
  for (const other of manifest[name].imports ?? []) take(other);
};
take("index.html");
const kilobytes = (name) => gzipSync(readFileSync(new URL(manifest[name].file, page)), { level: 9 }).length / 1000;
const total = [...first].reduce((sum, name) => sum + kilobytes(name), 0);
console.log(`first load of Jobs: ${total.toFixed(0)} KB of script gzipped, at most 300`);
for (const name of Object.keys(manifest).filter((n) => manifest[n].isDynamicEntry)) {
  console.log(`  later, ${name}: ${kilobytes(name).toFixed(0)} KB`);
}
if (total > 300) {
  console.error("that is more than is promised: load what Jobs does not show lazily, in router.tsx");
  process.exit(1);
}
