// What one looks at and reads besides the path of a job: replicas, docs,
// notifications, saved views.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, pictures, platform, window } from "./platform.js";

let up, chrome, context, page, complaints;

before(async () => {
  up = await platform();
  chrome = await browser();
  ({ context, page, complaints } = await window(chrome, await up.link()));
});

after(async () => {
  await chrome?.close();
  await up?.end();
});

const clean = () => assert.deepEqual(complaints.splice(0), []);
const at = (where, of = page) => of.goto(new URL(where, up.url).href);
const picture = (name, of = page) => of.screenshot({ path: path.join(pictures, `${name}.png`) });

/** Runs a program by the command line and leaves it alone. */
async function runs(name, text, ...more) {
  const file = path.join(up.dir, `${name}.py`);
  writeFileSync(file, text);
  await up.mlaas("run", file, "-d", ...more);
}

test("the documentation is read, followed and searched without a network", async () => {
  await at("/docs");
  await page.getByRole("navigation", { name: "Documentation" }).getByRole("link", { name: "Keep records and messages in Redis" }).click();
  await page.getByRole("article").getByRole("heading", { level: 1, name: "Keep records and messages in Redis" }).waitFor();
  await page.getByRole("article").getByRole("button", { name: "Copy" }).first().waitFor();
  await picture("docs-page");
  await page.getByRole("article").locator('a[href="/docs/guarantees#redis"]').click();
  await page.waitForURL(/\/docs\/guarantees#redis/);
  assert.ok(await page.locator("#redis").evaluate((e) => e.getBoundingClientRect().top < innerHeight), "the section is not in sight");
  await page.keyboard.press("/");
  await page.keyboard.type("restore backup");
  await page.getByRole("heading", { level: 1, name: "Found in the docs" }).waitFor();
  const first = page.getByRole("link", { name: /^Back up and restore/ }).first();
  await first.waitFor();
  await picture("docs-search");
  await first.click();
  await page.getByRole("heading", { level: 1, name: "Back up and restore" }).waitFor();
  await page.keyboard.press("Control+k");
  await page.keyboard.type("guiding mode");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Guiding mode" }).waitFor();
  clean();
});

test("the type of a problem leads to where it is explained", async () => {
  const { type } = await page.evaluate(() => fetch("/api/job/nobody").then((r) => r.json()));
  complaints.length = 0; // that was meant to be refused
  await at(type);
  await page.waitForURL(/\/docs\/reference\/errors#not_found/);
  await page.getByRole("heading", { level: 2, name: /not_found/ }).waitFor();
  clean();
});

test("each replica has its phases, what its threads do and a shell in it", async () => {
  await runs("looked", 'import os, time\nopen("canary", "w").write("here I am")\n\ndef deep():\n    while not os.path.exists("go"):\n        time.sleep(0.05)\n\nprint("waits", flush=True)\ndeep()\nraise ValueError("on purpose")\n', "--workers", "2-2");
  await at("/jobs/looked/replicas");
  const row = page.getByRole("row", { name: /worker-1/ });
  await page.getByRole("log").getByText("waits").nth(1).waitFor();
  await row.getByRole("img", { name: /queued .*, created .*, made ready .*, running / }).waitFor();
  const more = async (what) => {
    await page.getByRole("button", { name: "More of worker-1" }).click();
    await page.getByRole("menuitem", { name: what }).click();
  };
  await more("Phases and history");
  await page.getByRole("dialog").getByRole("cell", { name: "code fetched" }).waitFor();
  await page.getByRole("dialog").getByText(/attempt 1: running/).waitFor();
  await picture("replica-phases");
  await page.keyboard.press("Escape");
  await more("What it does now");
  await page.getByRole("dialog").getByText(/deep {2}.*looked\.py:\d+/).waitFor();
  await picture("replica-stack");
  await page.keyboard.press("Escape");
  await more("Shell");
  await page.getByRole("group", { name: "Shell in worker-1" }).locator(".xterm-screen").waitFor();
  await page.locator(".xterm-helper-textarea").waitFor({ state: "attached" });
  await page.keyboard.type("cat canary; echo; stty size\n");
  await page.locator(".xterm").getByText("here I am").first().waitFor();
  await picture("replica-shell");
  await page.keyboard.type("touch go; exit 3\n");
  await page.getByRole("status").getByText("The shell has ended with 3.").waitFor();
  await page.getByRole("button", { name: "Close" }).click();
  await page.locator(".status", { hasText: "failed" }).first().waitFor();
  await page.getByRole("row", { name: /worker-1/ }).getByText("exit code 1").waitFor();
  await picture("replicas-failed");
  clean();
});

test("a missing package is added by one press, and the job runs again", async () => {
  await runs("needs", "import six_is_not_there\n");
  await at("/jobs/needs/overview");
  await page.getByRole("button", { name: "Add the package six_is_not_there and run again" }).waitFor();
  clean();
});
