// A chart as a file: CSV of what it shows, SVG, or PNG made of that.
import type { Curve } from "../api/topics";

export type Cell = string | number;

/** Rows as CSV (RFC 4180). */
export function csv(rows: Cell[][]): string {
  const cell = (v: Cell) => (/[",\r\n]/.test(String(v)) ? `"${String(v).replaceAll('"', '""')}"` : String(v));
  return rows.map((r) => r.map(cell).join(",") + "\r\n").join("");
}

/** Saves bytes as a file of the one who looks. */
export function save(name: string, content: Blob | string, type = "text/plain") {
  const url = URL.createObjectURL(typeof content === "string" ? new Blob([content], { type }) : content);
  const a = document.createElement("a");
  a.href = url;
  a.download = name.replaceAll(/[^\w.-]+/g, "_");
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const kept = ["fill", "stroke", "stroke-width", "stroke-dasharray", "fill-opacity", "opacity", "font-size", "font-family", "font-weight", "text-anchor"];

/** What is drawn, as a text that stands by itself: the page's styles are written into it. */
export function svgOf(drawn: SVGSVGElement): string {
  const copy = drawn.cloneNode(true) as SVGSVGElement;
  const from = [drawn, ...drawn.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((e, i) => {
    const style = getComputedStyle(e);
    for (const k of kept) to[i]!.setAttribute(k, style.getPropertyValue(k));
  });
  const box = drawn.viewBox.baseVal;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", String(box.width));
  copy.setAttribute("height", String(box.height));
  const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect"); // no style: the page's policy has none
  for (const [k, v] of Object.entries({ width: box.width, height: box.height, fill: getComputedStyle(document.body).backgroundColor })) ground.setAttribute(k, String(v));
  copy.prepend(ground);
  return new XMLSerializer().serializeToString(copy);
}

/** The text of an SVG as a picture, twice as large for sharp screens and print. */
export async function png(svg: string): Promise<Blob> {
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.width * 2;
  canvas.height = picture.height * 2;
  const to = canvas.getContext("2d")!;
  to.fillStyle = getComputedStyle(document.body).backgroundColor;
  to.fillRect(0, 0, canvas.width, canvas.height);
  to.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((done, failed) => canvas.toBlob((b) => (b ? done(b) : failed(new Error("the browser made no picture of it"))), "image/png"));
}

const colours = ["#1c5bb8", "#a03d00", "#00695c", "#8e24aa", "#6b5300", "#b3145a"];
export const escaped = (s: string) => s.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");

/** Curves of a metric as an SVG, for a file: what is on the screen is a canvas. */
export function lineSVG(name: string, curves: Curve[], log: boolean): string {
  const w = 800, h = 400, left = 70, top = 30, right = 20, bottom = 40;
  const all = curves.map((c) => c.points.filter((p) => Number.isFinite(p.last) && (!log || p.last > 0)));
  const xs = all.flatMap((ps) => ps.map((p) => p.step)), ys = all.flatMap((ps) => ps.map((p) => (log ? Math.log10(p.last) : p.last)));
  const span = (v: number[]): [number, number] => {
    let a = Infinity, b = -Infinity;
    for (const x of v) [a, b] = [Math.min(a, x), Math.max(b, x)];
    return v.length === 0 ? [0, 1] : a === b ? [a - 0.5, b + 0.5] : [a, b];
  };
  const [x0, x1] = span(xs), [y0, y1] = span(ys);
  const x = (v: number) => left + ((v - x0) / (x1 - x0)) * (w - left - right);
  const y = (v: number) => h - bottom - ((v - y0) / (y1 - y0)) * (h - top - bottom);
  const short = (v: number) => String(Number(v.toPrecision(4)));
  const parts = [`<text x="${left}" y="18" font-size="14">${escaped(name)}</text>`];
  for (let i = 0; i <= 4; i++) {
    const v = y0 + ((y1 - y0) * i) / 4, at = y(v), s = x0 + ((x1 - x0) * i) / 4;
    parts.push(`<line x1="${left}" x2="${w - right}" y1="${at}" y2="${at}" stroke="#ddd"/><text x="${left - 6}" y="${at + 4}" text-anchor="end">${short(log ? 10 ** v : v)}</text>`);
    parts.push(`<text x="${x(s)}" y="${h - bottom + 16}" text-anchor="middle">${short(s)}</text>`);
  }
  all.forEach((ps, i) => {
    const colour = colours[i % colours.length]!;
    const d = ps.map((p, k) => `${k ? "L" : "M"}${x(p.step).toFixed(1)} ${y(log ? Math.log10(p.last) : p.last).toFixed(1)}`).join("");
    parts.push(`<path d="${d}" fill="none" stroke="${colour}" stroke-width="1.5"/><text x="${w - right}" y="${top + 14 * (i + 1)}" text-anchor="end" fill="${colour}">${escaped(curves[i]!.replica)}</text>`);
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${w}" height="${h}" viewBox="0 0 ${w} ${h}" font-family="sans-serif" font-size="11" fill="#222"><rect width="${w}" height="${h}" fill="#fff"/>${parts.join("")}</svg>`;
}
