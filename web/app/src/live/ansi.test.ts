import { expect, test } from "vitest";
import { spans, typed } from "./ansi";

test("colours are told, and what is no colour is left out", () => {
  expect(spans("a\x1b[31mred\x1b[0m b")).toEqual([{ text: "a" }, { text: "red", colour: 1 }, { text: " b" }]);
  expect(spans("\x1b[1;32mok\x1b[39m!\x1b[22m")).toEqual([{ text: "ok", colour: 2, bold: true }, { text: "!", bold: true }]);
  expect(spans("\x1b[38;5;196mx\x1b[m\x1b[2K\x1b[1Ay")).toEqual([{ text: "x", colour: 1 }, { text: "y" }]);
  expect(spans("")).toEqual([]);
});

test("a progress bar is one line", () => {
  let text = typed("", "begin\n10%\r");
  text = typed(text, "50%\r");
  expect(text).toBe("begin\n50%\r");
  text = typed(text, "100%\ndone\n");
  expect(text).toBe("begin\n100%\ndone\n");
  expect(typed("", "long line\rab")).toBe("abng line");
  expect(typed("", "dos\r\nends\r\n")).toBe("dos\nends\n");
});
