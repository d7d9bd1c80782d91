// Code that is run live beside the editor, in a real kernel: by keys alone, with
// a tab that is closed in mid-run, and in two looks.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, pictures, platform, window } from "./platform.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let up, chrome;

const program = `# each cell stands alone
# %% counts
total = 0
for i in range(5):
    total += i
    print("step", i, flush=True)
# %% draws
from IPython.display import SVG, display
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40"><circle cx="20" cy="20" r="15" fill="teal"/></svg>'))
# %% fails
def f():
    raise ValueError("no such thing")
f()
# %% takes its time
import time
for i in range(50):
    print("tick", i, flush=True)
    time.sleep(0.1)
# %% asks
name = input("Who is there? ")
print("hello", name)
`;

before(async () => {
  up = await platform();
  chrome = await browser();
  const file = path.join(up.dir, "main.py");
  writeFileSync(file, program);
  await up.mlaas("api", "POST", "/api/job", "--data", '{"name": "live"}');
  await up.mlaas("api", "POST", "/api/job/live/code", "--data", JSON.stringify({ files: { "main.py": program } }));
});

after(async () => {
  await chrome?.close();
  await up?.end();
});

const code = async (options) => {
  const w = await window(chrome, await up.link(), options);
  await w.page.goto(`${up.url.origin}/jobs/live/code`);
  await w.page.getByRole("textbox", { name: "Text of main.py" }).getByText("# each cell stands alone").waitFor();
  return w;
};
/** Puts the cursor into the cell of this title, by keys alone, and runs it. */
const runs = async (w, title) => {
  await w.page.getByRole("textbox", { name: "Text of main.py" }).focus();
  const above = program.slice(0, program.indexOf(`# %% ${title}`)).split("\n").length - 1;
  await w.page.keyboard.press("Control+Home");
  for (let i = 0; i < above; i++) await w.page.keyboard.press("ArrowDown");
  await w.page.keyboard.press("Control+Enter");
};
const said = (w) => w.page.getByRole("log", { name: "What was executed" });

test("a cell is run by keys, and what it says comes while it runs", async () => {
  const w = await code();
  await runs(w, "counts");
  await said(w).getByText("step 4").waitFor({ timeout: 120_000 }); // the tools of kernels may have to be installed first
  await runs(w, "draws");
  await said(w).getByRole("img").waitFor();
  await w.page.getByText(/^\d+ variables?$/).click();
  await w.page.getByRole("region", { name: "Variables" }).getByRole("cell", { name: "total" }).waitFor();
  await w.page.screenshot({ path: path.join(pictures, "live.png") });
  assert.deepEqual(w.complaints, []);
  await w.context.close();
});

test("an error marks its line, and leads there", async () => {
  const w = await code();
  await runs(w, "fails");
  await said(w).getByText("ValueError: no such thing", { exact: true }).waitFor();
  await w.page.locator(".cm-failed", { hasText: "ValueError: no such thing" }).waitFor();
  await said(w).getByRole("button", { name: "main.py, line 12, in f" }).click();
  await w.page.locator(".cm-activeLine", { hasText: "raise ValueError" }).waitFor();
  await w.page.screenshot({ path: path.join(pictures, "live-error.png") });
  assert.deepEqual(w.complaints, []);
  await w.context.close();
});

test("a tab that is closed in mid-run loses nothing, and another browser has it too", async () => {
  const w = await code();
  await runs(w, "takes");
  await said(w).getByText(/tick 3\b/).waitFor();
  await w.context.close();
  const other = await code();
  await said(other).getByText(/tick 49\b/).waitFor();
  const text = await said(other).locator("pre.said", { hasText: "tick 0" }).last().textContent();
  assert.deepEqual(text.trim().split("\n"), Array.from({ length: 50 }, (_, i) => `tick ${i}`));
  await runs(other, "asks");
  await other.page.getByLabel("Who is there?").fill("Ada");
  await other.page.keyboard.press("Enter");
  await said(other).getByText("hello Ada").waitFor();
  await runs(other, "takes");
  await said(other).getByText(/tick 2\b/).last().waitFor();
  await other.page.getByRole("button", { name: "Interrupt" }).click();
  await said(other).locator('article[data-state="interrupted"]').or(said(other).getByText(/^KeyboardInterrupt/)).first().waitFor();
  assert.deepEqual(other.complaints, []);
  await other.context.close();
});

for (const [colorScheme, width] of [["light", 1280], ["dark", 360]]) {
  test(`everybody can use it: axe, ${colorScheme}, ${width} px`, async () => {
    const w = await code({ colorScheme, viewport: { width, height: 800 } });
    await said(w).getByText("hello Ada").waitFor();
    await w.page.evaluate(axe);
    const { violations } = await w.page.evaluate(() => globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], rules: { "target-size": { enabled: true } } }));
    assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary?.split("\n")[1]?.trim()}`).join(" | ")}`), []);
    assert.ok(await w.page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth), "the page is wider than the window");
    await w.page.screenshot({ path: path.join(pictures, `live-${colorScheme}-${width}.png`) });
    await w.context.close();
  });
}
