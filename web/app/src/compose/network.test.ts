import { expect, test } from "vitest";
import { add, change, columnsOf, first, found, fromWord, kinds, move, networkOf, remove, said, shape, specOf, toWord } from "./network";

const types = (c: typeof first.composed) => (c.hidden_layers ?? []).map((l) => l.type);

test("layers come, go and change their places, and what was there stays as it was", () => {
  const c = add(first.composed, "dropout", 1);
  expect(types(c)).toEqual(["dense", "dropout", "dense"]);
  expect(types(first.composed)).toEqual(["dense", "dense"]);
  expect(types(move(c, 1, 0))).toEqual(["dropout", "dense", "dense"]);
  expect(types(move(c, 0, 2))).toEqual(["dropout", "dense", "dense"]);
  expect(move(c, 0, -1)).toBe(c);
  expect(move(c, 2, 3)).toBe(c);
  expect(types(remove(c, 0))).toEqual(["dropout", "dense"]);
  expect(change(c, 1, { type: "flatten" }).hidden_layers![1]).toEqual({ type: "flatten" });
});

test("every kind has a beginning of its own kind", () => {
  for (const [kind, k] of Object.entries(kinds)) expect(k.fresh.type).toBe(kind);
});

test("what is typed is a number where it is one, and nothing takes the field away", () => {
  expect(said({ type: "dense", neurons: 3 }, "neurons", "12", false)).toEqual({ type: "dense", neurons: 12 });
  expect(said({ type: "dense", neurons: 3 }, "neurons", "twelve", false)).toEqual({ type: "dense", neurons: "twelve" }); // the server says what is wrong
  expect(said({ type: "dense", neurons: 3 }, "neurons", " ", false)).toEqual({ type: "dense" });
  expect(shape("28, 28,1")).toEqual([28, 28, 1]);
  expect(shape("28x28")).toEqual([28, 28]);
  expect(shape("28, ?")).toBeUndefined();
  expect(shape("")).toBeUndefined();
});

test("a link shows the same network, and one that was cut shows none", () => {
  const n = { ...first, source: "dataset:ziffern-ä" };
  expect(fromWord(toWord(n))).toEqual(n);
  expect(toWord(n)).toMatch(/^[\w-]+$/);
  expect(fromWord(toWord(n).slice(0, -9))).toBeUndefined();
  expect(fromWord(btoa('["a", 7]'))).toBeUndefined();
  expect(fromWord("§")).toBeUndefined();
});

test("a network is a part of a job, and is found in it again", () => {
  expect(networkOf(specOf(first) as never)).toEqual(first);
  expect(networkOf({ code: { mode: "plain" } } as never)).toBeUndefined();
});

test("what is said of a layer is told from what is said of its neighbour", () => {
  const c = { layers: [{ name: "hidden_layers[1]", type: "dense", shape: [4], parameters: 8, trainable: 8 }], messages: [{ field: "hidden_layers[1].neurons", message: "a" }, { field: "hidden_layers[10]", message: "b" }] } as never;
  expect(found(c, "hidden_layers[1]").messages.map((m) => m.message)).toEqual(["a"]);
  expect(found(c, "hidden_layers[1]").layer!.parameters).toBe(8);
  expect(found(undefined, "output")).toEqual({ layer: undefined, messages: [] });
});

test("the first line of a table names its columns", () => {
  expect(columnsOf('\uFEFFage,"a, b","say ""x""",y\r\n1,2,3,4')).toEqual(["age", "a, b", 'say "x"', "y"]);
  expect(columnsOf("a,,c\n")).toEqual(["a", "", "c"]);
  expect(columnsOf('a,"open')).toEqual(["a"]);
  expect(columnsOf("")).toEqual([]);
});
