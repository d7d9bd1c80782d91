// A network that is being built: what layers there are, what is done to them,
// and how it stands in an address. Pure.
import type { Composition, JobSpec } from "../api/client";

export type Composed = NonNullable<NonNullable<JobSpec["code"]>["composed"]>;
export type Layer = NonNullable<Composed["hidden_layers"]>[number];
export type Network = { composed: Composed; source: string };

/** A field of a layer: a number, or one of some words. What stands in it where nothing is said is its hint. */
export type Field = { name: keyof Layer; label: string; of?: readonly string[]; hint?: string };

export const backends = ["keras", "pytorch", "tf1"] as const;
export const formats = ["idx", "npz", "images", "csv", "parquet"] as const;
export const activations = ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "linear"] as const;
export const outputs = ["softmax", "sigmoid", "linear"] as const;
export const optimizers = ["adam", "sgd", "rmsprop", "adagrad"] as const;
export const losses = ["sparse_categorical_crossentropy", "binary_crossentropy", "mean_squared_error", "mean_absolute_error"] as const;

const activation: Field = { name: "activation", label: "Activation", of: activations, hint: "relu" };
const rate: Field = { name: "learning_rate", label: "Learning rate", hint: "the optimizer's" };

/** Every kind of layer with its fields, and what a new one of it says. */
export const kinds: Record<string, { label: string; fields: Field[]; fresh: Layer }> = {
  dense: { label: "Dense", fields: [{ name: "neurons", label: "Neurons" }, activation, rate], fresh: { type: "dense", neurons: 64, activation: "relu" } },
  convolution: {
    label: "Convolution",
    fields: [{ name: "filters", label: "Filters" }, { name: "kernel_size", label: "Kernel size", hint: "3" }, { name: "strides", label: "Strides", hint: "1" }, { name: "padding", label: "Padding", of: ["same", "valid"], hint: "same" }, activation, rate],
    fresh: { type: "convolution", filters: 16 },
  },
  pooling: { label: "Pooling", fields: [{ name: "kind", label: "Kind", of: ["max", "average"], hint: "max" }, { name: "pool_size", label: "Pool size", hint: "2" }, { name: "strides", label: "Strides", hint: "as the pool" }], fresh: { type: "pooling" } },
  global_pooling: { label: "Global pooling", fields: [{ name: "kind", label: "Kind", of: ["max", "average"], hint: "max" }], fresh: { type: "global_pooling" } },
  dropout: { label: "Dropout", fields: [{ name: "rate", label: "Rate", hint: "0.5" }], fresh: { type: "dropout", rate: 0.2 } },
  batch_normalization: { label: "Batch normalization", fields: [rate], fresh: { type: "batch_normalization" } },
  activation: { label: "Activation", fields: [activation], fresh: { type: "activation", activation: "relu" } },
  flatten: { label: "Flatten", fields: [], fresh: { type: "flatten" } },
  embedding: { label: "Embedding", fields: [{ name: "vocabulary", label: "Vocabulary" }, { name: "dimensions", label: "Dimensions" }, rate], fresh: { type: "embedding", vocabulary: 1000, dimensions: 16 } },
};

/** The network of the paper's figure 4.4, on MNIST. */
export const first: Network = {
  composed: {
    input: { data: "mnist", format: "idx", shape: [784] },
    hidden_layers: [{ type: "dense", neurons: 128, activation: "relu" }, { type: "dense", neurons: 64, activation: "relu" }],
    output: { neurons: 10, activation: "softmax" },
    optimizer: { type: "adam", learning_rate: 0.001 },
    epochs: 5,
  },
  source: "dataset:mnist",
};

const layers = (c: Composed): Layer[] => [...(c.hidden_layers ?? [])];

export function add(c: Composed, kind: string, at = layers(c).length): Composed {
  const all = layers(c);
  all.splice(at, 0, { ...kinds[kind]!.fresh });
  return { ...c, hidden_layers: all };
}

export const remove = (c: Composed, at: number): Composed => ({ ...c, hidden_layers: layers(c).filter((_, i) => i !== at) });

/** Puts a layer to another place; where there is none, it stays. */
export function move(c: Composed, from: number, to: number): Composed {
  const all = layers(c);
  if (from < 0 || from >= all.length || to < 0 || to >= all.length || from === to) return c;
  const [one] = all.splice(from, 1);
  all.splice(to, 0, one!);
  return { ...c, hidden_layers: all };
}

export const change = (c: Composed, at: number, to: Layer): Composed => ({ ...c, hidden_layers: layers(c).map((l, i) => (i === at ? to : l)) });

/** A layer with a field as it was typed: nothing takes the field away. */
export function said<T extends object>(of: T, name: keyof T, text: string, word: boolean): T {
  const to = { ...of };
  const n = Number(text);
  if (text.trim() === "") delete to[name];
  else to[name] = (word || Number.isNaN(n) ? text : n) as never;
  return to;
}

/** "28, 28, 1" as numbers; nothing where it is no shape. */
export function shape(text: string): number[] | undefined {
  const parts = text.split(/[\s,x×]+/).filter(Boolean);
  return parts.length > 0 && parts.every((p) => /^\d+$/.test(p)) ? parts.map(Number) : undefined;
}

/** The part of a job that a network is. */
export function specOf(n: Network): Partial<JobSpec> {
  const { composed, source } = n;
  return { data: [{ name: composed.input?.data ?? "data", source }], code: { mode: "composed", composed } };
}

/** The network of a job that has one. */
export function networkOf(spec: Pick<JobSpec, "code" | "data">): Network | undefined {
  const composed = spec.code?.composed;
  if (!composed) return undefined;
  return { composed, source: (spec.data ?? []).find((d) => d.name === composed.input?.data)?.source ?? "" };
}

/** What a network comes to at one of its layers: "input", "hidden_layers[0]" or "output". */
export function found(c: Composition | undefined, name: string) {
  return {
    layer: c?.layers?.find((l) => l.name === name),
    messages: (c?.messages ?? []).filter((m) => m.field === name || m.field.startsWith(`${name}.`) || m.field.startsWith(`${name}[`)),
  };
}

/** A network as a word of an address, so that a link shows it to others. */
export function toWord(n: Network): string {
  const bytes = new TextEncoder().encode(JSON.stringify([n.source, n.composed]));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** The network that a word says; nothing where it says none. */
export function fromWord(word: string): Network | undefined {
  try {
    const bytes = Uint8Array.from(atob(word.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const [source, composed] = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)) as [unknown, unknown];
    if (typeof source !== "string" || typeof composed !== "object" || composed === null || Array.isArray(composed)) return undefined;
    const c = composed as Composed;
    if (c.hidden_layers !== undefined && !Array.isArray(c.hidden_layers)) return undefined;
    return { source, composed: c };
  } catch {
    return undefined; // somebody cut the link
  }
}

/** The names in the first line of a table, as CSV writes them. */
export function columnsOf(text: string): string[] {
  const line = (/^\uFEFF?([^\r\n]*)/.exec(text)?.[1] ?? "");
  const names: string[] = [];
  let at = 0;
  while (at <= line.length && line !== "") {
    if (line[at] === '"') {
      const end = /"(?:[^"]|"")*"/y;
      end.lastIndex = at;
      const m = end.exec(line);
      if (!m) return names; // it was never closed
      names.push(m[0].slice(1, -1).replaceAll('""', '"'));
      at += m[0].length + 1;
    } else {
      const end = line.indexOf(",", at);
      names.push(line.slice(at, end < 0 ? undefined : end));
      at = end < 0 ? line.length + 1 : end + 1;
    }
  }
  return names;
}
