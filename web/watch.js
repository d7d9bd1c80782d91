// The live page: one WebSocket, a subscription for the jobs and three for the
// run that is looked at. After a lost connection each subscription goes on
// after the last sequence number that it saw.

const $ = (id) => document.getElementById(id);
const jobs = new Map(); // id: JobEvent
const items = new Map(); // id: the list item of that job
const replicas = new Map(); // name: Replica
const curves = new Map(); // key and replica: {key, replica, points: [[step, value]], ordered by step}
const subscriptions = new Map(); // id: what was asked, with `from` of the last event
const shownLines = 2000, shownCharts = 24, shownPoints = 3000;
let run = new URLSearchParams(location.search).get("run");
let about; // the run, where it is not the newest of its job: {name, number, state, reason}
let socket, retry = 500;

/** Makes an element; children that are strings become text, never markup. */
function el(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(properties)) k in e ? (e[k] = v) : e.setAttribute(k, v);
  e.append(...children);
  return e;
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/stream`);
  socket.onopen = () => {
    retry = 500;
    link("live");
    notice("");
    for (const s of subscriptions.values()) socket.send(JSON.stringify({ subscribe: s }));
  };
  socket.onmessage = (m) => hear(JSON.parse(m.data));
  socket.onclose = async () => {
    link(`reconnecting, as of ${new Date().toLocaleTimeString()}`);
    // A refused socket says no reason; a request does.
    const known = await fetch("/api/session?limit=1").then((r) => r.status !== 401, () => true);
    if (!known) {
      link("signed out");
      notice("This browser is not signed in. Open the link that mlaas up printed, or a new one from: mlaas session login");
      return;
    }
    setTimeout(connect, retry);
    retry = Math.min(retry * 2, 10000);
  };
}

function link(text) {
  $("link").textContent = text;
  $("link").className = text === "live" ? "live" : "";
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
}

function subscribe(s) {
  subscriptions.set(s.id, s);
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ subscribe: s }));
}

function unsubscribe(id) {
  if (subscriptions.delete(id) && socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ unsubscribe: id }));
}

const hearers = { job: hearJobs, replica: hearReplicas, log: hearLines, metric: hearPoints };

function hear(e) {
  const s = subscriptions.get(e.id);
  if (e.type === "error") {
    notice(e.data.detail);
    subscriptions.delete(e.id);
  }
  if (!s || e.type === "beat" || e.type === "error") return;
  if (e.type === "reset") {
    delete s.from;
    return;
  }
  s.from = e.seq;
  if (e.data !== undefined) hearers[e.topic](e.data, e.type === "snapshot");
}

function hearJobs(list, fresh) {
  if (fresh) jobs.clear();
  for (const j of list) j.deleted ? jobs.delete(j.job) : jobs.set(j.job, j);
  showJobs();
  showRun();
  if (!run) {
    const newest = [...jobs.values()].map((j) => j.status.run ?? "").sort().at(-1);
    if (newest) look(newest);
  }
}

/** Shows the jobs, newest first. What is there is changed in place, so that who goes by keyboard stays where they are. */
function showJobs() {
  $("empty").hidden = jobs.size > 0;
  for (const [id, item] of items) {
    if (jobs.has(id)) continue;
    item.remove();
    items.delete(id);
  }
  for (const id of [...jobs.keys()].sort()) {
    const j = jobs.get(id);
    if (!items.has(id)) {
      const button = el("button", { type: "button" });
      button.onclick = () => look(jobs.get(id).status.run);
      items.set(id, el("li", {}, button));
      $("jobs").prepend(items.get(id));
    }
    const button = items.get(id).firstChild;
    button.replaceChildren(el("span", {}, j.name + (j.status.number ? `/${j.status.number}` : "")),
      el("span", { className: `badge ${j.status.state}` }, j.status.state), el("small", {}, j.status.reason));
    button.disabled = !j.status.run;
    button.setAttribute("aria-current", String(!!run && j.status.run === run));
  }
}

function showRun() {
  if (!run) return;
  const j = [...jobs.values()].find((j) => j.status.run === run);
  const r = j ? { name: j.name, number: j.status.number, state: j.status.state, reason: j.status.reason } : about;
  $("run-title").textContent = r ? `${r.name}/${r.number}` : run;
  $("run-state").textContent = r?.state ?? "";
  $("run-state").className = `badge ${r?.state ?? ""}`;
  $("reason").textContent = r?.reason ?? "";
  document.title = r ? `${r.name}/${r.number} ${r.state} · mlaas` : "mlaas";
}

/** Reads what the stream of jobs does not tell: of a run that is not the newest of its job. */
async function learn() {
  const id = run;
  const r = await fetch(`/api/run/${encodeURIComponent(id)}`).then((r) => (r.ok ? r.json() : undefined), () => undefined);
  if (!r || id !== run) return;
  about = { name: r.jobName, number: r.number, state: r.status.state, reason: r.status.reason };
  showRun();
}

function look(id) {
  run = id;
  about = undefined;
  history.replaceState(null, "", `?run=${encodeURIComponent(id)}`);
  for (const topic of ["replica", "log", "metric"]) unsubscribe(topic);
  hearReplicas([], true);
  hearPoints([], true);
  $("log").replaceChildren();
  $("which").replaceChildren(new Option("every replica", ""));
  $("follow").checked = true;
  $("run").hidden = false;
  notice("");
  subscribe({ id: "replica", topic: "replica", run });
  subscribe({ id: "log", topic: "log", run, tail: 500 });
  subscribe({ id: "metric", topic: "metric", run });
  showJobs();
  showRun();
  learn();
}

/** The class that gives a replica its colour; parameter servers, which draw nothing, share one. */
function colour(replica) {
  const drawn = [...replicas.keys()].filter((r) => !r.startsWith("ps-")).sort(natural);
  const i = drawn.indexOf(replica);
  return i < 0 ? "ps" : `k${i % 6}`;
}
const natural = (a, b) => a.localeCompare(b, undefined, { numeric: true });

/** Writes "387Ki" for people. */
function size(text) {
  const [, n, unit] = /^(\d+)([KMGT]i)?$/.exec(text) ?? [];
  if (!n) return text;
  const bytes = n * 1024 ** ["", "Ki", "Mi", "Gi", "Ti"].indexOf(unit ?? "");
  const i = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${Number((bytes / 1024 ** i).toPrecision(3))} ${["B", "KiB", "MiB", "GiB", "TiB"][i]}`;
}

