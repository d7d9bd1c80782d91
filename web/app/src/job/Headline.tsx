import { Group, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import type { Job, Run } from "../api/client";
import { judgedQuery } from "../api/queries";
import { final } from "../shell/Status";
import { To } from "../shell/links";
import { value } from "../shell/words";

/** How this run did by the metric that its job is judged by, and which run did best. */
export function Headline({ job, run }: { job: Job; run: Run }) {
  const judged = useQuery({ ...judgedQuery(job.id), refetchInterval: final(run.status.state) ? false : 3000 }).data;
  if (!judged?.headline) return null;
  const mine = judged.runs.find((r) => r.run === run.id), best = judged.runs.find((r) => r.run === judged.best);
  const { metric, direction, why } = judged.headline;
  return (
    <section aria-label="Headline">
      <Group gap="lg" align="baseline">
        <Text fw={700}>{metric} {direction === "max" ? "↑" : "↓"}</Text>
        {mine && <Text>best <b>{number(mine.best.value)}</b> at step {value(mine.best.step)}, last {number(mine.value)}</Text>}
        {best && (best.run === run.id && judged.runs.length > 1 ? <Text>★ the best of {judged.runs.length} runs</Text>
          : best.run !== run.id && <Text>best run: <To to="/jobs/$job/$tab" params={{ job: job.name, tab: "metrics" }} search={{ run: String(best.number) }}>run {best.number}</To> with {number(best.best.value)} at step {value(best.best.step)}</Text>)}
      </Group>
      <Text size="xs" c="dimmed">Primary metric {metric}, because {why}.</Text>
    </section>
  );
}

const number = (v: unknown) => (typeof v === "number" ? value(v) : String(v));
