// What the browser itself shows when a run ends, where its user wants that.
import { useLocalStorage } from "@mantine/hooks";
import { useEffect, useRef, useState } from "react";
import { useJobs } from "../api/live";
import type { Jobs } from "../api/topics";
import { final } from "./Status";

const can = "Notification" in window && window.isSecureContext;

export function usePopups() {
  const [on, store] = useLocalStorage({ key: "mlaas-popups", defaultValue: false });
  const [refused, setRefused] = useState(false);
  const set = async (wanted: boolean) => {
    const may = !wanted || (await Notification.requestPermission()) === "granted";
    setRefused(!may);
    store(wanted && may);
  };
  return { can, on: can && on && Notification.permission === "granted", set, refused };
}

/** The runs that have ended between two looks at all jobs, in sentences. */
export function ended(before: Jobs, now: Jobs): { id: string; text: string; body: string }[] {
  const out = [];
  for (const [id, j] of now) {
    const was = before.get(id)?.status, is = j.status;
    if (is?.run && final(is.state) && was && !(was.run === is.run && final(was.state))) out.push({ id: is.run, text: `${j.name}/${is.number} ${is.state}`, body: is.reason ?? "" });
  }
  return out;
}

/** Shows them. */
export function usePopupsOfEnds() {
  const { on } = usePopups();
  const jobs = useJobs();
  const before = useRef<Jobs>(undefined);
  useEffect(() => {
    if (on && before.current && jobs) for (const e of ended(before.current, jobs)) new Notification(e.text, { body: e.body, tag: e.id, icon: "/icon.svg" });
    before.current = jobs;
  }, [on, jobs]);
}
