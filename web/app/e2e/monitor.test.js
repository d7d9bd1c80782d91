// What one looks at and reads besides the path of a job: replicas, docs,
// notifications, saved views.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
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
  await runs("looked", 'import os, time\nopen("canary", "w").write("here I am")\n\ndef deep():\n    while not os.path.exists("go"):\n        time.sleep(0.05)\n\nprint("waits", flush=True)\ndeep()\nraise ValueError("on purpose")\n');
  await at("/jobs/looked/replicas");
  const row = page.getByRole("row", { name: /worker-0/ });
  await page.getByRole("log").getByText("waits").waitFor();
  await row.getByRole("img", { name: /queued .*, created .*, made ready .*, running / }).waitFor();
  const more = async (what) => {
    await page.getByRole("button", { name: "More of worker-0" }).click();
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
  await page.getByRole("group", { name: "Shell in worker-0" }).locator(".xterm-screen").waitFor();
  await page.locator(".xterm-helper-textarea").waitFor({ state: "attached" });
  await page.keyboard.type("cat canary; echo; stty size\n");
  await page.locator(".xterm").getByText("here I am").first().waitFor();
  await picture("replica-shell");
  await page.keyboard.type("touch go; exit 3\n");
  await page.getByRole("status").getByText("The shell has ended with 3.").waitFor();
  await page.locator(".status", { hasText: "failed" }).first().waitFor();
  // Two styles of the terminal are refused by the page's policy; it works without them.
  assert.deepEqual(complaints.splice(0).filter((c) => !/^Applying inline style violates/.test(c)), []);
});

test("a missing package is added by one press, and the job runs again", async () => {
  await runs("needs", "import six_is_not_there\n");
  await at("/jobs/needs/overview");
  await page.getByRole("button", { name: "Add the package six_is_not_there and run again" }).waitFor();
  clean();
});

test("a webhook is told when a run fails, a test is sent, and what was sent is seen", async () => {
  const heard = [];
  let told = () => {};
  const hook = createServer((r, w) => {
    let text = "";
    r.on("data", (d) => { text += d; });
    r.on("end", () => {
      heard.push({ id: r.headers["webhook-id"], ...JSON.parse(text) });
      w.writeHead(204).end();
      told();
    });
  });
  await new Promise((resolve) => hook.listen(0, "127.0.0.1", resolve));
  const another = (n) => new Promise((resolve) => {
    told = () => heard.length >= n && resolve();
    told();
  });
  const url = `http://127.0.0.1:${hook.address().port}/x`;
  try {
    await up.mlaas("notify", "add", "--webhook", url);
    await at("/settings");
    const part = page.getByRole("region", { name: "Notifications" });
    await part.getByRole("button", { name: `Send a test: ${url}` }).click();
    await another(1);
    assert.equal(heard[0].type, "dev.mlaas.test.v1");
    await part.getByText(/a test: delivered, 1 tried, the last was taken/).waitFor();
    await picture("notifications");
    await runs("doomed", 'raise SystemExit("on purpose")\n');
    await another(2);
    assert.equal(heard[1].type, "dev.mlaas.run.ended.v1");
    assert.match(heard[1].data.text, /^doomed\/1 failed: /);
    const listed = await up.mlaas("notify", "ls", "-o", "json");
    const [{ id }] = JSON.parse(listed);
    const sent = JSON.parse(await up.mlaas("notify", "deliveries", id, "-o", "json"));
    assert.deepEqual(sent.map((d) => d.id).sort(), heard.map((h) => h.id).sort());
    await part.getByRole("button", { name: `Remove: ${url}` }).click();
    await part.getByText("Nobody else is told yet.").waitFor();
  } finally {
    hook.closeAllConnections();
    hook.close();
  }
  clean();
});

test("a view of the jobs is saved, is there in another browser, and is deleted", async () => {
  await at("/jobs?q=status%3Afailed&sort=name");
  await page.getByRole("list", { name: /job/ }).waitFor();
  await page.getByRole("button", { name: "Views" }).click();
  await page.getByRole("menuitem", { name: "Save this view…" }).click();
  await page.getByRole("textbox", { name: "Name" }).fill("what failed");
  await page.getByRole("button", { name: "Save", exact: true }).click();
  await page.getByRole("button", { name: "View: what failed" }).waitFor();
  await picture("jobs-view");
  const other = await window(chrome, await up.link());
  await other.page.getByRole("button", { name: "Views" }).click();
  await other.page.getByRole("menuitem", { name: "what failed" }).click();
  await other.page.waitForURL(/q=status(%3A|:)failed/);
  await other.page.getByRole("button", { name: "View: what failed" }).click();
  await other.page.getByRole("menuitem", { name: "Delete the view what failed" }).click();
  await other.page.getByRole("button", { name: "Views" }).waitFor();
  assert.deepEqual(other.complaints, []);
  await other.context.close();
  clean();
});

test("several jobs are stopped and deleted at once", async () => {
  await runs("long-a", "import time\ntime.sleep(600)\n");
  await runs("long-b", "import time\ntime.sleep(600)\n");
  await at("/jobs?q=long-");
  await page.getByRole("list", { name: "2 jobs" }).waitFor();
  await page.getByRole("checkbox", { name: "Select long-a" }).check();
  await page.getByRole("checkbox", { name: "Select long-b" }).check();
  const bulk = page.getByRole("toolbar", { name: "Of what is selected" });
  await bulk.getByRole("button", { name: "Stop 2" }).click();
  await page.getByText("Asked to stop: 2 jobs").waitFor();
  await page.getByRole("list").locator(".status", { hasText: "stopped" }).nth(1).waitFor();
  await bulk.getByRole("button", { name: "Delete" }).click();
  await page.getByText("No job is like this.").waitFor();
  clean();
});

test("keys without Ctrl can be switched off", async () => {
  await at("/jobs");
  await page.getByRole("heading", { level: 1, name: "Jobs" }).waitFor();
  await page.keyboard.press("?");
  const sheet = page.getByRole("dialog", { name: "Keys" });
  await sheet.getByRole("switch", { name: "Keys without Ctrl do something" }).click();
  await page.keyboard.press("Escape");
  await sheet.waitFor({ state: "detached" });
  await page.keyboard.press("n");
  await page.keyboard.press("?");
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: /Search pages/ }).waitFor();
  assert.match(page.url(), /\/jobs$/);
  assert.equal(await sheet.count(), 0);
  await page.keyboard.press("Escape");
  clean();
});
