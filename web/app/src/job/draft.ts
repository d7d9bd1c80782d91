// What is edited and not saved yet: kept by the browser, so that a closed tab
// loses nothing.
export type Draft = { base: number; files: Record<string, string | null> }; // base: the number of the version; null: the file is to go

const name = (job: string) => `mlaas-draft-${job}`;

export function readDraft(job: string): Draft | undefined {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(name(job)) ?? "null");
    return found && typeof found === "object" && "base" in found && "files" in found ? (found as Draft) : undefined;
  } catch {
    return undefined; // it may be forbidden, or another's
  }
}

export function keepDraft(job: string, draft: Draft | undefined): void {
  try {
    if (draft && Object.keys(draft.files).length > 0) localStorage.setItem(name(job), JSON.stringify(draft));
    else localStorage.removeItem(name(job));
  } catch {
    // no room, or forbidden: the draft lives as long as the tab
  }
}