function hearReplicas(list, fresh) {
  if (fresh) replicas.clear();
  for (const r of list) replicas.set(r.replica, r);
  const all = [...replicas.values()].sort((a, b) => natural(a.replica, b.replica));
  $("replicas-table").hidden = all.length === 0;
  $("no-replicas").hidden = all.length > 0;
  $("replicas").replaceChildren(...all.map((r) => el("tr", {},
    el("td", {}, r.replica), el("td", {}, el("span", { className: `badge ${r.status}` }, r.status)),
    el("td", { className: "n" }, `${r.epoch}`), el("td", { className: "n" }, r.step.toLocaleString("en")),
    el("td", { className: "n" }, `${r.usage.cpuSeconds.toFixed(1)} s`), el("td", { className: "n" }, size(r.usage.peak)), el("td", {}, r.reason))));
  const names = new Set([...$("which").options].map((o) => o.value));
  for (const r of all) if (!names.has(r.replica)) $("which").append(new Option(r.replica, r.replica));
  for (const b of $("log").querySelectorAll("b:not([class])")) b.className = colour(b.textContent);
  if (about && list.length > 0 && ![...jobs.values()].some((j) => j.status.run === run)) learn();
  draw();
}

$("which").onchange = () => {
  unsubscribe("log");
  $("log").replaceChildren();
  const replica = $("which").value;
  subscribe({ id: "log", topic: "log", run, tail: 500, ...(replica && { replica }) });
};

// Who scrolls up wants to read; who scrolls to the end wants to follow.
$("log").onscroll = () => {
  const log = $("log");
  $("follow").checked = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
};
$("follow").onchange = () => {
  if ($("follow").checked) $("log").scrollTop = $("log").scrollHeight;
};

