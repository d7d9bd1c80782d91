// What a program evaluates, seen in a real browser: charts that appear by
// themselves, by mouse and by keys, and runs beside each other.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, pictures, platform, window } from "./platform.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let up, chrome, page, complaints;

const program = (noise) => `import os, random, time
import mlaas

random.seed(${noise * 10})
names = ["cat", "dog", "owl"]
truth = [random.randrange(3) for _ in range(400)]
def guess(y, noise):
    s = [random.random() * noise + (k == y) for k in range(3)]
    return [v / sum(s) for v in s]
for epoch in range(4):
    scores = [guess(y, ${noise} - 0.2 * epoch) for y in truth]
    mlaas.log({"val_acc": 0.9 - ${noise} / 10 - abs(2 - epoch) / 20, "train/loss": 1 / (epoch + 1), "lr": 0.1}, step=epoch)
    mlaas.evaluate(truth, scores, labels=names, name="test", step=epoch)
mlaas.evaluate([x / 10 for x in range(200)], [x / 10 + random.gauss(0, 1) for x in range(200)], name="price", step=0)
with open(os.path.join(mlaas.output, "sample-1200.svg"), "w") as f:
    f.write('<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40"><circle cx="20" cy="20" r="15" fill="teal"/></svg>')
`;

before(async () => {
  mkdirSync(pictures, { recursive: true });
  up = await platform();
  chrome = await browser();
  ({ page, complaints } = await window(chrome, await up.link()));
});

after(async () => {
  await chrome?.close();
  await up?.end();
});

const at = (where, of = page) => of.goto(new URL(where, up.url).href);
const picture = (name, of = page) => of.screenshot({ path: path.join(pictures, `${name}.png`), fullPage: true });
const clean = () => assert.deepEqual(complaints.splice(0), []);

async function run(name, text, ...flags) {
  const file = path.join(up.dir, `${name}.py`);
  writeFileSync(file, text);
  await up.mlaas("run", file, "--follow", ...flags);
}

test("charts of an evaluation appear by themselves", async () => {
  await run("animals", program(1.6), "--set", "execution.parameters.noise=1.6");
  await at("/jobs/animals/metrics");
  const part = page.getByRole("region", { name: "Evaluation" });
  await part.getByText("regression, 200 rows").waitFor(); // the newest
  await part.getByRole("region", { name: "Residuals" }).getByRole("img").waitFor();
  await picture("evaluation-regression");
  await at("/jobs/animals/metrics?eval=test");
  await part.getByText("multiclass, 400 rows").waitFor();
  await part.getByRole("region", { name: "ROC" }).locator("li", { hasText: /^micro · AUC 0\.\d+/ }).waitFor();
  await part.getByRole("region", { name: "Calibration" }).getByRole("img").waitFor();
  await part.getByRole("region", { name: "Classes" }).getByRole("button", { name: "recall" }).click();
  await part.getByRole("columnheader", { name: "recall" }).and(page.locator('[aria-sort="descending"]')).waitFor();
  await page.getByRole("region", { name: "Headline" }).getByText(/best 0\.74 at step 2, last 0\.69/).waitFor();
  await page.getByRole("region", { name: "Headline" }).getByText(/^Primary metric val_acc, because/).waitFor();
  await page.getByRole("region", { name: "Pictures" }).getByText("sample-1200.svg · step 1200 · worker-0").waitFor();
  await page.waitForFunction(() => document.querySelector("img[alt='sample-1200.svg']")?.naturalWidth === 80);
  await page.getByRole("button", { name: "train (1)" }).waitFor();
  await picture("evaluation");
  clean();
});

test("the cells of a confusion matrix are gone through by keys, and any step is chosen", async () => {
  const grid = page.getByRole("grid", { name: "Confusion, true by predicted" });
  await grid.getByRole("gridcell").first().focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowDown");
  assert.match(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), /^\d+: dog taken for dog: \d+ rows/);
  await page.getByText("rows", { exact: true }).click();
  const seen = await grid.getByRole("gridcell").allInnerTexts();
  assert.equal(seen.reduce((a, b) => a + Number(b), 0), 400);
  await page.getByRole("combobox", { name: /^Step/ }).click();
  await page.getByRole("option", { name: "0", exact: true }).click();
  await page.waitForURL(/step=0-worker-0/);
  clean();
});

test("what is drawn is saved as CSV, SVG and PNG", async () => {
  for (const [title, kind, begins] of [["ROC", "CSV", "class,false positive rate"], ["ROC", "SVG", "<svg"], ["ROC", "PNG", "\x89PNG"], ["Confusion", "SVG", "<svg"], ["val_acc", "PNG", "\x89PNG"]]) {
    await page.getByRole("button", { name: `Save ${title}`, exact: true }).click();
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("menuitem", { name: kind }).click()]);
    const text = readFileSync(await file.path(), "latin1");
    assert.ok(text.startsWith(begins) && text.length > 200, `${title} as ${kind}: ${text.slice(0, 60)}`);
  }
  clean();
});

