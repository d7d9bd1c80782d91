// Which runs have ended: pure, so that it can be tried.
import type { Jobs } from "../api/topics";
import { final } from "./Status";

/** The runs that have ended between two looks at all jobs, in sentences. */
export function ended(before: Jobs, now: Jobs): { id: string; text: string; body: string }[] {
  const out = [];
  for (const [id, j] of now) {
    const was = before.get(id)?.status, is = j.status;
    if (is?.run && final(is.state) && was && !(was.run === is.run && final(was.state))) out.push({ id: is.run, text: `${j.name}/${is.number} ${is.state}`, body: is.reason ?? "" });
  }
  return out;
}
