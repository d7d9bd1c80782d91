// What is live, in the query cache: a topic is heard while something shows it,
// and for a little longer, so that going from one tab to the next and back
// loses nothing.
import { QueryClient, skipToken, useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, useContext, useEffect, useSyncExternalStore } from "react";
import { Problem } from "./client";
import { said } from "../live/outputs";
import { Hub, type Ask, type Event, type Link, type Socket } from "./hub";
import { curves, draft, evaluations, jobs, log, replicas, type JobEvent } from "./topics";

type Reduce<T> = (known: T | undefined, heard: Event[]) => T | undefined;

const every = 100; // milliseconds between two changes of a topic in the page
const linger = 5000; // after the last who showed it

/** Hears topics for those who show them, each once. */
export class Live {
  private heard = new Map<string, { users: number; end: () => void; ending?: ReturnType<typeof setTimeout> }>();

  constructor(
    readonly hub: Hub,
    private readonly cache: QueryClient,
  ) {}

  hold<T>(ask: Ask, reduce: Reduce<T>): () => void {
    const name = JSON.stringify(ask);
    let topic = this.heard.get(name);
    if (!topic) {
      topic = { users: 0, end: this.listen(ask, reduce) };
      this.heard.set(name, topic);
    }
    clearTimeout(topic.ending);
    topic.users++;
    const held = topic;
    return () => {
      if (--held.users > 0) return;
      held.ending = setTimeout(() => {
        held.end();
        this.heard.delete(name);
        this.cache.removeQueries({ queryKey: ["topic", ask], exact: true });
      }, linger);
    };
  }

  private listen<T>(ask: Ask, reduce: Reduce<T>): () => void {
    let waiting: Event[] = [];
    let turn: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    const flush = () => {
      turn = undefined;
      last = performance.now();
      const heard = waiting;
      waiting = [];
      this.cache.setQueryData<T>(["topic", ask], (known) => reduce(known, heard));
      this.also(ask, heard);
    };
    const end = this.hub.subscribe(ask, (e) => {
      if (e.type === "error") {
        this.cache.setQueryData(["refused", ask], e.data);
        return;
      }
      waiting.push(e);
      turn ??= setTimeout(flush, Math.max(0, every - (performance.now() - last)));
    });
    return () => {
      clearTimeout(turn);
      end();
    };
  }

  /** Asks again for what a change that was heard has made old. */
  private also(ask: Ask, heard: Event[]) {
    const old = (...queryKey: unknown[]) => void this.cache.invalidateQueries({ queryKey });
    if (ask.topic === "replica" && heard.some((e) => e.type === "delta")) old("run", ask.run);
    if (ask.topic !== "job") return;
    for (const e of heard) {
      if (e.type !== "delta") continue;
      for (const j of e.data as JobEvent[]) {
        old("job", j.job);
        old("runs", j.job);
        if (j.status?.run) old("run", j.status.run);
      }
      old("jobs");
      old("queue");
      old("clusters");
    }
  }
}

const Context = createContext<Live | undefined>(undefined);
export const LiveProvider = Context.Provider;

export function useLive(): Live {
  const live = useContext(Context);
  if (!live) throw new Error("there is no LiveProvider above");
  return live;
}

/** Whether what is shown is live, and since when it is so. */
export function useLink(): Link {
  const { hub } = useLive();
  return useSyncExternalStore((f) => hub.onLink(f), () => hub.link);
}

function useTopic<T>(ask: Ask | undefined, reduce: Reduce<T>): T | undefined {
  const live = useLive();
  const name = ask && JSON.stringify(ask);
  useEffect(() => (name ? live.hold(JSON.parse(name) as Ask, reduce) : undefined), [live, name, reduce]);
  return useQuery<T>({ queryKey: ["topic", ask], queryFn: skipToken, staleTime: Infinity, structuralSharing: false }).data;
}

const everyJob: Ask = { topic: "job" };
export const useJobs = () => useTopic(everyJob, jobs);
export const useReplicas = (run: string | undefined) => useTopic(run ? { topic: "replica", run } : undefined, replicas);
export const useCurves = (run: string | undefined) => useTopic(run ? { topic: "metric", run } : undefined, curves);
export const useEvaluations = (run: string | undefined) => useTopic(run ? { topic: "evaluation", run } : undefined, evaluations);

/** The draft of a job. Refused is why it has none. */
export function useDraft(job: string) {
  const ask: Ask = { topic: "draft", job };
  const data = useTopic(ask, draft);
  const refused = useQuery<{ detail?: string }>({ queryKey: ["refused", ask], queryFn: skipToken, staleTime: Infinity }).data;
  return { draft: data, refused: refused?.detail };
}

/** What a kernel said, from its beginning. */
export const useSaid = (run: string | undefined) => useTopic(run ? { topic: "kernel", run, from: 0 } : undefined, said);

/** Follows the log of a run, or the lines of it that match. Refused is why not. */
export function useLog(run: string | undefined, only: { replica?: string | undefined; grep?: string | undefined }) {
  const ask: Ask | undefined = run
    ? { topic: "log", run, tail: 2000, ...(only.replica && { replica: only.replica }), ...(only.grep && { grep: only.grep }) }
    : undefined;
  const data = useTopic(ask, log);
  const refused = useQuery<{ detail?: string }>({ queryKey: ["refused", ask], queryFn: skipToken, staleTime: Infinity }).data;
  return { log: data, refused: refused?.detail };
}

/** The cache of what the platform said. What is live never grows old by itself. */
export function newCache(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: 10_000,
        refetchOnWindowFocus: false,
        retry: (count, error) => count < 2 && error instanceof Problem && (error.status === 0 || error.status >= 500),
      },
    },
  });
}

/** Connects the page to the platform that it came from. */
export function newLive(cache: QueryClient): Live {
  const hub = new Hub({
    open: () => new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/stream`) as unknown as Socket,
    known: () => fetch("/api/session?limit=1").then((r) => r.status !== 401, () => true),
  });
  let before = hub.link.state;
  hub.onLink(() => {
    const now = hub.link.state;
    // What came by requests may have changed while nobody told.
    if (now === "live" && before === "away") void cache.invalidateQueries({ predicate: (q) => !["topic", "refused", "doc"].includes(String(q.queryKey[0])) });
    before = now;
  });
  window.addEventListener("online", () => hub.hurry());
  window.addEventListener("offline", () => hub.drop());
  hub.connect();
  return new Live(hub, cache);
}

export { useQueryClient };
