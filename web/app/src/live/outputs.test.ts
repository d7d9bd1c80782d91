import { expect, test } from "vitest";
import type { Event } from "../api/hub";
import { failureIn, keptText, said, type KernelEvent } from "./outputs";

const heard = (...data: KernelEvent[]): Event[] => [{ id: "1", topic: "kernel", type: "delta", seq: 1, data }];

test("what an execution says is put together in order", () => {
  let s = said(undefined, heard({ type: "kernel", state: "busy" }, { type: "execution", execution: "x", state: "running", code: "f()", path: "main.py", line: 3 }, { type: "stream", execution: "x", name: "stdout", text: "a" }));
  const before = s.executions[0];
  s = said(s, heard({ type: "stream", execution: "x", name: "stdout", text: "b\n" }, { type: "stream", execution: "x", name: "stderr", text: "oh" }, { type: "result", execution: "x", data: { "text/plain": "7" } }, { type: "execution", execution: "x", state: "ok" }, { type: "kernel", state: "idle" }));
  expect(s.state).toBe("idle");
  expect(s.executions[0]).toMatchObject({ state: "ok", code: "f()", path: "main.py" });
  expect(s.executions[0]!.outputs.map((o) => (o.type === "text" ? `${o.name} ${o.text}` : o.type))).toEqual(["stdout ab\n", "stderr oh", "data"]);
  expect(before!.outputs).toHaveLength(1); // what was shown is not changed
});

test("a display is updated where it stands, and cleared when the next comes", () => {
  let s = said(undefined, heard({ type: "display", execution: "x", display: "d", data: { "text/plain": "1" } }, { type: "update", execution: "y", display: "d", data: { "text/plain": "2" } }));
  expect(s.executions[0]!.outputs).toEqual([{ type: "data", display: "d", data: { "text/plain": "2" } }]);
  s = said(s, heard({ type: "clear", execution: "x", wait: true }));
  expect(s.executions[0]!.outputs).toHaveLength(1);
  s = said(s, heard({ type: "stream", execution: "x", name: "stdout", text: "new" }));
  expect(s.executions[0]!.outputs).toHaveLength(1);
  s = said(s, heard({ type: "clear", execution: "x" }));
  expect(s.executions[0]!.outputs).toEqual([]);
});

test("an error marks its line in the file that it happened in, until it is run anew", () => {
  const error: KernelEvent = { type: "error", execution: "x", error: "ValueError", value: "no", traceback: ["t"], file: "lib.py", line: 2, frames: [{ file: "main.py", line: 9 }, { file: "lib.py", line: 2 }] };
  let s = said(undefined, heard({ type: "execution", execution: "x", state: "running", path: "main.py" }, error));
  expect(failureIn(s.executions, "main.py")).toEqual([{ line: 9, says: "ValueError: no" }]);
  s = said(s, heard({ type: "execution", execution: "y", state: "running", path: "main.py" }));
  expect(failureIn(s.executions, "main.py")).toEqual([]);
});

test("a question is open until it is answered or its execution is over", () => {
  let s = said(undefined, heard({ type: "execution", execution: "x", state: "running" }, { type: "input", execution: "x", prompt: "name? " }));
  expect(s.input).toEqual({ execution: "x", prompt: "name? ", password: false });
  s = said(s, heard({ type: "execution", execution: "x", state: "ok" }));
  expect(s.input).toBeUndefined();
});

test("no more text is kept than a page can bear", () => {
  let s = said(undefined, heard({ type: "stream", execution: "x", name: "stdout", text: "y".repeat(keptText) }));
  s = said(s, heard({ type: "stream", execution: "x", name: "stdout", text: "end" }));
  expect(s.executions[0]!.outputs[0]).toMatchObject({ left: true });
  expect((s.executions[0]!.outputs[0] as { text: string }).text).toHaveLength(keptText);
});
