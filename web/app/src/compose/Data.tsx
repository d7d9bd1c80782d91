import { Autocomplete, MultiSelect, Select, SimpleGrid, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { datasetQuery, datasetsQuery } from "../api/queries";
import { many } from "../shell/words";
import { columnsOf, formats, said, shape, type Network } from "./network";

type Input = NonNullable<Network["composed"]["input"]>;

/** Where the examples come from: a dataset of the platform or an address, and what of it is learned from. */
export function Data({ network, set }: { network: Network; set: (n: Network) => void }) {
  const datasets = useQuery(datasetsQuery).data ?? [];
  const input: Input = network.composed.input ?? {};
  const to = (i: Input, source = network.source) => set({ source, composed: { ...network.composed, input: i } });
  const name = /^dataset:([^@]+)/.exec(network.source)?.[1];
  const here = datasets.find((d) => d.name === name);
  const table = input.format === "csv" || input.format === "parquet";
  const columns = useColumns(name, here?.version, input.format === "csv" ? input.file : undefined, input.format === "csv");
  const [typed, type] = useState<string>();
  const known = (input.shape ?? []).join(", ");
  const names = [...new Set(datasets.map((d) => d.name))];
  return (
    <>
      <SimpleGrid cols={{ base: 1, xs: 2, md: 3 }} spacing="xs">
        <Autocomplete label="Data" size="xs" description="a dataset, or https://…, s3://…" data={names.map((n) => `dataset:${n}`)} value={network.source}
          onChange={(source) => to({ ...input, data: /^dataset:([a-z0-9._-]+)/.exec(source)?.[1] ?? "data" }, source)} />
        <Select label="Format" size="xs" clearable clearButtonProps={{ "aria-label": "As the dataset says" }} description="idx: the files of MNIST" placeholder="as the dataset says" data={[...formats]} value={input.format || null} onChange={(v) => to(said(input, "format", v ?? "", true))} />
        <TextInput label="Shape of an example" size="xs" description="784, or 28, 28, 1" placeholder="as the dataset says" value={typed ?? known} error={typed && !shape(typed) ? "whole numbers, with commas between" : undefined}
          onChange={(e) => {
            type(e.currentTarget.value);
            const s = shape(e.currentTarget.value);
            const { shape: _, ...rest } = input;
            to(s ? { ...input, shape: s } : rest);
          }}
          onBlur={() => type(undefined)} />
        {table && (columns.length > 0
          ? <Select label="Column to predict" size="xs" data={columns} value={input.target || null} onChange={(v) => to(said(input, "target", v ?? "", true))} />
          : <TextInput label="Column to predict" size="xs" value={input.target ?? ""} onChange={(e) => to(said(input, "target", e.currentTarget.value, true))} />)}
        {table && (columns.length > 0
          ? <MultiSelect label="Columns to learn from" size="xs" placeholder="all but that one" clearable clearButtonProps={{ "aria-label": "All but that one" }} data={columns.filter((n) => n !== input.target)} value={input.columns ?? []} onChange={(v) => to(withColumns(input, v))} />
          : <TextInput label="Columns to learn from" size="xs" description="with commas between; none: all but that one" value={(input.columns ?? []).join(",")} onChange={(e) => to(withColumns(input, e.currentTarget.value.split(",").map((n) => n.trim()).filter(Boolean)))} />)}
        {table && <TextInput label="File" size="xs" placeholder="the only one" value={input.file ?? ""} onChange={(e) => to(said(input, "file", e.currentTarget.value, true))} />}
      </SimpleGrid>
      {here && <Text size="xs" c="dimmed" mt={4}>{here.name}@{here.version}: {many(here.files, "file")}{columns.length > 0 ? `, columns ${columns.join(", ")}` : ""}</Text>}
      {name && datasets.length > 0 && !here && <Text size="xs" mt={4}>There is no dataset {name} yet; it may be sent later.</Text>}
    </>
  );
}

function withColumns(input: Input, columns: string[]): Input {
  const { columns: _, shape: __, ...rest } = input; // the shape follows from the columns
  return columns.length > 0 ? { ...rest, columns } : rest;
}

const nearly = 64 << 10; // bytes of a table that its first line is looked for in

/** The columns that the table in a dataset has, as its first line says. */
function useColumns(name: string | undefined, version: number | undefined, file: string | undefined, wanted: boolean): string[] {
  const set = useQuery({ ...datasetQuery(name ?? "", String(version ?? 0)), enabled: wanted && !!name && !!version }).data;
  const tables = (set?.members ?? []).filter((f) => (file ? f.path === file : f.path.endsWith(".csv") && !f.path.includes("/")));
  const digest = tables.length === 1 ? tables[0]!.digest : undefined;
  return useQuery({
    queryKey: ["columns", digest],
    enabled: !!digest,
    staleTime: Infinity,
    queryFn: async () => {
      const got = await fetch(`/api/blob/${digest}`);
      const reader = got.body?.getReader();
      if (!got.ok || !reader) return [];
      let text = "";
      const words = new TextDecoder();
      while (text.length < nearly && !text.includes("\n")) {
        const { done, value } = await reader.read();
        if (done) break;
        text += words.decode(value, { stream: true });
      }
      void reader.cancel();
      return columnsOf(text);
    },
  }).data ?? [];
}
