// What is done to jobs and runs, from whichever page.
import { notifications } from "@mantine/notifications";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { answer, api, type RunAsk } from "../api/client";
import { many } from "../shell/words";

function told(error: Error) {
  notifications.show({ color: "red", title: "It did not work", message: error.message, autoClose: 10_000 });
}

/** Starts a run. A retry sends the same key, so one press is one run. */
export function useStart() {
  const cache = useQueryClient();
  return useMutation({
    mutationFn: ({ job, ask, key }: { job: string; ask: RunAsk; key: string }) =>
      answer(api.POST("/api/job/{id}/run", { params: { path: { id: job }, header: { "Idempotency-Key": key } }, body: ask })),
    onSuccess: (run) => {
      cache.setQueryData(["run", run.id], run);
      void cache.invalidateQueries({ queryKey: ["runs"] });
      void cache.invalidateQueries({ queryKey: ["job"] });
    },
    onError: told,
  });
}

export function useStop() {
  return useMutation({ mutationFn: (run: string) => answer(api.POST("/api/run/{id}/stop", { params: { path: { id: run } } })), onError: told });
}

/** Does the same to several jobs, and says of how many it was done. */
export function useEach(done: string, one: (job: string) => Promise<unknown>) {
  return useMutation({
    mutationFn: async (jobs: string[]) => {
      const ends = await Promise.allSettled(jobs.map(one));
      const failed = ends.filter((e) => e.status === "rejected");
      if (ends.length > failed.length) notifications.show({ message: `${done}: ${many(ends.length - failed.length, "job")}` });
      if (failed.length > 0) throw new Error(`${many(failed.length, "job")} not: ${(failed[0]!.reason as Error).message}`);
    },
    onError: told,
  });
}

export const stopJob = (id: string) => answer(api.POST("/api/job/{id}/stop", { params: { path: { id } } }));
export const deleteJob = (id: string) => answer(api.DELETE("/api/job/{id}", { params: { path: { id } } }));
export const restoreJob = (id: string) => answer(api.POST("/api/job/{id}/restore", { params: { path: { id } } }));
