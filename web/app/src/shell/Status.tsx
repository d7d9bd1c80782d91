/** Where a run or a replica stands: a sign and a word. The colour says nothing more. */
const looks: Record<string, { sign: string; tone: "good" | "bad" | "busy" | "wait" | "over" }> = {
  created: { sign: "◌", tone: "wait" },
  queued: { sign: "◌", tone: "wait" },
  wanted: { sign: "◌", tone: "wait" },
  creating: { sign: "◌", tone: "wait" },
  pending: { sign: "◌", tone: "wait" },
  starting: { sign: "◔", tone: "busy" },
  ready: { sign: "◔", tone: "busy" },
  running: { sign: "●", tone: "busy" },
  resizing: { sign: "◑", tone: "busy" },
  stopping: { sign: "◕", tone: "wait" },
  succeeded: { sign: "✓", tone: "good" },
  up: { sign: "●", tone: "good" },
  failed: { sign: "✕", tone: "bad" },
  lost: { sign: "✕", tone: "bad" },
  unreachable: { sign: "✕", tone: "bad" },
  stopped: { sign: "■", tone: "over" },
};

export function Status({ of, word }: { of: string; word?: string }) {
  const { sign, tone } = looks[of] ?? { sign: "–", tone: "over" };
  return <span className="status" data-tone={tone}><span aria-hidden>{sign}</span>{word ?? (of || "no run")}</span>;
}

const finals = ["succeeded", "failed", "stopped", "lost"];
export const final = (state: string | undefined) => state !== undefined && finals.includes(state);
