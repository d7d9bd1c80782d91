import { Button, Group, Menu, ScrollArea, Table, Text, Title } from "@mantine/core";
import { useRef, useState, type ReactNode } from "react";
import { value } from "../shell/words";
import { csv, png, save, svgOf, type Cell } from "./export";

type Props = {
  title: string;
  note?: string | undefined;
  file: string; // the name of what is saved, without its ending
  rows: () => Cell[][]; // what is drawn as a table, with a head
  svg?: (() => string) | undefined; // where what is drawn is no SVG
  table?: boolean | undefined;
  children: ReactNode;
};

const most = 500;

/** A chart with a title, the same as a table, and as a file. */
export function Figure({ title, note, file, rows, svg, table = false, children }: Props) {
  const [shown, show] = useState(table);
  const [failed, fail] = useState<string>();
  const box = useRef<HTMLDivElement>(null);
  const drawn = () => {
    const own = svg?.() ?? (box.current?.querySelector("svg.drawn") && svgOf(box.current.querySelector<SVGSVGElement>("svg.drawn")!));
    if (!own) throw new Error("show the chart first: what is saved is what is drawn");
    return own;
  };
  const as = (what: () => void | Promise<void>) => () => {
    fail(undefined);
    void (async () => what())().catch((e: unknown) => fail(`It was not saved: ${e instanceof Error ? e.message : String(e)}`));
  };
  return (
    <section aria-label={title} className="figure">
      <Group justify="space-between" wrap="nowrap" gap="xs">
        <Title order={3} size="h6" style={{ overflowWrap: "anywhere" }}>{title}</Title>
        <Group gap={4} wrap="nowrap">
          <Button size="compact-xs" variant="default" aria-pressed={shown} aria-label={`${title} as a table`} onClick={() => show(!shown)}>Table</Button>
          <Menu position="bottom-end">
            <Menu.Target><Button size="compact-xs" variant="default" aria-label={`Save ${title}`}>Save</Button></Menu.Target>
            <Menu.Dropdown>
              <Menu.Item onClick={as(() => save(`${file}.csv`, csv(rows()), "text/csv"))}>CSV</Menu.Item>
              <Menu.Item onClick={as(() => save(`${file}.svg`, drawn(), "image/svg+xml"))}>SVG</Menu.Item>
              <Menu.Item onClick={as(async () => save(`${file}.png`, await png(drawn())))}>PNG</Menu.Item>
            </Menu.Dropdown>
          </Menu>
        </Group>
      </Group>
      {note && <Text size="xs" c="dimmed">{note}</Text>}
      {failed && <Text size="xs" role="alert">{failed}</Text>}
      <div ref={box}>{shown ? <Rows title={title} rows={rows()} /> : children}</div>
    </section>
  );
}

function Rows({ title, rows }: { title: string; rows: Cell[][] }) {
  const [head, ...body] = rows;
  return (
    <>
      <ScrollArea.Autosize mah={280} viewportProps={{ tabIndex: 0, role: "region", "aria-label": `${title}: table` }}>
        <Table stickyHeader fz="xs">
          <Table.Thead><Table.Tr>{head?.map((c, i) => <Table.Th key={i}>{c}</Table.Th>)}</Table.Tr></Table.Thead>
          <Table.Tbody>{body.slice(0, most).map((r, i) => <Table.Tr key={i}>{r.map((c, k) => <Table.Td key={k}>{typeof c === "number" ? value(c) : c}</Table.Td>)}</Table.Tr>)}</Table.Tbody>
        </Table>
      </ScrollArea.Autosize>
      {body.length > most && <Text size="xs" c="dimmed">The first {most} of {body.length.toLocaleString("en")}; Save as CSV has all.</Text>}
    </>
  );
}
