// What a new job will be, each value with where it comes from: pure.
import type { JobSpec } from "../api/client";

export type Form = {
  name: string;
  framework: string; // empty: by the imports
  packages: string;
  workers: string;
  ps: string;
  cpu: string;
  memory: string;
  gpu: string;
  parameters: string; // lines of name=value
  data: string; // lines of name=source
  command: string;
};

export const blank: Form = { name: "", framework: "", packages: "", workers: "", ps: "", cpu: "", memory: "", gpu: "", parameters: "", data: "", command: "" };

export type Row = { what: string; value: string; why: string };
export type Planned = { spec: JobSpec; rows: Row[]; command: string };

// In the order in which the command line asks: what is built on another comes first.
const frameworks: [module: string, framework: string][] = [["keras", "keras"], ["tensorflow", "tensorflow"], ["torch", "pytorch"], ["jax", "jax"], ["xgboost", "xgboost"], ["lightgbm", "lightgbm"], ["sklearn", "scikit-learn"]];

/** The framework that the texts import, and where. */
export function imported(files: Record<string, string>): { framework: string; where: string } | undefined {
  for (const [module, framework] of frameworks) {
    for (const [path, text] of Object.entries(files)) {
      if (!path.endsWith(".py")) continue;
      const line = text.split("\n").findIndex((l) => new RegExp(`^\\s*(import|from)\\s+${module}\\b`).test(l));
      if (line >= 0) return { framework, where: `${path}:${line + 1} imports ${module}` };
    }
  }
  return undefined;
}

/** "4" and "2-8" as the API takes them. */
const count = (text: string) => (/^\d+$/.test(text) ? Number(text) : text);

export function plan(form: Form, files: Record<string, string>, from: Partial<JobSpec>): Planned {
  const rows: Row[] = [];
  const say = (what: string, value: string, why: string) => rows.push({ what, value, why });
  const found = imported(files);
  const framework = form.framework || from.environment?.framework || found?.framework || "python";
  say("framework", framework, form.framework ? "you chose it" : from.environment?.framework ? "what you begin from" : (found?.where ?? "none of the frameworks is imported"));
  const packages = form.packages.split(/[\s,]+/).filter(Boolean);
  const environment = { ...from.environment, framework, ...(packages.length > 0 && { packages }) };
  if ((environment.packages?.length ?? 0) > 0) say("packages", environment.packages!.join(" "), packages.length > 0 ? "you said so" : "what you begin from");

  const roles: NonNullable<JobSpec["roles"]> = structuredClone(from.roles ?? {});
  const set = (role: string, replicas: string) => {
    if (replicas) roles[role] = { ...roles[role], replicas: count(replicas) as never };
  };
  set("worker", form.workers);
  set("ps", form.ps === "0" ? "" : form.ps);
  if (form.ps === "0") delete roles.ps;
  roles.worker ??= { replicas: 1 as never };
  for (const [role, r] of Object.entries(roles)) {
    if (form.cpu) r.cpu = form.cpu as never;
    if (form.memory) r.memory = form.memory as never;
    if (form.gpu && role !== "ps") r.gpu = (/^\d+$/.test(form.gpu) ? Number(form.gpu) : form.gpu) as never;
    const said = role === "worker" ? form.workers : role === "ps" ? form.ps : "";
    const n = r.replicas as unknown;
    const range = n && typeof n === "object" ? `${(n as { min: number }).min}-${(n as { max: number }).max}` : String(n ?? 1);
    say(role, range, said ? (role === "worker" && /^\d+$/.test(said) ? `you said so: it starts with 1 and takes up to ${said} as they become free` : "you said so") : from.roles?.[role] ? "what you begin from" : "one is enough to begin with");
  }
  const given = Object.values(roles)[0];
  say("CPU of each", String(given?.cpu ?? "500m"), form.cpu ? "you said so; it is also the ceiling" : given?.cpu ? "what you begin from" : "reserved where nothing is said; nothing is enforced");
  say("memory of each", String(given?.memory ?? "1Gi"), form.memory ? "you said so; it is also the ceiling" : given?.memory ? "what you begin from" : "reserved where nothing is said; nothing is enforced");
  if (form.gpu) say("GPU of each", form.gpu, "you said so");

  const execution = { ...from.execution };
  if (form.command.trim()) execution.command = form.command.trim().split(/\s+/);
  const entry = "main.py" in files ? "main.py" : Object.keys(files).filter((f) => /^[^/]+\.py$/.test(f));
  const started = execution.command?.join(" ") ?? (typeof entry === "string" ? `python ${entry}` : entry.length === 1 ? `python ${entry[0]}` : "python and the entry file");
  say("command", started, form.command ? "you said so" : execution.command ? "what you begin from" : "the entry file: main.py, or the only .py");
  const parameters = pairs(form.parameters);
  if (parameters.length > 0) execution.parameters = { ...execution.parameters, ...Object.fromEntries(parameters.map(([k, v]) => [k, plain(v)])) };
  if (execution.parameters && Object.keys(execution.parameters).length > 0) say("parameters", Object.entries(execution.parameters).map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(" "), parameters.length > 0 ? "you said so" : "what you begin from");
  const data = [...(from.data ?? []).filter((d) => !pairs(form.data).some(([n]) => n === d.name)), ...pairs(form.data).map(([name, source]) => ({ name, source }))];
  for (const d of data) say(`data ${d.name}`, d.source, pairs(form.data).some(([n]) => n === d.name) ? "you said so" : "what you begin from");

  const spec: JobSpec = { ...from, name: form.name, environment, roles, execution, ...(data.length > 0 && { data }) };
  return { spec, rows, command: twin(form) };
}

/** Lines of name=value; what has no = is left out. */
export function pairs(text: string): [string, string][] {
  return text.split("\n").map((l) => l.trim()).filter((l) => l.includes("=")).map((l) => [l.slice(0, l.indexOf("=")).trim(), l.slice(l.indexOf("=") + 1).trim()]);
}

function plain(text: string): unknown {
  if (/^-?\d+(\.\d+)?([eE]-?\d+)?$/.test(text)) return Number(text);
  return text === "true" ? true : text === "false" ? false : text;
}

const quoted = (text: string) => (/^[A-Za-z0-9_./:=@,+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** The same from a terminal. */
function twin(form: Form): string {
  const flags: [string, string][] = [["name", form.name], ["framework", form.framework], ["workers", form.workers], ["ps", form.ps], ["cpu", form.cpu], ["mem", form.memory], ["gpu", form.gpu]];
  const words = flags.filter(([, v]) => v !== "").map(([k, v]) => `--${k} ${quoted(v)}`);
  for (const p of form.packages.split(/[\s,]+/).filter(Boolean)) words.push(`--package ${quoted(p)}`);
  for (const [k, v] of pairs(form.parameters)) words.push(`--param ${quoted(`${k}=${v}`)}`);
  for (const [k, v] of pairs(form.data)) words.push(`--data ${quoted(`${k}=${v}`)}`);
  return ["mlaas run FOLDER", ...words].join(" ");
}
