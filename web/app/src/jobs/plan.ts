// A job as it is filled in, and what it says: pure. What is decided where it
// says nothing, and why, the platform knows: POST /api/plan.
import type { JobSpec } from "../api/client";

export type Form = {
  name: string;
  framework: string; // empty: by the imports
  packages: string;
  mode: string; // empty: as the source has it
  workers: string;
  ps: string;
  cpu: string; // of each, or worker=2,ps=500m; so are the next three
  memory: string;
  gpu: string;
  disk: string;
  parameters: string; // lines of name=value
  data: string; // lines of name=source
  command: string;
};

export const blank: Form = { name: "", framework: "", packages: "", mode: "", workers: "", ps: "", cpu: "", memory: "", gpu: "", disk: "", parameters: "", data: "", command: "" };

/** "4" as a number, "2-8" and "h200:2" as they are. */
const count = (text: string) => (/^\d+$/.test(text) ? Number(text) : text);

/** "2" is for every role, "worker=2,ps=500m" for those that are named. */
export function each(text: string, roles: string[]): Record<string, string> {
  if (text.trim() === "") return {};
  const parts = text.split(",").map((p) => p.trim()).filter(Boolean);
  if (!text.includes("=")) return Object.fromEntries(roles.map((r) => [r, text.trim()]));
  return Object.fromEntries(parts.map((p) => [p.slice(0, Math.max(0, p.indexOf("="))).trim(), p.slice(p.indexOf("=") + 1).trim()]));
}

/** The job that a form says, begun from another one. What nobody said stays away. */
export function specOf(form: Form, from: Partial<JobSpec>): JobSpec {
  const environment = { ...from.environment };
  if (form.framework && form.framework !== environment.framework) delete environment.lock; // it was of what the environment was before
  if (form.framework) environment.framework = form.framework;
  const packages = form.packages.split(/[\s,]+/).filter(Boolean);
  if (packages.length > 0) {
    environment.packages = packages;
    delete environment.lock;
  }

  const roles: NonNullable<JobSpec["roles"]> = structuredClone(from.roles ?? {});
  if (form.workers) roles.worker = { ...roles.worker, replicas: count(form.workers) as never };
  if (form.ps === "0") delete roles.ps;
  else if (form.ps) roles.ps = { ...roles.ps, replicas: count(form.ps) as never };
  if (Object.keys(roles).length === 0) roles.worker = {} as never;
  const names = Object.keys(roles);
  const put = (field: "cpu" | "memory" | "disk" | "gpu", text: string, of: string[]) => {
    for (const [role, value] of Object.entries(each(text, of))) roles[role] = { ...roles[role], [field]: field === "gpu" ? count(value) : value } as never;
  };
  put("cpu", form.cpu, names);
  put("memory", form.memory, names);
  put("disk", form.disk, names);
  put("gpu", form.gpu, names.filter((r) => r !== "ps"));
  if (names.length === 1 && Object.keys(roles.worker ?? { some: 1 }).length === 0) delete roles.worker;

  const execution = { ...from.execution };
  if (form.command.trim()) execution.command = form.command.trim().split(/\s+/);
  const parameters = pairs(form.parameters);
  if (parameters.length > 0) execution.parameters = { ...execution.parameters, ...Object.fromEntries(parameters.map(([k, v]) => [k, plain(v)])) };
  const data = [...(from.data ?? []).filter((d) => !pairs(form.data).some(([n]) => n === d.name)), ...pairs(form.data).map(([name, source]) => ({ name, source }))];
  const code = { ...from.code, ...(form.mode && { mode: form.mode }) };

  const some = <T extends object>(name: string, part: T) => (Object.keys(part).length > 0 ? { [name]: part } : {});
  const { environment: _, roles: __, execution: ___, data: ____, code: _____, ...others } = from;
  return { ...others, name: form.name, ...some("environment", environment), ...some("roles", roles), ...some("execution", execution), ...(data.length > 0 && { data }), ...some("code", code) };
}

/** A form that says what a job file does; what no field of it can say stays in what the job begins from. */
export function formOf(spec: Partial<JobSpec>): { form: Form; from: Partial<JobSpec> } {
  const from = structuredClone(spec);
  const form: Form = { ...blank, name: spec.name ?? "" };
  delete from.name;
  const e = from.environment;
  if (e) {
    form.framework = e.framework ?? "";
    form.packages = (e.packages ?? []).join(" ");
    delete e.framework;
    delete (e as { packages?: unknown }).packages;
  }
  const roles = (from.roles ?? {}) as Record<string, Record<string, unknown>>;
  const names = Object.keys(roles);
  form.workers = shown(roles.worker?.replicas);
  form.ps = shown(roles.ps?.replicas);
  for (const [field, as] of [["cpu", "cpu"], ["memory", "memory"], ["disk", "disk"], ["gpu", "gpu"]] as const) {
    const said = names.filter((r) => roles[r]?.[field] !== undefined && typeof roles[r]![field] !== "object");
    form[as] = said.length === 1 && names.length === 1 ? String(roles[said[0]!]![field]) : said.map((r) => `${r}=${String(roles[r]![field])}`).join(",");
    for (const r of said) delete roles[r]![field];
  }
  if (form.workers) delete roles.worker!.replicas;
  if (form.ps) delete roles.ps!.replicas;
  const x = from.execution;
  if (x?.command && x.command.every((w) => !/\s/.test(w))) {
    form.command = x.command.join(" ");
    delete x.command;
  }
  const simple = Object.entries(x?.parameters ?? {}).filter(([, v]) => typeof v !== "object" && (typeof v !== "string" || plain(v) === v) && !String(v).includes("\n"));
  form.parameters = simple.map(([k, v]) => `${k}=${String(v)}`).join("\n");
  for (const [k] of simple) delete x!.parameters![k];
  form.data = (from.data ?? []).map((d) => `${d.name}=${d.source}`).join("\n");
  delete from.data;
  const mode = from.code?.mode;
  if (mode && !from.code?.composed) {
    form.mode = mode;
    delete from.code!.mode;
  }
  return { form, from };
}

/** A count as it is typed: 4, "2-8". */
function shown(replicas: unknown): string {
  if (replicas === undefined || replicas === null) return "";
  if (typeof replicas === "object") {
    const { min, max } = replicas as { min?: number; max?: number };
    return `${min}-${max}`;
  }
  return String(replicas);
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

/** The same from a terminal. What no flag says stands in the job file. */
export function twin(form: Form, what = "FOLDER"): string {
  const flags: [string, string][] = [["name", form.name], ["framework", form.framework], ["workers", form.workers], ["ps", form.ps], ["cpu", form.cpu], ["mem", form.memory], ["disk", form.disk], ["gpu", form.gpu]];
  const words = flags.filter(([, v]) => v !== "").map(([k, v]) => `--${k} ${quoted(v)}`);
  if (form.mode) words.push(`--set code.mode=${quoted(form.mode)}`);
  for (const p of form.packages.split(/[\s,]+/).filter(Boolean)) words.push(`--package ${quoted(p)}`);
  for (const [k, v] of pairs(form.parameters)) words.push(`--param ${quoted(`${k}=${v}`)}`);
  for (const [k, v] of pairs(form.data)) words.push(`--data ${quoted(`${k}=${v}`)}`);
  return [`mlaas run ${what}`, ...words].join(" ");
}
