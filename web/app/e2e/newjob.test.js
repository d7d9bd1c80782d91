// New job: what would become of one before it is run, the cards, and the
// builder of networks by keys alone.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, pictures, platform, window } from "./platform.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let up, chrome, page, complaints;
const at = (where, of = page) => of.goto(`${up.url.origin}${where}`);
const picture = (name, of = page) => of.screenshot({ path: path.join(pictures, `${name}.png`), fullPage: true });

before(async () => {
  up = await platform();
  chrome = await browser();
  ({ page, complaints } = await window(chrome, await up.link()));
});

after(async () => {
  await chrome?.close();
  await up?.end();
});

test("the plan says why before anything is asked for", async () => {
  await at("/jobs/new?from=hello");
  const starts = page.getByRole("status", { name: "Whether it starts" });
  await starts.getByText("starts at once on local").waitFor();
  await page.getByLabel("GPUs of each").fill("1000");
  await starts.getByText(/needs 1000 GPU for one worker/).waitFor();
  await picture("new-job-never");
  await page.getByLabel("GPUs of each").fill("");
  await starts.getByText("starts at once on local").waitFor();
});

test("an annotated program is one press, and runs", async () => {
  await at("/jobs/new?from=annotation");
  await page.getByText(/What is injected/).waitFor();
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await page.waitForURL(/\/jobs\/annotated\/overview/);
  await page.locator(".status", { hasText: "succeeded" }).first().waitFor({ timeout: 60_000 });
});

test("a guided job has the files of its template", async () => {
  await at("/jobs/new?from=guiding:keras");
  await page.getByText(/the template keras/).waitFor();
  await page.getByRole("button", { name: "Make it without running" }).click();
  await page.waitForURL(/\/jobs\/keras-guided\/overview/);
  const version = JSON.parse(await up.mlaas("api", "GET", "/api/job/keras-guided/code/latest"));
  assert.deepEqual(version.files.map((f) => f.path).sort(), ["main.py", "mlaas.yaml", "model.py", "workflow.py"]);
});

test("a job file fills the form", async () => {
  await at("/jobs/new");
  await page.getByRole("button", { name: "Paste a job file" }).click();
  await page.getByLabel(/YAML or JSON/).fill("name: pasted\nroles:\n  worker: {replicas: 2-3, cpu: 300m}\n");
  await page.getByRole("button", { name: "Fill the form" }).click();
  await page.getByLabel("Workers").and(page.locator('[value="2-3"]')).waitFor();
  assert.equal(await page.getByLabel("CPU of each").inputValue(), "300m");
});

test("a network is built by keys alone, undone, and made a job", async () => {
  await at("/jobs/new?from=composed");
  const layers = page.getByRole("list", { name: "Layers" });
  await page.getByRole("status", { name: "Network in all" }).getByText(/109,386 parameters/).waitFor();
  await page.getByRole("button", { name: "Add layer" }).focus();
  await page.keyboard.press("Enter");
  await layers.getByRole("listitem").nth(2).waitFor();
  await page.getByRole("button", { name: "Move layer 3 up" }).focus();
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  await layers.getByRole("listitem").first().getByText("gives (64)").waitFor();
  assert.match(page.url(), /net=/);
  await page.getByRole("button", { name: "Undo" }).focus();
  for (let i = 0; i < 3; i++) await page.keyboard.press("Enter");
  await page.getByRole("status", { name: "Network in all" }).getByText(/109,386 parameters/).waitFor();
  await page.getByRole("button", { name: "Show code" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("textbox", { name: "Text of main.py" }).waitFor();
  await picture("builder");
  await page.getByRole("button", { name: "Make it without running" }).click();
  await page.waitForURL(/\/jobs\/network\/overview/);
  await at("/jobs/network/code"); // it never ran, and its program is there
  await page.getByRole("textbox", { name: "Text of main.py" }).waitFor();
});

test("a job is deleted after a question, and brought back", async () => {
  await at("/jobs/network/overview");
  await page.getByRole("button", { name: "More" }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.getByRole("button", { name: "Undo" }).click();
  await page.waitForURL(/\/jobs\/network\/overview/);
  await page.getByRole("heading", { name: "network" }).waitFor();
  // The page of the job may ask for its runs once more while it is being deleted.
  assert.deepEqual(complaints.splice(0).filter((c) => !/^404 GET .*\/run\?limit=200/.test(c)), []);
});

for (const [colorScheme, width] of [["light", 1280], ["dark", 360]]) {
  test(`everybody can use it: axe, ${colorScheme}, ${width} px`, async () => {
    const w = await window(chrome, await up.link(), { colorScheme, viewport: { width, height: 800 } });
    const found = [];
    for (const where of ["/jobs/new", "/jobs/new?from=composed"]) {
      await at(where, w.page);
      await w.page.getByRole("status", { name: "Whether it starts" }).waitFor();
      await w.page.evaluate(axe);
      const { violations } = await w.page.evaluate(() => globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], rules: { "target-size": { enabled: true } } }));
      for (const v of violations) found.push(`${where}: ${v.id}: ${v.nodes.map((n) => n.target).slice(0, 3).join(" | ")}`);
      const wide = await w.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (wide > 0) found.push(`${where}: the page is ${wide} px wider than the window`);
      await picture(`new-job-${where.includes("composed") ? "composed" : "gallery"}-${colorScheme}-${width}`, w.page);
    }
    assert.deepEqual(found, []);
    await w.context.close();
  });
}
