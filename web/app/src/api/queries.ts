// What the page asks of the API, by name, so that each thing is asked once and
// stands in one place of the cache.
import { keepPreviousData, queryOptions } from "@tanstack/react-query";
import { answer, api, lines, type Evaluation, type JobSpec, type PlanAsk, type PreparedCode, type VersionContent } from "./client";
import { point, type Curve } from "./topics";

const path = (id: string) => ({ params: { path: { id } } });

export const jobQuery = (id: string) => queryOptions({ queryKey: ["job", id], queryFn: () => answer(api.GET("/api/job/{id}", path(id))) });

/** The newest jobs with all that is known of them; where each stands is live. */
export const newestJobs = queryOptions({ queryKey: ["jobs"], queryFn: async () => (await answer(api.GET("/api/job", { params: { query: { limit: 200 } } }))).items ?? [] });

export const runsQuery = (job: string) =>
  queryOptions({ queryKey: ["runs", job], queryFn: async () => (await answer(api.GET("/api/job/{id}/run", { params: { path: { id: job }, query: { limit: 200 } } }))).items ?? [] });

export const runQuery = (id: string) => queryOptions({ queryKey: ["run", id], queryFn: () => answer(api.GET("/api/run/{id}", path(id))) });

/** The runs that wait or have something, newest first. */
export const liveRuns = queryOptions({
  queryKey: ["queue"],
  queryFn: async () => (await answer(api.GET("/api/run", { params: { query: { status: "created,queued,starting,running,resizing,stopping", limit: 200 } } }))).items ?? [],
});

export const versionsQuery = (job: string) =>
  queryOptions({ queryKey: ["versions", job], queryFn: async () => (await answer(api.GET("/api/job/{id}/code", { params: { path: { id: job }, query: { limit: 200 } } }))).items ?? [] });

export const contentQuery = (job: string, version: string) =>
  queryOptions({
    queryKey: ["content", job, version],
    staleTime: Infinity, // a version never changes
    queryFn: async () => (await answer(api.GET("/api/job/{id}/code/{versionId}", { params: { path: { id: job, versionId: version }, query: { content: true } } }))) as VersionContent, // and no archive
  });

/** Where the kernel of a job stands. It is asked again while it is being started: only then does nobody tell. */
export const kernelQuery = (job: string) =>
  queryOptions({ queryKey: ["kernel", job], queryFn: () => answer(api.GET("/api/job/{id}/kernel", path(job))), refetchInterval: (q) => (["queued", "starting"].includes(q.state.data?.state ?? "") ? 500 : 10_000) });

export const executionsQuery = (job: string) =>
  queryOptions({ queryKey: ["executions", job], queryFn: async () => (await answer(api.GET("/api/job/{id}/kernel/execution", { params: { path: { id: job }, query: { limit: 200 } } }))).items ?? [] });

/** The texts of a job's draft as they are now, for a search through them. */
export const draftTextsQuery = (job: string) =>
  queryOptions({ queryKey: ["draft texts", job], staleTime: 2000, queryFn: async () => (await answer(api.GET("/api/job/{id}/draft", { params: { path: { id: job }, query: { content: true } } }))).content ?? {} });

/** The text of a file of the draft, to be edited. It is never asked for again by itself: an editor goes on from it. */
export const docQuery = (job: string, path: string, opening: number) =>
  queryOptions({ queryKey: ["doc", job, path, opening], staleTime: Infinity, gcTime: 0, queryFn: () => answer(api.POST("/api/job/{id}/draft/open", { params: { path: { id: job } }, body: { path } })) });

export const preparedQuery = (job: string, version: string) =>
  queryOptions({ queryKey: ["prepared", job, version], queryFn: async () => (await answer(api.GET("/api/job/{id}/code/{versionId}/prepared", { params: { path: { id: job, versionId: version } } }))) as PreparedCode });

export const checkpointsQuery = (run: string) =>
  queryOptions({ queryKey: ["run", run, "checkpoints"], queryFn: async () => (await answer(api.GET("/api/run/{id}/checkpoint", path(run)))).items ?? [] });

/** One evaluation of a run, whole. It does not change: one that is said again has another time. */
export const evaluationQuery = (run: string, name: string, step: number, replica: string, created: string) =>
  queryOptions({
    queryKey: ["evaluation", run, name, step, replica, created],
    staleTime: Infinity,
    queryFn: async () => {
      // By hand: a name may have slashes, which belong to the path.
      const at = name.split("/").map(encodeURIComponent).join("/");
      return answer<Evaluation>(fetch(`/api/run/${run}/evaluation/${at}?step=${step}&replica=${replica}`).then(async (response) => {
        const body: unknown = await response.json().catch(() => undefined);
        return response.ok ? { data: body as Evaluation, response } : { error: body, response };
      }));
    },
  });

/** How the runs of a job did by the metric that it is judged by. */
export const judgedQuery = (job: string) => queryOptions({ queryKey: ["job", job, "judged"], queryFn: () => answer(api.GET("/api/job/{id}/judged", path(job))) });

