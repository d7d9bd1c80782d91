// What the browser itself shows when a run ends, where its user wants that.
import { useLocalStorage } from "@mantine/hooks";
import { useEffect, useRef, useState } from "react";
import { useJobs } from "../api/live";
import type { Jobs } from "../api/topics";
import { ended } from "./ends";

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

/** Shows the runs that end. */
export function usePopupsOfEnds() {
  const { on } = usePopups();
  const jobs = useJobs();
  const before = useRef<Jobs>(undefined);
  useEffect(() => {
    if (on && before.current && jobs) for (const e of ended(before.current, jobs)) new Notification(e.text, { body: e.body, tag: e.id, icon: "/icon.svg" });
    before.current = jobs;
  }, [on, jobs]);
}
