// One WebSocket for everything live. Each subscription goes on after the last
// number that it heard, so a lost connection leaves no gap and doubles nothing.

export type Ask = {
  topic: "job" | "replica" | "log" | "metric" | "evaluation" | "draft" | "kernel";
  job?: string;
  doc?: string;
  run?: string;
  replica?: string;
  grep?: string;
  tail?: number;
  from?: number; // where it begins, instead of a snapshot
};

export type Event = {
  id: string;
  topic: string;
  type: "snapshot" | "delta" | "synced" | "reset" | "error" | "beat";
  seq: number;
  data?: unknown;
};

export type Link = { state: "connecting" | "live" | "away" | "signed out"; since: number };

/** What the hub needs of a socket, so that a test can play one. */
export type Socket = {
  onopen: (() => void) | null;
  onmessage: ((m: { data: unknown }) => void) | null;
  onclose: (() => void) | null;
  send(text: string): void;
  close(): void;
};

export type Needs = {
  /** Opens a socket. */
  open(): Socket;
  /** Whether this browser is signed in; a refused socket says no reason. */
  known(): Promise<boolean>;
};

type Subscription = { ask: Ask; from?: number; hear: (e: Event) => void };

const firstRetry = 500, lastRetry = 10_000; // milliseconds
const quiet = 35_000; // the platform beats every 15 s: who says nothing for so long is gone

export class Hub {
  private subscriptions = new Map<string, Subscription>();
  private listeners = new Set<() => void>();
  private socket: Socket | undefined;
  private next = 0;
  private retry = firstRetry;
  private again: ReturnType<typeof setTimeout> | undefined;
  private silence: ReturnType<typeof setTimeout> | undefined;
  private ended = false;
  link: Link = { state: "connecting", since: Date.now() };

  constructor(private readonly needs: Needs) {}

  /** Connects, and connects again until it is closed. */
  connect(): void {
    clearTimeout(this.again);
    if (this.socket || this.ended) return;
    const socket = this.needs.open();
    this.socket = socket;
    this.watch();
    socket.onopen = () => {
      this.retry = firstRetry;
      this.watch();
      this.become("live");
      for (const [id, s] of this.subscriptions) this.ask(id, s);
    };
    socket.onmessage = (m) => {
      if (this.socket !== socket) return;
      this.watch();
      this.take(JSON.parse(String(m.data)) as Event);
    };
    socket.onclose = () => {
      if (this.socket === socket) void this.lost();
    };
  }

  /** Tries now what would be tried later: the network is back. */
  hurry(): void {
    if (this.socket || this.link.state === "signed out") return;
    this.retry = firstRetry;
    this.connect();
  }

  /** Gives up a connection that the browser says is gone, without waiting for the silence to tell. */
  drop(): void {
    const socket = this.socket;
    if (!socket) return;
    void this.lost();
    socket.close();
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.again);
    clearTimeout(this.silence);
    this.socket?.close();
    this.socket = undefined;
  }

  /** Hears a topic until the function that is returned is called. */
  subscribe(ask: Ask, hear: (e: Event) => void): () => void {
    const id = String(++this.next);
    const s: Subscription = { ask, hear };
    this.subscriptions.set(id, s);
    this.ask(id, s);
    return () => {
      if (this.subscriptions.delete(id)) this.say({ unsubscribe: id });
    };
  }

  /** Calls back whenever link changes. */
  onLink(f: () => void): () => void {
    this.listeners.add(f);
    return () => this.listeners.delete(f);
  }

  private ask(id: string, s: Subscription) {
    this.say({ subscribe: { id, ...s.ask, ...(s.from !== undefined && { from: s.from }) } });
  }

  private say(message: unknown) {
    if (this.link.state === "live") this.socket?.send(JSON.stringify(message));
  }

  private take(e: Event) {
    const s = this.subscriptions.get(e.id);
    if (!s || e.type === "beat") return;
    if (e.type === "reset") delete s.from;
    else if (e.type === "error") this.subscriptions.delete(e.id);
    else s.from = e.seq;
    s.hear(e);
  }

  private watch() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.drop(), quiet);
  }

  private async lost() {
    this.socket = undefined;
    clearTimeout(this.silence);
    if (this.ended) return;
    this.become("away");
    const wait = this.retry * (0.75 + Math.random() / 2);
    this.retry = Math.min(this.retry * 2, lastRetry);
    this.again = setTimeout(() => this.connect(), wait);
    if (await this.needs.known()) return;
    clearTimeout(this.again);
    if (!this.socket) this.become("signed out");
  }

  private become(state: Link["state"]) {
    if (this.link.state === state) return;
    this.link = { state, since: Date.now() };
    for (const f of this.listeners) f();
  }
}
