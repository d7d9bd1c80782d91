import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Hub, type Event, type Socket } from "./hub";

/** A platform that a test plays. */
class Played {
  sockets: (Socket & { said: { subscribe?: { id: string; from?: number; topic: string }; unsubscribe?: string }[] })[] = [];
  signedIn = true;
  hub = new Hub({
    open: () => {
      const s = { onopen: null, onmessage: null, onclose: null, said: [], send: (t: string) => void s.said.push(JSON.parse(t)), close: () => {} } as Played["sockets"][number];
      this.sockets.push(s);
      return s;
    },
    known: () => Promise.resolve(this.signedIn),
  });
  get socket() {
    return this.sockets.at(-1)!;
  }
  says(e: Partial<Event>) {
    this.socket.onmessage!({ data: JSON.stringify(e) });
  }
}

let p: Played;
beforeEach(() => {
  vi.useFakeTimers();
  p = new Played();
});
afterEach(() => {
  p.hub.close();
  vi.useRealTimers();
});

const asked = () => p.socket.said.flatMap((s) => (s.subscribe ? [s.subscribe] : []));

test("after a lost connection each topic goes on after what it heard last", async () => {
  const heard: Event[] = [];
  p.hub.subscribe({ topic: "job" }, (e) => heard.push(e));
  p.hub.connect();
  p.socket.onopen!();
  const { id } = asked()[0]!;
  p.says({ id, topic: "job", type: "snapshot", seq: 7, data: [] });
  p.says({ id, topic: "job", type: "delta", seq: 9, data: [] });
  p.socket.onclose!();
  expect(p.hub.link.state).toBe("away");
  await vi.advanceTimersByTimeAsync(1000);
  expect(p.sockets).toHaveLength(2);
  p.socket.onopen!();
  expect(asked()).toEqual([{ id, topic: "job", from: 9 }]);
  expect(heard.map((e) => e.seq)).toEqual([7, 9]);
  expect(p.hub.link.state).toBe("live");
});

test("a number that the platform does not know any more is forgotten", async () => {
  p.hub.subscribe({ topic: "job" }, () => {});
  p.hub.connect();
  p.socket.onopen!();
  const { id } = asked()[0]!;
  p.says({ id, topic: "job", type: "delta", seq: 9, data: [] });
  p.says({ id, topic: "job", type: "reset", seq: 0 });
  p.socket.onclose!();
  await vi.advanceTimersByTimeAsync(1000);
  p.socket.onopen!();
  expect(asked()).toEqual([{ id, topic: "job" }]);
});

test("it tries again later and later, and never after more than 12.5 s", async () => {
  p.hub.connect();
  const gaps: number[] = [];
  for (let i = 0; i < 8; i++) {
    const n = p.sockets.length, from = Date.now();
    p.socket.onclose!();
    while (p.sockets.length === n) await vi.advanceTimersByTimeAsync(50);
    gaps.push(Date.now() - from);
  }
  expect(gaps[0]).toBeLessThanOrEqual(650);
  expect(gaps.at(-1)).toBeGreaterThanOrEqual(7500);
  expect(Math.max(...gaps)).toBeLessThanOrEqual(12_550);
});

test("a connection that says nothing for 35 s is given up; beats keep it", async () => {
  p.hub.connect();
  p.socket.onopen!();
  for (let i = 0; i < 4; i++) {
    await vi.advanceTimersByTimeAsync(15_000);
    p.says({ id: "", topic: "", type: "beat", seq: 0 });
  }
  expect(p.hub.link.state).toBe("live");
  await vi.advanceTimersByTimeAsync(35_001);
  expect(p.hub.link.state).toBe("away");
});

test("a browser that is not signed in stops asking", async () => {
  p.signedIn = false;
  p.hub.connect();
  p.socket.onclose!();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(p.hub.link.state).toBe("signed out");
  expect(p.sockets).toHaveLength(1);
});

test("a topic that was refused is not asked for again", async () => {
  const heard: string[] = [];
  p.hub.subscribe({ topic: "log", run: "r", grep: "(" }, (e) => heard.push(e.type));
  p.hub.connect();
  p.socket.onopen!();
  p.says({ id: asked()[0]!.id, topic: "log", type: "error", seq: 0, data: { detail: "grep" } });
  p.socket.onclose!();
  await vi.advanceTimersByTimeAsync(1000);
  p.socket.onopen!();
  expect(heard).toEqual(["error"]);
  expect(asked()).toEqual([]);
});

test("what nobody hears any more is not sent", () => {
  p.hub.connect();
  p.socket.onopen!();
  const end = p.hub.subscribe({ topic: "job" }, () => {});
  const { id } = asked()[0]!;
  end();
  expect(p.socket.said.at(-1)).toEqual({ unsubscribe: id });
});