/** One metric of a run over a stretch of steps, in buckets. */
export const pointsQuery = (run: string, key: string, range?: [number, number]) =>
  queryOptions({
    queryKey: ["points", run, key, range],
    queryFn: async () => {
      const query = { key, buckets: 1000 /* about twice the pixels of a chart */, limit: 500, ...(range && { from_step: range[0], to_step: range[1] }) };
      const got = await answer(api.GET("/api/run/{id}/metric", { params: { path: { id: run }, query } }));
      return (got.items ?? []).map((c): Curve => ({ key: c.key, replica: c.replica, points: (c.points ?? []).map((p) => point(p as Parameters<typeof point>[0])) }));
    },
  });

export const artifactsQuery = (run: string) =>
  queryOptions({ queryKey: ["run", run, "artifacts"], queryFn: async () => (await answer(api.GET("/api/run/{id}/artifact", path(run)))).items ?? [] });

/** The lines of a run that match, as many as are asked for. */
export const linesQuery = (run: string, query: Record<string, string>) => queryOptions({ queryKey: ["lines", run, query], queryFn: () => lines(run, query) });

export const eventsQuery = (job: string, run: string, replica: string) =>
  queryOptions({
    queryKey: ["run", run, "events", replica],
    queryFn: async () => (await answer(api.GET("/api/job/{id}/node/{nodeId}/event", { params: { path: { id: job, nodeId: replica }, query: { run } } }))).items ?? [],
  });

/** What the threads of a replica do now: each look is a new one. */
export const stackQuery = (job: string, run: string, replica: string) =>
  queryOptions({ queryKey: ["stack", run, replica], staleTime: 0, gcTime: 0, retry: false, queryFn: () => answer(api.GET("/api/job/{id}/node/{nodeId}/stack", { params: { path: { id: job, nodeId: replica }, query: { run } } })) });

export const clustersQuery = queryOptions({ queryKey: ["clusters"], queryFn: async () => (await answer(api.GET("/api/cluster"))).items ?? [], refetchInterval: 10_000 });
export const statusQuery = queryOptions({ queryKey: ["status"], queryFn: () => answer(api.GET("/api/status")), refetchInterval: 15_000 });
export const sessionsQuery = queryOptions({ queryKey: ["sessions"], queryFn: async () => (await answer(api.GET("/api/session"))).items ?? [] });
export const notificationsQuery = queryOptions({ queryKey: ["notifications"], queryFn: async () => (await answer(api.GET("/api/notification", { params: { query: { limit: 100 } } }))).items ?? [] });
/** What was sent for one: looked at again while something of it goes on. */
export const deliveriesQuery = (id: string) =>
  queryOptions({
    queryKey: ["notified", id],
    queryFn: async () => (await answer(api.GET("/api/notification/{id}/delivery", { params: { path: { id }, query: { limit: 20 } } }))).items ?? [],
    refetchInterval: 2000,
  });
export const viewsQuery = queryOptions({ queryKey: ["views"], queryFn: async () => (await answer(api.GET("/api/view", { params: { query: { limit: 200 } } }))).items ?? [] });
export const secretsQuery = queryOptions({ queryKey: ["secrets"], queryFn: async () => (await answer(api.GET("/api/secret"))).items ?? [] });
export const datasetsQuery = queryOptions({ queryKey: ["datasets"], queryFn: async () => (await answer(api.GET("/api/dataset"))).items ?? [] });
export const environmentsQuery = queryOptions({ queryKey: ["environments"], staleTime: 60_000, queryFn: () => answer(api.GET("/api/environment")) });
export const templatesQuery = queryOptions({ queryKey: ["templates"], staleTime: Infinity, queryFn: async () => (await answer(api.GET("/api/template"))).items ?? [] });

/** What a network comes to: asked again with each change of it. */
export const composeQuery = (spec: JobSpec) => queryOptions({ queryKey: ["compose", spec], placeholderData: keepPreviousData, staleTime: 60_000, queryFn: () => answer(api.POST("/api/compose", { body: spec })) });

/** What would become of a job that is run now; it changes with what else runs. */
export const planQuery = (ask: PlanAsk) => queryOptions({ queryKey: ["plan", ask], placeholderData: keepPreviousData, refetchInterval: 10_000, queryFn: () => answer(api.POST("/api/plan", { body: ask })) });

export const datasetQuery = (name: string, version: string) => queryOptions({ queryKey: ["dataset", name, version], staleTime: Infinity, queryFn: () => answer(api.GET("/api/dataset/{name}/{version}", { params: { path: { name, version } } })) });

/** The pages of the documentation; with words those that have them. It is of the binary, and does not change. */
export const docsQuery = (words: string) => queryOptions({ queryKey: ["docs", words], staleTime: Infinity, queryFn: async () => (await answer(api.GET("/api/docs", { params: { query: { limit: 500, ...(words && { q: words }) } } }))).items ?? [] });
export const docPageQuery = (at: string) => queryOptions({ queryKey: ["doc", at], staleTime: Infinity, queryFn: () => answer(api.GET("/api/docs/{path}", { params: { path: { path: at } } })) });
