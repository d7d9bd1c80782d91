// Every page and its address. What is looked at stands in the address, so that
// Back works and a link shows to others what is seen here.
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from "@tanstack/react-router";
import { answer, api } from "./api/client";
import { Jobs } from "./jobs/Jobs";
import type { View } from "./jobs/rows";
import { Missing, Failed } from "./shell/Failed";
import { Shell } from "./shell/Shell";

/** A text of the address, or nothing where it is empty or something else. */
const text = (v: unknown) => (typeof v === "string" && v !== "" ? v : typeof v === "number" ? String(v) : undefined);
const one = <T extends string>(v: unknown, of: readonly T[]) => of.find((x) => x === v);

const root = createRootRoute({ component: Shell, notFoundComponent: Missing });

export type JobsSearch = { q?: string | undefined; view?: View | undefined; sort?: "name" | undefined; cols?: string | undefined };
export type JobSearch = {
  run?: string | undefined; // its number; the newest where not said
  v?: string | undefined;
  file?: string | undefined;
  show?: "prepared" | "diff" | undefined;
  against?: string | undefined; // the number of the version that the changes are shown against
  replica?: string | undefined;
  q?: string | undefined;
  level?: "error" | "warning" | "stderr" | "platform" | undefined;
  at?: string | undefined; // a line of the file
  line?: string | undefined; // of the log
  key?: string | undefined;
  smooth?: string | undefined;
  log?: "y" | undefined;
  table?: "y" | undefined;
  eval?: string | undefined; // the name of an evaluation
  step?: string | undefined; // of it
  with?: string | undefined; // numbers of runs that are drawn beside
};

export type CompareSearch = {
  runs?: string | undefined; // "JOB/1,JOB2/4"
  part?: "metrics" | "curves" | "evaluation" | "config" | "code" | undefined;
  all?: "y" | undefined; // also what is the same
  file?: string | undefined; // whose code is compared
};

// The address that the page had before is kept: /?run=ID.
const home = createRoute({
  getParentRoute: () => root,
  path: "/",
  validateSearch: (s: Record<string, unknown>): { run?: string | undefined } => ({ run: text(s.run) }),
  beforeLoad: async ({ search }) => {
    const run = search.run && (await answer(api.GET("/api/run/{id}", { params: { path: { id: search.run } } })).catch(() => undefined));
    if (run) throw redirect({ to: "/jobs/$job/$tab", params: { job: run.jobName, tab: "overview" }, search: { run: String(run.number) } });
    throw redirect({ to: "/jobs", search: {} });
  },
});

const jobs = createRoute({
  getParentRoute: () => root,
  path: "/jobs",
  validateSearch: (s: Record<string, unknown>): JobsSearch => ({ q: text(s.q), view: one(s.view, ["running", "waiting", "failed"] as const), sort: one(s.sort, ["name"] as const), cols: text(s.cols) }),
  component: Jobs,
});

const newJob = createRoute({
  getParentRoute: () => root,
  path: "/jobs/new",
  validateSearch: (s: Record<string, unknown>): { from?: string | undefined; net?: string | undefined } => ({ from: text(s.from), net: text(s.net) }),
  component: lazyRouteComponent(() => import("./jobs/NewJob"), "NewJob"),
});

const jobHome = createRoute({
  getParentRoute: () => root,
  path: "/jobs/$job",
  beforeLoad: ({ params }) => {
    throw redirect({ to: "/jobs/$job/$tab", params: { job: params.job, tab: "overview" }, search: {}, replace: true });
  },
});

const job = createRoute({
  getParentRoute: () => root,
  path: "/jobs/$job/$tab",
  validateSearch: (s: Record<string, unknown>): JobSearch => ({
    run: text(s.run),
    v: text(s.v),
    file: text(s.file),
    show: one(s.show, ["prepared", "diff"] as const),
    against: text(s.against),
    replica: text(s.replica),
    q: text(s.q),
    level: one(s.level, ["error", "warning", "stderr", "platform"] as const),
    at: text(s.at),
    line: text(s.line),
    key: text(s.key),
    smooth: text(s.smooth),
    log: one(s.log, ["y"] as const),
    table: one(s.table, ["y"] as const),
    eval: text(s.eval),
    step: text(s.step),
    with: text(s.with),
  }),
  component: lazyRouteComponent(() => import("./job/Job"), "JobPage"),
});

const compare = createRoute({
  getParentRoute: () => root,
  path: "/compare",
  validateSearch: (s: Record<string, unknown>): CompareSearch => ({ runs: text(s.runs), part: one(s.part, ["metrics", "curves", "evaluation", "config", "code"] as const), all: one(s.all, ["y"] as const), file: text(s.file) }),
  component: lazyRouteComponent(() => import("./compare/Compare"), "Compare"),
});

const clusters = createRoute({ getParentRoute: () => root, path: "/clusters", component: lazyRouteComponent(() => import("./clusters/Clusters"), "Clusters") });
const queue = createRoute({ getParentRoute: () => root, path: "/queue", component: lazyRouteComponent(() => import("./queue/Queue"), "Queue") });
const deployments = createRoute({ getParentRoute: () => root, path: "/deployments", component: lazyRouteComponent(() => import("./deployments/Deployments"), "Deployments") });
const settings = createRoute({ getParentRoute: () => root, path: "/settings", component: lazyRouteComponent(() => import("./settings/Settings"), "Settings") });
const words = (s: Record<string, unknown>): { q?: string | undefined } => ({ q: text(s.q) });
const docs = createRoute({ getParentRoute: () => root, path: "/docs", validateSearch: words, component: lazyRouteComponent(() => import("./docs/Docs"), "Docs") });
const docPage = createRoute({ getParentRoute: () => root, path: "/docs/$", validateSearch: words, component: lazyRouteComponent(() => import("./docs/Docs"), "Docs") });
const apiDocs = createRoute({ getParentRoute: () => root, path: "/docs/api", component: lazyRouteComponent(() => import("./docs/Api"), "Api") });

export function newRouter() {
  return createRouter({
    routeTree: root.addChildren([home, jobs, newJob, jobHome, job, compare, clusters, queue, deployments, settings, docs, docPage, apiDocs]),
    defaultPreload: "intent",
    defaultErrorComponent: ({ error, reset }) => <Failed error={error instanceof Error ? error : new Error(String(error))} again={reset} />,
    // Words as they are: ?q=a b, not ?q="a b".
    parseSearch: (s) => Object.fromEntries(new URLSearchParams(s)),
    stringifySearch: (s) => {
      const q = new URLSearchParams(Object.entries(s).filter(([, v]) => v !== undefined && v !== "").map(([k, v]) => [k, String(v)]));
      return q.size > 0 ? `?${q}` : "";
    },
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof newRouter>;
  }
}
