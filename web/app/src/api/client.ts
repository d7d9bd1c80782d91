// Every request of the page goes through here: typed by the platform's own
// OpenAPI document, and what fails is a Problem with a sentence.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.gen";

type Schemas = components["schemas"];
export type Job = Schemas["Job"];
export type JobSpec = Schemas["JobSpecInput"];
export type JobStatus = Schemas["JobStatus"];
export type Run = Schemas["RunView"];
export type RunAsk = Schemas["RunAskInput"];
export type Replica = Schemas["ReplicaView"];
export type Version = Schemas["Version"];
export type VersionContent = Schemas["VersionView"];
export type KernelState = Schemas["KernelView"];
export type Variable = Schemas["Variable"];
export type Draft = Schemas["DraftView"];
export type DraftFile = Schemas["DraftFileView"];
export type Doc = Schemas["DocView"];
export type Pushed = Schemas["Pushed"];
export type PreparedCode = Schemas["PreparedView"];
export type Cluster = Schemas["ClusterView"];
export type Resources = Schemas["Resources"];
export type Role = Schemas["Role"];
export type DocPage = Schemas["DocPage"];
export type Subscription = Schemas["Subscription"];
export type SavedView = Schemas["SavedView"];
export type Line = Schemas["RunLine"];
export type Evaluated = Schemas["Evaluated"];
export type Evaluation = Schemas["EvaluationContent"];
export type Composition = Schemas["Composition"];
export type PlanAsk = Schemas["PlanAskInput"];
export type Plan = Schemas["Plan"];
export type Template = Schemas["Template"];
export type Dataset = Schemas["Dataset"];

export const api = createClient<paths>({ baseUrl: location.origin });

/** A Problem is why the platform did not do what was asked. Its message is a sentence for people. */
export class Problem extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly title: string,
    readonly field?: string,
    readonly request?: string,
  ) {
    super(message);
  }
}

/** Waits for an answer. Throws a Problem where it is another than what was asked for. */
export async function answer<T>(asked: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  let got;
  try {
    got = await asked;
  } catch (e) {
    throw new Problem("The platform cannot be reached. It is asked again when the connection is back.", 0, "No connection", undefined, String(e));
  }
  if (got.response.ok) return got.data as T;
  throw problem(got.error, got.response);
}

/** Sends a body that the typed client does not know, such as an archive. */
export async function send<T>(path: string, type: string, body: Blob): Promise<T> {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": type }, body });
  const said: unknown = await response.json().catch(() => undefined);
  if (response.ok) return said as T;
  throw problem(said, response);
}

/** Reads lines of the log of a run, at most 10,000 at once. */
export async function lines(run: string, query: Record<string, string>): Promise<Line[]> {
  const response = await fetch(`/api/run/${encodeURIComponent(run)}/log?${new URLSearchParams(query)}`);
  const text = await response.text();
  if (!response.ok) throw problem(parse(text), response);
  return text.split("\n").filter(Boolean).map((line) => JSON.parse(line) as Line);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // something between here and the platform answered
  }
}

function problem(said: unknown, response: Response): Problem {
  const p = (typeof said === "object" ? said : undefined) as Partial<Schemas["Problem"]> | undefined;
  return new Problem(
    p?.detail ?? `The answer to this was ${response.status} ${response.statusText}, without a reason.`,
    response.status, p?.title ?? "It did not work", p?.field, p?.request_id,
  );
}