test("an evaluation is seen at once while its run goes on", async () => {
  // The step is the time at which it was said.
  writeFileSync(path.join(up.dir, "live.py"), `import time, mlaas
for i in range(40):
    mlaas.evaluate([0, 1, 1, 0], [0.1, 0.9, 0.4, 0.6], name="live", step=int(time.time() * 1000))
    time.sleep(1)
`);
  await up.mlaas("run", path.join(up.dir, "live.py"), "-d");
  await at("/jobs/live/metrics");
  const step = page.getByRole("combobox", { name: /^Step/ });
  await step.waitFor();
  const newest = () => step.inputValue();
  const late = [];
  for (let i = 0; i < 4; i++) {
    const was = await newest();
    await page.waitForFunction((was) => [...document.querySelectorAll("input")].some((e) => /^[\d,]+ · newest$/.test(e.value) && e.value !== was), was, { polling: 20 });
    late.push(Date.now() - Number((await newest()).replace(/\D/g, "")));
  }
  console.log(`an evaluation is seen ${late.join(", ")} ms after it was said`);
  assert.ok(Math.min(...late) < 3000, String(late)); // 1 s is promised where the machine does nothing else
  await up.mlaas("stop", "live").catch(() => up.mlaas("job", "stop", "live").catch(() => {}));
  clean();
});

test("runs are compared", async () => {
  await run("animals", program(2.4), "--set", "execution.parameters.noise=2.4");
  await at("/jobs/animals/overview");
  await page.getByRole("checkbox", { name: "Select run 1" }).check();
  await page.getByRole("checkbox", { name: "Select run 2" }).check();
  await picture("runs");
  await page.getByRole("link", { name: "Compare 2" }).click();
  await page.waitForURL(/\/compare\?runs=animals%2F1%2Canimals%2F2/);
  await page.getByRole("row", { name: /^val_acc/ }).getByText("-0.08").waitFor();
  await picture("compare");
  await page.getByRole("tab", { name: "Curves" }).click();
  await page.getByRole("region", { name: "val_acc" }).waitFor();
  await picture("compare-curves");
  await page.getByRole("region", { name: "val_acc" }).getByRole("img", { name: /animals\/2 worker-0/ }).waitFor();
  await page.getByRole("tab", { name: "Evaluation" }).click();
  await page.getByRole("region", { name: "Evaluation of animals/2" }).getByRole("region", { name: "ROC" }).waitFor();
  await picture("compare-evaluation");
  await page.getByRole("tab", { name: "Configuration" }).click();
  await page.getByRole("row", { name: /^parameters.noise/ }).getByText("2.4").waitFor();
  await page.getByRole("tab", { name: "Code" }).click();
  await page.locator(".cm-insertedLine, .cm-changedLine").first().waitFor();
  await picture("compare-code");
  await at("/compare?runs=animals/1,nobody/7");
  await page.getByRole("alert").getByText(/no run "nobody.7"/).waitFor();
  complaints.length = 0; // of the run that is not there
});

for (const [colorScheme, width] of [["light", 1280], ["dark", 360]]) {
  test(`everybody can use it: axe, ${colorScheme}, ${width} px`, async () => {
    const w = await window(chrome, await up.link(), { colorScheme, viewport: { width, height: 800 } });
    const found = [];
    for (const where of ["/jobs/animals/metrics?eval=test", "/jobs/animals/metrics?eval=price", "/jobs/animals/overview", "/compare", "/compare?runs=animals/1,animals/2", "/compare?runs=animals/1,animals/2&part=evaluation", "/compare?runs=animals/1,animals/2&part=config", "/compare?runs=animals/1,animals/2&part=curves"]) {
      await at(where, w.page);
      await w.page.getByRole("heading", { level: 1 }).waitFor();
      await w.page.waitForFunction(() => ![...document.querySelectorAll("[role=status]")].some((e) => /^(Asking|One moment)/.test(e.textContent)));
      await w.page.evaluate(axe);
      const { violations } = await w.page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] }));
      for (const v of violations) found.push(`${where}: ${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(" | ")}`);
      const over = await w.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (over > 1) found.push(`${where}: ${over} px wider than the window`);
      await picture(`axe-${colorScheme}-${width}${where.replaceAll(/\W+/g, "-")}`, w.page);
    }
    await w.context.close();
    assert.deepEqual(found, []);
  });
}
