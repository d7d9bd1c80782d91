// The live page: one WebSocket, a subscription for the jobs and three for the
// run that is looked at. After a lost connection each subscription goes on
// after the last sequence number that it saw.

const $ = (id) => document.getElementById(id);
const jobs = new Map(); // id: JobEvent
const replicas = new Map(); // name: Replica
const curves = new Map(); // key + replica: {key, replica, points: [[step, value]]}
const subscriptions = new Map(); // id: what was asked, with `from` of the last event
const shownLines = 2000;
let run = new URLSearchParams(location.search).get("run");
let socket, retry = 500;

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/stream`);
  socket.onopen = () => {
    retry = 500;
    $("link").textContent = "live";
    for (const s of subscriptions.values()) socket.send(JSON.stringify({ subscribe: s }));
  };
  socket.onmessage = (m) => hear(JSON.parse(m.data));
  socket.onclose = () => {
    $("link").textContent = `reconnecting, as of ${new Date().toLocaleTimeString()}`;
    setTimeout(connect, retry);
    retry = Math.min(retry * 2, 10000);
  };
}

function subscribe(s) {
  subscriptions.set(s.id, s);
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ subscribe: s }));
}

function unsubscribe(id) {
  if (subscriptions.delete(id) && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ unsubscribe: id }));
}

function hear(e) {
  const s = subscriptions.get(e.id);
  if (!s || e.type === "beat") return;
  if (e.type === "reset") { delete s.from; return; }
  if (e.type === "error") { $("link").textContent = e.data.detail; subscriptions.delete(e.id); return; }
  s.from = e.seq;
  if (e.data === undefined) return;
  ({ job: hearJobs, replica: hearReplicas, log: hearLines, metric: hearPoints })[e.topic](e.data, e.type === "snapshot");
}

function hearJobs(list, fresh) {
  if (fresh) jobs.clear();
  for (const j of list) j.deleted ? jobs.delete(j.job) : jobs.set(j.job, j);
  $("empty").hidden = jobs.size > 0;
  const all = [...jobs.values()].sort((a, b) => (a.job < b.job ? 1 : -1));
  $("jobs").replaceChildren(...all.map((j) => {
    const button = document.createElement("button");
    const state = document.createElement("span");
    state.className = state.textContent = j.status?.state ?? "created";
    const why = document.createElement("small");
    why.textContent = j.status?.reason ?? "";
    button.append(`${j.name}${j.status?.number ? `/${j.status.number}` : ""} `, state, why);
    button.setAttribute("aria-pressed", String(j.status?.run !== undefined && j.status.run === run));
    button.onclick = () => j.status?.run && look(j.status.run);
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  const mine = all.find((j) => j.status?.run === run);
  if (mine) {
    $("run-title").textContent = `${mine.name}/${mine.status.number}: ${mine.status.state}`;
    $("reason").textContent = mine.status.reason;
  }
  if (!run && all[0]?.status?.run) look(all[0].status.run);
}

function look(id) {
  run = id;
  history.replaceState(null, "", `?run=${encodeURIComponent(id)}`);
  for (const topic of ["replica", "log", "metric"]) unsubscribe(topic);
  replicas.clear();
  curves.clear();
  $("log").replaceChildren();
  $("which").replaceChildren(new Option("every replica", ""));
  $("run").hidden = false;
  subscribe({ id: "replica", topic: "replica", run });
  subscribe({ id: "log", topic: "log", run, tail: 500 });
  subscribe({ id: "metric", topic: "metric", run });
  hearJobs([], false);
}

function hearReplicas(list, fresh) {
  if (fresh) replicas.clear();
  for (const r of list) replicas.set(r.replica, r);
  const all = [...replicas.values()].sort((a, b) => a.replica.localeCompare(b.replica, undefined, { numeric: true }));
  $("replicas").replaceChildren(...all.map((r) => {
    const row = document.createElement("tr");
    const cells = [r.replica, r.status, r.epoch, r.step, `${r.usage.cpuSeconds.toFixed(1)} s`, r.usage.memory, r.reason];
    for (const c of cells) row.insertCell().textContent = c;
    row.cells[1].className = r.status;
    return row;
  }));
  const names = new Set([...$("which").options].map((o) => o.value));
  for (const r of all) if (!names.has(r.replica)) $("which").append(new Option(r.replica, r.replica));
}

$("which").onchange = () => {
  unsubscribe("log");
  $("log").replaceChildren();
  const replica = $("which").value;
  subscribe({ id: "log", topic: "log", run, tail: 500, ...(replica && { replica }) });
};

function hearLines(lines) {
  const log = $("log");
  for (const l of lines) {
    const line = document.createElement("div");
    line.className = l.stream;
    const who = document.createElement("b");
    who.textContent = `${l.replica} `;
    line.append(who, l.line);
    log.append(line);
  }
  while (log.childElementCount > shownLines) log.firstChild.remove();
  if ($("follow").checked) log.scrollTop = log.scrollHeight;
}

const number = (v) => (typeof v === "number" ? v : NaN); // "NaN", "Infinity" and "-Infinity" are breaks

function hearPoints(data, fresh) {
  if (fresh) {
    curves.clear();
    for (const c of data) curves.set(`${c.key} ${c.replica}`, { ...c, points: c.points.map((p) => [p[0], number(p[p.length - 1])]) });
  } else {
    for (const p of data) {
      const id = `${p.key} ${p.replica}`;
      if (!curves.has(id)) curves.set(id, { key: p.key, replica: p.replica, points: [] });
      const points = curves.get(id).points;
      const last = points[points.length - 1];
      if (last && last[0] === p.step) last[1] = number(p.value);
      else points.push([p.step, number(p.value)]);
    }
  }
  draw();
}

let drawing;
function draw() {
  drawing ??= requestAnimationFrame(() => {
    drawing = undefined;
    const keys = [...new Set([...curves.values()].map((c) => c.key))].sort().slice(0, 12);
    $("curves").replaceChildren(...keys.map((key) => figure(key, [...curves.values()].filter((c) => c.key === key))));
  });
}

const colours = ["#0b63c5", "#c2570c", "#1a7f37", "#8250df", "#b3261e", "#00796b"];

function figure(key, list) {
  const out = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const name = document.createElement("span");
  const last = document.createElement("strong");
  name.textContent = key;
  const ends = list.map((c) => c.points.at(-1)?.[1]).filter(Number.isFinite);
  last.textContent = ends.map((v) => v.toPrecision(4)).join(" · ");
  caption.append(name, last);
  const finite = list.flatMap((c) => c.points).filter((p) => Number.isFinite(p[1]));
  const [x0, x1] = [Math.min(...finite.map((p) => p[0])), Math.max(...finite.map((p) => p[0]))];
  const [y0, y1] = [Math.min(...finite.map((p) => p[1])), Math.max(...finite.map((p) => p[1]))];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${key}: ${last.textContent}`);
  list.forEach((c, i) => {
    let pen = "M", d = "";
    for (const [x, y] of c.points) {
      if (!Number.isFinite(y)) { pen = "M"; continue; }
      d += `${pen}${(100 * (x - x0)) / (x1 - x0 || 1)} ${96 - (92 * (y - y0)) / (y1 - y0 || 1)}`;
      pen = "L";
    }
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    path.setAttribute("stroke", colours[i % colours.length]);
    svg.append(path);
  });
  out.append(caption, svg);
  return out;
}

subscriptions.set("job", { id: "job", topic: "job" });
connect();
if (run) look(run);
