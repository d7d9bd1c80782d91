// The Code tab on the real binary: what is typed is kept by the platform, and
// those who type at once end with the same text.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, pictures, platform, window, wire } from "./platform.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let up, chrome, cable;

before(async () => {
  up = await platform();
  chrome = await browser();
  cable = await wire(up.url.port);
  const file = path.join(up.dir, "main.py");
  writeFileSync(file, 'print("one")\n');
  await up.mlaas("api", "POST", "/api/job", "--data", '{"name": "shared"}').catch(() => {});
  await up.mlaas("run", file, "--name", "shared");
});

after(async () => {
  await chrome?.close();
  await cable?.end();
  await up?.end();
});

const code = async (options, port = up.url.port) => {
  const w = await window(chrome, await up.link(port), options);
  await w.page.goto(`http://127.0.0.1:${port}/jobs/shared/code`);
  await text(w).waitFor();
  return w;
};
const text = (w) => w.page.getByRole("textbox", { name: "Text of main.py" });
const lines = (w) => text(w).evaluate((t) => [...t.querySelectorAll(".cm-line")].map((l) => [...l.childNodes].filter((n) => !n.classList?.contains("cm-other")).map((n) => n.textContent).join("")));
/** Waits until f says yes; it is asked at each change of the page that may matter. */
const becomes = async (f, what) => {
  const until = Date.now() + 20_000;
  while (!(await f())) {
    if (Date.now() > until) assert.fail(`it did not come to this: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};

test("two browsers that type into one text at once end with the same text, and nothing is lost", async () => {
  const [a, b] = [await code(), await code({}, cable.port)];
  await a.page.evaluate(() => localStorage.setItem("mlaas-name", JSON.stringify("Ann")));
  await a.page.reload();
  await text(a).click();
  await a.page.keyboard.press("Control+Home");
  await text(b).click();
  await b.page.keyboard.press("Control+End");
  await b.page.getByText("Ann is here too").waitFor();
  const [left, right] = ["a".repeat(60), "b".repeat(60)];
  await Promise.all([a.page.keyboard.type(left, { delay: 15 }), b.page.keyboard.type(right, { delay: 15 })]);
  await becomes(async () => (await lines(a)).join("\n") === `${left}print("one")\n${right}`, "what both typed is here");
  await becomes(async () => (await lines(b)).join("\n") === (await lines(a)).join("\n"), "it is there too");
  await b.page.screenshot({ path: path.join(pictures, "code-two.png") });

  // One is without a network, types on, and comes back.
  cable.cut();
  await b.page.keyboard.type("!!");
  await b.page.getByText("Waits for the network").waitFor();
  await a.page.keyboard.type("??");
  cable.mend();
  await becomes(async () => (await lines(b)).join("\n") === `${left}??print("one")\n${right}!!`, "both are here after the network is back");
  await becomes(async () => (await lines(a)).join("\n") === (await lines(b)).join("\n"), "and there");
  assert.deepEqual(a.complaints, []);
  await a.context.close();
  await b.context.close();
});

test("a version that comes by a push is merged, and an older one is gone back to", async () => {
  const w = await code();
  await up.mlaas("api", "POST", "/api/job/shared/code", "--data", JSON.stringify({ files: { "main.py": 'print("one")\n', "lib.py": "x = 1\n" } }));
  await w.page.getByText(/v2 came meanwhile/).waitFor();
  await w.page.getByRole("button", { name: "Merge v2 in" }).click();
  await w.page.getByRole("button", { name: /^lib\.py/ }).waitFor();
  await text(w).waitFor();
  assert.match((await lines(w)).join("\n"), /^a{60}/);
  await text(w).click();
  await w.page.keyboard.press("Control+s");
  await w.page.getByRole("button", { name: "Saved" }).waitFor();
  await w.page.goto(`${up.url.origin}/jobs/shared/code?v=1`);
  await w.page.getByText("You read v1, which never changes.").waitFor();
  await w.page.getByRole("button", { name: "Go back to v1" }).click();
  await becomes(async () => (await lines(w)).join("\n") === 'print("one")\n', "it is as v1 was");
  assert.deepEqual(w.complaints, []);
  await w.context.close();
});

test("files are made, named and taken away, and searched in", async () => {
  const w = await code();
  const files = w.page.getByRole("navigation", { name: "Files" });
  await files.getByRole("button", { name: "New file" }).click();
  await w.page.getByLabel("Path").fill("model/net.py");
  await w.page.keyboard.press("Enter");
  await w.page.getByRole("textbox", { name: "Text of model/net.py" }).click();
  await w.page.keyboard.type("width = 3");
  await w.page.getByText("Kept by the platform").waitFor();
  await files.getByRole("button", { name: "Rename" }).click();
  await w.page.getByLabel("Path").fill("net.py");
  await w.page.keyboard.press("Enter");
  await w.page.getByRole("textbox", { name: "Text of net.py" }).waitFor();
  await w.page.getByRole("textbox", { name: "Search in files" }).fill("WIDTH");
  await files.getByRole("button", { name: /^net\.py:1/ }).waitFor();
  await w.page.getByRole("button", { name: "End the search" }).click();
  await files.locator("input[type=file]").or(w.page.locator("input[type=file]")).first().setInputFiles({ name: "data.csv", mimeType: "text/csv", buffer: Buffer.from("a,b\n1,2\n") });
  await w.page.getByRole("textbox", { name: "Text of data.csv" }).waitFor();
  await files.getByRole("button", { name: "Remove file" }).click();
  await files.getByRole("button", { name: /^data\.csv/ }).waitFor({ state: "detached" });
  // An editor that tells where its cursor is in that moment is told so: its text is gone.
  assert.deepEqual(w.complaints.filter((c) => !/^410 POST .*\/draft\/push /.test(c)), []);
  await w.context.close();
});

for (const [colorScheme, width] of [["light", 1280], ["dark", 360]]) {
  test(`everybody can use it: axe, ${colorScheme}, ${width} px`, async () => {
    const w = await code({ colorScheme, viewport: { width, height: 800 } });
    await w.page.waitForLoadState("networkidle");
    await w.page.evaluate(axe);
    const { violations } = await w.page.evaluate(() => globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], rules: { "target-size": { enabled: true } } }));
    assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary?.split("\n")[1]?.trim()}`).join(" | ")}`), []);
    assert.ok(await w.page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth), "the page is wider than the window");
    await w.page.screenshot({ path: path.join(pictures, `code-${colorScheme}-${width}.png`), fullPage: true });
    await w.context.close();
  });
}