function hearLines(lines, fresh) {
  const log = $("log"), follow = $("follow").checked;
  if (fresh) log.replaceChildren();
  log.append(...lines.map((l) => el("div", { className: l.stream, title: new Date(l.time).toLocaleString() },
    el("b", replicas.has(l.replica) ? { className: colour(l.replica) } : {}, l.replica), ` ${l.line}`)));
  while (log.childElementCount > shownLines) log.firstChild.remove();
  if (follow) log.scrollTop = log.scrollHeight;
}

const number = (v) => (typeof v === "number" ? v : NaN); // "NaN", "Infinity" and "-Infinity" are breaks

function hearPoints(data, fresh) {
  if (fresh) {
    curves.clear();
    for (const c of data) curves.set(`${c.key}\n${c.replica}`, { ...c, points: c.points.map((p) => [p[0], number(p.at(-1))]) });
  } else {
    for (const p of data) {
      const id = `${p.key}\n${p.replica}`;
      if (!curves.has(id)) curves.set(id, { key: p.key, replica: p.replica, points: [] });
      put(curves.get(id), p.step, number(p.value));
    }
  }
  draw();
}

/** Puts a point where its step belongs; one that was measured again, or comes again, takes the place of the old one. */
function put(curve, step, value) {
  const points = curve.points;
  let i = points.length;
  while (i > 0 && points[i - 1][0] > step) i--;
  if (i > 0 && points[i - 1][0] === step) points[i - 1][1] = value;
  else points.splice(i, 0, [step, value]);
  if (points.length > shownPoints) curve.points = points.filter((_, i) => i % 2 === 1 || i === points.length - 1);
}

let drawing;
function draw() {
  drawing ??= requestAnimationFrame(() => {
    drawing = undefined;
    const keys = [...new Set([...curves.values()].map((c) => c.key))].sort(natural);
    $("no-curves").hidden = keys.length > 0;
    $("curves").replaceChildren(...keys.slice(0, shownCharts).map((key) => figure(key, [...curves.values()].filter((c) => c.key === key).sort((a, b) => natural(a.replica, b.replica)))));
    if (keys.length > shownCharts) $("curves").append(el("p", { className: "none" }, `and ${keys.length - shownCharts} more: mlaas metrics`));
  });
}

const short = (v, digits = 4) => (Number.isInteger(v) && Math.abs(v) < 1e9 ? v.toLocaleString("en") : `${Number(v.toPrecision(digits))}`);
const svg = (tag, attributes) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
};

function figure(key, list) {
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const c of list) {
    for (const [x, y] of c.points) {
      if (!Number.isFinite(y)) continue;
      [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
    }
  }
  const said = list.map((c) => `${c.replica} ${c.points.length > 0 ? short(c.points.at(-1)[1], 3) : "-"}`);
  const plot = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": `${key}: ${said.join(", ")}` });
  const across = (x) => (x1 > x0 ? 1 + (98 * (x - x0)) / (x1 - x0) : 50).toFixed(2);
  const up = (y) => (y1 > y0 ? 96 - (92 * (y - y0)) / (y1 - y0) : 50).toFixed(2);
  for (const c of list) {
    let pen = "M", d = "";
    for (const [x, y] of c.points) {
      d += Number.isFinite(y) ? `${pen}${across(x)} ${up(y)}` : "";
      pen = Number.isFinite(y) ? "L" : "M";
    }
    if (d) plot.append(svg("path", c.points.length > 1 ? { d, class: colour(c.replica) } : { d: `${d}h0`, class: `dot ${colour(c.replica)}` }));
  }
  const out = el("figure", {}, el("figcaption", {}, el("span", {}, key),
    el("span", {}, ...list.slice(0, 6).map((c, i) => el("b", { className: colour(c.replica), title: c.replica }, said[i])))), el("div", { className: "plot" }, plot));
  if (x0 <= x1) {
    if (y1 > y0) out.lastChild.append(el("span", { className: "high" }, short(y1)), el("span", { className: "low" }, short(y0)));
    out.append(el("div", { className: "steps" }, el("span", {}, x1 > x0 ? `step ${short(x0)}` : ""), el("span", {}, `step ${short(x1)}`)));
  }
  return out;
}

subscriptions.set("job", { id: "job", topic: "job" });
connect();
if (run) look(run);
