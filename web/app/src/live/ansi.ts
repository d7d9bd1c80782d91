// What a terminal would show of a text: colours, and lines that are written over.

export type Span = { text: string; colour?: number; bold?: boolean };

const sign = /\x1b\[([0-9;]*)m/g;
const others = /\x1b(?:\[[0-9;?]*[A-Za-ln-z]|\][^\x07]*(?:\x07|\x1b\\))/g; // moves of the cursor, titles

/** The spans of a text with colours; 0 to 7 are the terminal's, dim ones and bright ones alike. */
export function spans(text: string): Span[] {
  const out: Span[] = [];
  let at = 0, colour: number | undefined, bold = false;
  const plain = text.replace(others, "");
  const put = (to: number) => {
    if (to > at) out.push({ text: plain.slice(at, to), ...(colour !== undefined && { colour }), ...(bold && { bold }) });
  };
  for (const m of plain.matchAll(sign)) {
    put(m.index);
    at = m.index + m[0].length;
    const codes = (m[1] || "0").split(";").map(Number);
    for (let i = 0; i < codes.length; i++) {
      const c = codes[i]!;
      if (c === 0) [colour, bold] = [undefined, false];
      else if (c === 1) bold = true;
      else if (c === 22) bold = false;
      else if (c >= 30 && c <= 37) colour = c - 30;
      else if (c >= 90 && c <= 97) colour = c - 90;
      else if (c === 39) colour = undefined;
      else if (c === 38 || c === 48) { // one of 256, or of all
        const to = codes[i + 1] === 5 ? near(codes[i + 2] ?? 7) : undefined;
        if (c === 38 && to !== undefined) colour = to;
        i += codes[i + 1] === 5 ? 2 : 4;
      }
    }
  }
  put(plain.length);
  return out;
}

/** The one of 8 colours that is nearest to one of 256. */
function near(n: number): number {
  if (n < 16) return n % 8;
  if (n >= 232) return 7;
  const [r, g, b] = [Math.floor((n - 16) / 36), Math.floor(((n - 16) % 36) / 6), (n - 16) % 6];
  const half = Math.max(r, g, b) / 2;
  return (r > half ? 1 : 0) + (g > half ? 2 : 0) + (b > half ? 4 : 0) || 7;
}

/**
 * Puts more text after some, as a terminal does: what follows a \r is written
 * over the line, so that a progress bar is one line. A \r at the end waits for
 * what comes.
 */
export function typed(before: string, more: string): string {
  const all = before + more.replace(/\r+\n/g, "\n");
  if (!all.includes("\r")) return all;
  const from = before.lastIndexOf("\n") + 1; // lines before are done
  return all.slice(0, from) + all.slice(from).split("\n").map(over).join("\n");
}

function over(line: string): string {
  const parts = line.split("\r");
  if (parts.length === 1) return line;
  let shown = "";
  for (const p of parts) shown = p + (p.length < shown.length ? shown.slice(p.length) : "");
  return line.endsWith("\r") ? `${shown}\r` : shown;
}
