// The page on the real binary in a real browser: what a newcomer does, what
// the network does to it, and whether everybody can use it.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, pictures, platform, window, wire } from "./platform.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let up, chrome, cable, context, page, complaints;

before(async () => {
  up = await platform();
  chrome = await browser();
  cable = await wire(up.url.port);
  ({ context, page, complaints } = await window(chrome, await up.link(cable.port)));
});

after(async () => {
  await chrome?.close();
  await cable?.end();
  await up?.end();
});

/** Runs a program by the command line and leaves it alone. */
async function runs(name, text) {
  const file = path.join(up.dir, `${name}.py`);
  writeFileSync(file, text);
  await up.mlaas("run", file, "-d");
}

/** Nothing that the page asked for was refused, and nothing of it broke. */
const clean = () => assert.deepEqual(complaints.splice(0), []);

/** Waits until what is shown is live. */
const live = (of = page) => of.locator('[role=status][data-tone="good"]').waitFor();
const at = (where, of = page) => of.goto(`http://127.0.0.1:${cable.port}${where}`);
const picture = (name, of = page) => of.screenshot({ path: path.join(pictures, `${name}.png`) });

test("a browser without a login is told how to get one", async () => {
  const other = await window(chrome);
  await other.page.goto(up.url.href);
  await other.page.getByRole("heading", { name: "This browser is not signed in" }).waitFor();
  await other.context.close();
});

test("who has no job is shown the shortest way to one", async () => {
  await page.getByText("No job yet.").waitFor();
  await picture("jobs-empty");
  await page.getByRole("link", { name: "Other ways to begin" }).click();
  await page.getByRole("button", { name: /The smallest job/ }).click();
  await page.getByRole("cell", { name: "it imports none of the frameworks that mlaas knows" }).waitFor();
  await picture("new-job");
  await page.getByRole("button", { name: "Run", exact: true }).click();
  await page.waitForURL(/\/jobs\/hello\/overview/);
});

test("its log and its curve are seen while it runs", async () => {
  await page.getByRole("tab", { name: "Replicas & logs" }).click();
  const log = page.getByRole("log");
  await log.getByText("step 10: loss").waitFor();
  await page.getByRole("row", { name: /worker-0/ }).locator(".status", { hasText: "running" }).waitFor();
  await page.getByRole("tab", { name: "Metrics & evaluation" }).click();
  await page.getByRole("region", { name: "loss" }).getByRole("img", { name: /loss, the newest: worker-0 0\.\d+/ }).waitFor();
  const drawn = await page.locator(".uplot canvas").first().evaluate((c) => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v) => v !== 0));
  assert.ok(drawn, "the chart's canvas is empty");
  await picture("metrics");
  await page.getByRole("switch", { name: "As tables" }).click();
  await page.getByRole("region", { name: "Points" }).getByRole("cell", { name: "worker-0" }).first().waitFor();
  await page.locator(".status", { hasText: "succeeded" }).first().waitFor();
  clean();
});

test("code is edited, saved as a new version and run", async () => {
  await at("/jobs/hello/code");
  const editor = page.getByRole("textbox", { name: "Text of main.py" });
  await editor.click();
  await page.keyboard.press("Control+End");
  await page.keyboard.type('print("edited in the browser")');
  await page.getByRole("button", { name: "Save as v2" }).waitFor();
  await page.reload(); // a closed tab loses nothing
  await page.getByRole("button", { name: "Save as v2" }).waitFor();
  await page.getByText('print("edited in the browser")').waitFor();
  await page.getByText("Changes", { exact: true }).click();
  await page.locator(".cm-insertedLine, .cm-changedLine").filter({ hasText: "edited in the browser" }).first().waitFor();
  await page.getByText("Text", { exact: true }).click();
  await editor.click();
  await page.keyboard.press("Control+s");
  await page.getByRole("button", { name: "Run v2 as job" }).click();
  await page.getByRole("heading", { name: "Output of run 2" }).waitFor();
  await page.getByText("of this code, v2").waitFor();
  await page.getByRole("log").getByText("step 0: loss").waitFor();
  await picture("code");
  await page.getByRole("log").getByText("edited in the browser").waitFor();
  const versions = JSON.parse(await up.mlaas("api", "GET", "/api/job/hello/code").catch(() => "null"));
  if (versions) assert.equal(versions.items.length, 2);
});

test("what a run starts is shown before it starts", async () => {
  await page.getByText("As it runs", { exact: true }).click();
  await page.getByText(/^Mode nonintrusive/).waitFor();
  clean();
});

test("a failure says why, where, and what to do", async () => {
  await runs("bad", 'def f():\n    raise ValueError("no such thing")\n\n\nprint("begin")\nf()\n');
  await at("/jobs/bad/overview");
  const card = page.getByRole("region", { name: "Why it failed" });
  await card.getByText("ValueError: no such thing", { exact: true }).waitFor();
  await card.getByRole("link", { name: "bad.py, line 2" }).waitFor();
  await picture("failed");
  await card.getByRole("link", { name: "bad.py, line 2" }).click();
  await page.locator(".cm-activeLine", { hasText: "raise ValueError" }).waitFor();
  await page.goBack();
  await card.getByRole("link", { name: "Where it stands in the log" }).click();
  await page.locator('.line[data-at="true"]', { hasText: "ValueError: no such thing" }).waitFor();
  await page.getByRole("button", { name: "Back to what comes now" }).click();
  await page.getByRole("textbox", { name: "Search" }).fill("beg.n");
  await page.getByText("1 line here").waitFor();
  await page.getByRole("textbox", { name: "Search" }).fill("(");
  await page.getByText(/regular expression/).first().waitFor();
});

