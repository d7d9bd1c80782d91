import { Text } from "@codemirror/state";
import { expect, test } from "vitest";
import { after, cellAt, pieceAt } from "./cells";

const text = Text.of(["import x", "", "# %% one", "a = 1", "b = 2", "# %% two", "if a:", "    c = 3", "    d = 4"]);
const at = (line: number) => text.line(line).from;

test("a cell goes from its mark to the next one", () => {
  expect(cellAt(text, at(4))).toEqual({ code: "# %% one\na = 1\nb = 2", line: 3 });
  expect(cellAt(text, at(3))).toEqual({ code: "# %% one\na = 1\nb = 2", line: 3 });
  expect(cellAt(text, at(1))).toEqual({ code: "import x\n", line: 1 });
  expect(cellAt(text, text.length)).toEqual({ code: "# %% two\nif a:\n    c = 3\n    d = 4", line: 6 });
  expect(cellAt(Text.of(["a", "b"]), 2)).toEqual({ code: "a\nb", line: 1 });
  expect(cellAt(Text.of([""]), 0)).toEqual({ code: "", line: 1 });
});

test("after a cell comes the next one", () => {
  expect(after(text, cellAt(text, at(4)))).toBe(at(7));
  expect(after(text, cellAt(text, at(8)))).toBeUndefined();
});

test("a selection is run in whole lines, without its indent", () => {
  expect(pieceAt(text, at(4) + 2, at(5) + 1)).toEqual({ code: "a = 1\nb = 2", line: 4 });
  expect(pieceAt(text, at(4), at(5))).toEqual({ code: "a = 1", line: 4 });
  expect(pieceAt(text, at(8) + 1, at(9) + 6)).toEqual({ code: "c = 3\nd = 4", line: 8 });
  expect(pieceAt(text, at(8), at(8)).line).toBe(6);
});
