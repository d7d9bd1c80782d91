// The text that is edited, kept the same here and at the platform, which is the
// authority of which edit came first: docs/reference/draft.md.
import { collab, getSyncedVersion, receiveUpdates, sendableUpdates, type Update } from "@codemirror/collab";
import { ChangeSet, StateEffect, StateField, type EditorState, type Extension } from "@codemirror/state";
import { Decoration, EditorView, ViewPlugin, WidgetType, type DecorationSet, type ViewUpdate } from "@codemirror/view";
import { answer, api, Problem, type Doc, type Draft } from "../api/client";
import type { Event, Hub } from "../api/hub";

type Edit = { client: string; changes: unknown };
export type Person = Draft["people"][number];

/** How far what is typed has come: kept by the platform, on its way, or waiting for the network. */
export type Kept = "kept" | "going" | "waiting";

export type Together = {
  job: string;
  doc: Doc;
  /** The word of this editor, by which its edits are known. */
  client: string;
  /** What others call who sits here. */
  name: () => string;
  hub: Hub;
  kept: (state: Kept) => void;
  /** The text is to be opened anew: its file is gone, or too much came while this was away. unsent is what the platform has not got. */
  lost: (why: "gone" | "behind", unsent: string | undefined) => void;
};

const firstRetry = 500, lastRetry = 8000, still = 400, beat = 15_000; // milliseconds

/** An editor of a text that others edit too. */
export function together(t: Together): Extension {
  return [collab({ startVersion: t.doc.version, clientID: t.client }), ViewPlugin.define((view) => new Peer(view, t))];
}

/** Whether there is something that the platform has not got. */
export const unsent = (state: EditorState) => sendableUpdates(state).length > 0;

class Peer {
  private pushing = false;
  private done = false;
  private wait = firstRetry;
  private turn: ReturnType<typeof setTimeout> | undefined;
  private readonly beats: ReturnType<typeof setInterval>;
  private readonly end: () => void;

  constructor(
    private readonly view: EditorView,
    private readonly t: Together,
  ) {
    this.end = t.hub.subscribe({ topic: "draft", job: t.job, doc: t.doc.doc }, (e) => this.hear(e));
    this.beats = setInterval(() => this.plan(0), beat);
    window.addEventListener("pagehide", this.leave);
    this.plan(still); // to say that one is here
  }

  update(u: ViewUpdate) {
    if (u.docChanged && unsent(u.state)) {
      this.t.kept("going");
      this.plan(0);
    } else if (u.selectionSet) this.plan(still);
  }

  /** Says that one has gone, also while the page is being closed. */
  private readonly leave = () => {
    const body = JSON.stringify({ doc: this.t.doc.doc, version: getSyncedVersion(this.view.state), client: this.t.client });
    void fetch(`/api/job/${this.t.job}/draft/push`, { method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive: true }).catch(() => {}); // it is forgotten soon anyway
  };

  destroy() {
    window.removeEventListener("pagehide", this.leave);
    this.end();
    clearInterval(this.beats);
    clearTimeout(this.turn);
    if (!this.done) this.leave();
    this.done = true;
  }

  private plan(after: number) {
    if (this.pushing || this.done) return;
    clearTimeout(this.turn);
    this.turn = setTimeout(() => void this.push(), after);
  }

  private say(edits: Edit[], name: string) {
    const { anchor, head } = this.view.state.selection.main;
    const body = { doc: this.t.doc.doc, version: getSyncedVersion(this.view.state), edits, client: this.t.client, name, anchor, head };
    return answer(api.POST("/api/job/{id}/draft/push", { params: { path: { id: this.t.job } }, body }));
  }

  /** Sends what is not sent yet, one push at a time, until nothing is left. */
  private async push() {
    if (this.pushing || this.done) return;
    this.pushing = true;
    try {
      const version = getSyncedVersion(this.view.state);
      const edits = sendableUpdates(this.view.state).slice(0, 200).map((u) => ({ client: u.clientID, changes: u.changes.toJSON() as unknown }));
      const p = await this.say(edits, this.t.name());
      if (this.done) return;
      this.wait = firstRetry;
      if (!p.known) return this.lose("behind");
      this.receive(version, p.edits as Edit[]);
      if (!unsent(this.view.state)) this.t.kept("kept");
    } catch (e) {
      if (this.done) return;
      if (e instanceof Problem && (e.status === 410 || e.status === 404)) return this.lose("gone");
      if (e instanceof Problem && e.status >= 400 && e.status < 500 && e.status !== 429 && e.status !== 401) return this.lose("behind");
      this.t.kept("waiting");
      this.pushing = false;
      this.plan(this.wait);
      this.wait = Math.min(2 * this.wait, lastRetry);
      return;
    } finally {
      this.pushing = false;
    }
    if (unsent(this.view.state)) this.plan(0);
  }

  private hear(e: Event) {
    if (this.done || (e.type !== "snapshot" && e.type !== "delta")) return;
    for (const d of e.data as { version: number; edits: Edit[]; gone?: boolean }[]) {
      if (d.gone) return this.lose("gone");
      this.receive(d.version - d.edits.length, d.edits);
    }
    if (unsent(this.view.state)) this.plan(0);
  }

  /** Takes in edits of a version, those left out that are known. */
  private receive(from: number, edits: Edit[]) {
    const known = getSyncedVersion(this.view.state);
    if (from > known) return this.lose("behind");
    const news: Update[] = edits.slice(known - from).map((e) => ({ clientID: e.client, changes: ChangeSet.fromJSON(e.changes) }));
    if (news.length > 0) this.view.dispatch(receiveUpdates(this.view.state, news));
  }

  private lose(why: "gone" | "behind") {
    if (this.done) return;
    this.done = true;
    this.t.lost(why, unsent(this.view.state) ? this.view.state.doc.toString() : undefined);
  }
}

const seen = StateEffect.define<Person[]>();

/** Shows where others are in the text. */
export const others = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(marks, tr) {
    marks = marks.map(tr.changes);
    for (const e of tr.effects) {
      if (!e.is(seen)) continue;
      const end = tr.newDoc.length;
      const ranges = e.value.flatMap((p) => {
        const [from, to, head] = [Math.min(p.anchor, p.head, end), Math.min(Math.max(p.anchor, p.head), end), Math.min(p.head, end)];
        const lane = laneOf(p.client);
        return [
          ...(from < to ? [Decoration.mark({ class: `cm-other-selection cm-lane-${lane}` }).range(from, to)] : []),
          Decoration.widget({ widget: new Caret(p.name, lane), side: 1 }).range(head),
        ];
      });
      marks = Decoration.set(ranges, true);
    }
    return marks;
  },
  provide: (f) => EditorView.decorations.from(f),
});

export const show = (people: Person[]) => ({ effects: seen.of(people) });

/** The colour of a person, the same in every browser. */
export const laneOf = (client: string) => [...client].reduce((n, c) => (n * 31 + c.charCodeAt(0)) % 997, 7) % 6;

class Caret extends WidgetType {
  constructor(
    private readonly name: string,
    private readonly lane: number,
  ) {
    super();
  }
  override eq(o: Caret) {
    return o.name === this.name && o.lane === this.lane;
  }
  toDOM() {
    const at = document.createElement("span");
    at.className = `cm-other cm-lane-${this.lane}`;
    at.setAttribute("aria-hidden", "true"); // who is here is told above the text
    const label = document.createElement("span");
    label.className = "cm-other-name";
    label.textContent = this.name;
    at.append("\u2060", label);
    return at;
  }
}