test("a network that is away for 10 s loses no line and doubles none", async () => {
  const lines = 300;
  await runs("steady", `import time\nfor i in range(${lines}):\n    print("line", i, flush=True)\n    time.sleep(0.1)\n`);
  await at("/jobs/steady/replicas");
  await page.getByRole("log").getByText("line 20", { exact: true }).waitFor();
  clean();
  cable.cut();
  await page.getByRole("alert").getByText("What you see is as of").waitFor();
  await new Promise((resolve) => setTimeout(resolve, 10_000)); // it is away for so long
  await picture("away");
  cable.mend();
  await live();
  await page.getByRole("alert").waitFor({ state: "detached" });
  await page.getByRole("log").getByText(`line ${lines - 1}`, { exact: true }).waitFor({ timeout: 60_000 });
  await page.getByText(/^300 lines here, up to number 300\./).waitFor();
  complaints.length = 0; // of what could not be reached meanwhile
});

test("everything is reached by keys", async () => {
  await at("/jobs");
  await page.getByRole("list", { name: "3 jobs" }).waitFor();
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: /Search pages/ }).waitFor();
  await page.keyboard.type("hello");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/jobs\/hello\/overview/);
  await page.getByRole("dialog").waitFor({ state: "detached" }); // keys are the page's again
  await page.getByRole("tab", { name: "Overview", selected: true }).waitFor();
  await page.keyboard.press("3");
  await page.waitForURL(/\/jobs\/hello\/replicas/);
  await page.keyboard.press("g");
  await page.keyboard.press("c");
  await page.getByRole("region", { name: "local" }).waitFor();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("g");
  await page.keyboard.press("j");
  await page.getByRole("list", { name: "3 jobs" }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("status:failed");
  await page.getByRole("list", { name: "1 job", exact: true }).waitFor();
  assert.match(page.url(), /q=status/);
  await page.goBack();
  clean();
});

test("the address that the page had before still leads there", async () => {
  const run = await page.evaluate(() => fetch("/api/run?limit=1").then((r) => r.json()).then((r) => r.items[0]));
  await at(`/?run=${run.id}`);
  await page.waitForURL(new RegExp(`/jobs/${run.jobName}/overview\\?run=${run.number}`));
  clean();
});

test("what the API refuses is said in its words, and the rest of the page stays", async () => {
  const other = await context.newPage();
  await other.route("**/api/cluster*", (r) => r.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ title: "The platform cannot do this now", detail: "the store is being moved", status: 503, request_id: "r-1" }) }));
  await at("/clusters", other);
  await other.getByRole("alert").getByText("the store is being moved").waitFor();
  await other.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Jobs" }).click();
  await other.getByRole("list", { name: /jobs/ }).waitFor();
  await at("/jobs/nobody/overview", other);
  await other.getByRole("alert").getByText(/no job "nobody"/).waitFor();
  await other.close();
});

const everywhere = ["/jobs", "/jobs/new?from=hello", "/jobs/hello/overview", "/jobs/bad/overview", "/jobs/hello/code", "/jobs/hello/replicas", "/jobs/hello/metrics", "/jobs/hello/model", "/deployments", "/clusters", "/queue", "/settings", "/docs", "/docs/reference/job", "/docs?q=backup", "/docs/api"];

// Each page in each look; where it is to be short, each look and each width once.
const short = process.env.MLAAS_SHORT === "1";
for (const colorScheme of ["light", "dark"]) {
  for (const width of [1280, 360].filter((w) => !short || (w === 1280) === (colorScheme === "light"))) {
    test(`everybody can use it: axe, ${colorScheme}, ${width} px`, async () => {
      const w = await window(chrome, await up.link(cable.port), { colorScheme, viewport: { width, height: 800 } });
      const found = [];
      for (const where of everywhere) {
        await at(where, w.page);
        await live(w.page);
        await w.page.getByRole("heading", { level: 1 }).waitFor();
        await w.page.waitForLoadState("networkidle");
        await w.page.evaluate(axe);
        const { violations } = await w.page.evaluate(() => globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], rules: { "target-size": { enabled: true } } }));
        for (const v of violations) found.push(`${where}: ${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary?.split("\n")[1]?.trim() ?? ""}`).slice(0, 3).join(" | ")}`);
        const wide = await w.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        if (wide > 0) found.push(`${where}: the page is ${wide} px wider than the window`);
        await picture(`${where.split("?")[0].slice(1).replaceAll("/", "-")}-${colorScheme}-${width}`, w.page);
      }
      assert.deepEqual([...found, ...w.complaints], []);
      await w.context.close();
    });
  }
}
