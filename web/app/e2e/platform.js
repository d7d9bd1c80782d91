// A real platform, a real browser, and a wire between them that can be cut.
import { execFile, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const bin = process.env.MLAAS_BIN ?? path.resolve(import.meta.dirname, "../../../bin/mlaas");
export const pictures = process.env.MLAAS_PICTURES ?? path.resolve(import.meta.dirname, "../../../bin/pictures");

/** Starts `mlaas up` in a folder of its own; end stops it and what it started. */
export async function platform() {
  const dir = mkdtempSync(path.join(tmpdir(), "mlaas-web-"));
  const up = spawn(bin, ["up", "--dir", dir, "--listen", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => up.once("exit", resolve));
  const said = createInterface({ input: up.stdout });
  const url = await new Promise((resolve, reject) => {
    said.on("line", (l) => l.startsWith("ready ") && resolve(new URL(l.slice(6).trim())));
    ended.then(() => reject(new Error("mlaas up has ended before it was ready")));
  });
  const mlaas = async (...args) => (await promisify(execFile)(bin, args, { env: { ...process.env, MLAAS_DIR: dir, MLAAS_URL: "", MLAAS_TOKEN: "" } })).stdout;
  return {
    dir, url, mlaas,
    /** A link that lets one browser in, by way of a wire. */
    link: async (port = url.port) => {
      const link = new URL((await mlaas("session", "login")).trim().split(/\s+/).find((w) => w.startsWith("http")));
      link.port = String(port);
      return link.href;
    },
    end: async () => {
      await mlaas("down").catch(() => up.kill());
      await ended;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Passes on what goes to a port, until it is cut; then it hangs up on everybody. */
export async function wire(to) {
  let whole = true;
  const open = new Set();
  const server = net.createServer((a) => {
    if (!whole) return a.destroy();
    const b = net.connect(Number(to), "127.0.0.1");
    for (const s of [a, b]) {
      open.add(s);
      s.on("error", () => {}); // the other end is told by the close
      s.on("close", () => {
        open.delete(s);
        a.destroy();
        b.destroy();
      });
    }
    a.pipe(b).pipe(a);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: server.address().port,
    cut: () => {
      whole = false;
      for (const s of open) s.destroy();
    },
    mend: () => { whole = true; },
    end: () => new Promise((resolve) => {
      for (const s of open) s.destroy();
      server.close(resolve);
    }),
  };
}

export async function browser() {
  mkdirSync(pictures, { recursive: true });
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

/** Opens the page in a window of its own; what its console complains of is kept in complaints. */
export async function window(chrome, link, options = {}) {
  const context = await chrome.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (m) => m.type() === "error" && !/^Failed to load resource/.test(m.text()) && complaints.push(m.text()));
  page.on("response", (r) => r.status() >= 400 && complaints.push(`${r.status()} ${r.request().method()} ${r.url()} at ${page.url()}`));
  page.on("pageerror", (e) => complaints.push(String(e.stack ?? e)));
  if (link) {
    await page.goto(link);
    await page.waitForURL(/\/jobs/);
  }
  return { context, page, complaints };
}
