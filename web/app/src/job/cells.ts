// What of a text is run: the selection, the cell around the cursor, or all.
import type { Text } from "@codemirror/state";

/** Code that is run as one, and the line of the file that it begins in, from 1. */
export type Piece = { code: string; line: number };

/** The lines from which a cell begins: "# %%" and what editors take for the same. */
const mark = /^\s*#\s*(%%|In\[)/;

/** The cell around a place: from the mark before it to the next one; all of a text without marks. */
export function cellAt(doc: Text, at: number): Piece {
  let first = doc.lineAt(at).number;
  while (first > 1 && !mark.test(doc.line(first).text)) first--;
  let last = Math.min(first, doc.lines);
  while (last < doc.lines && !mark.test(doc.line(last + 1).text)) last++;
  return { code: doc.sliceString(doc.line(first).from, doc.line(last).to), line: first };
}

/** Where the cursor goes after a cell was run: the line after the next mark, or where it is. */
export function after(doc: Text, piece: Piece): number | undefined {
  const next = piece.line + piece.code.split("\n").length;
  return next <= doc.lines ? doc.line(Math.min(next + 1, doc.lines)).from : undefined;
}

/** What is selected, in whole lines and with the indent of the first taken away; else the cell. */
export function pieceAt(doc: Text, from: number, to: number): Piece {
  if (from === to) return cellAt(doc, from);
  const first = doc.lineAt(from), last = doc.lineAt(to);
  const end = last.from === to && last.number > first.number ? doc.line(last.number - 1) : last; // a selection that ends where a line begins
  const whole = doc.sliceString(first.from, end.to);
  const indent = /^[ \t]*/.exec(whole)![0];
  const code = indent ? whole.split("\n").map((l) => (l.startsWith(indent) ? l.slice(indent.length) : l)).join("\n") : whole;
  return { code, line: first.number };
}
