import { ActionIcon, Alert, Badge, Button, Card, CopyButton, Group, NumberInput, SegmentedControl, Select, SimpleGrid, Stack, Text, TextInput, Title } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useEffect, useRef, useState } from "react";
import type { Composition } from "../api/client";
import { composeQuery } from "../api/queries";
import { Failed } from "../shell/Failed";
import { typing } from "../shell/Shell";
import { Data } from "./Data";
import { add, backends, change, found, kinds, losses, move, optimizers, outputs, remove, said, specOf, type Composed, type Field, type Layer, type Network } from "./network";

const Listing = lazy(() => import("./Listing"));

type Props = {
  network: Network;
  set: (n: Network) => void;
  /** The address that shows this network to others, where there is one. */
  link?: string;
};

/** Builds a network layer by layer; what it comes to is said at each, as it is now. */
export function Builder({ network, set, link }: Props) {
  const c = network.composed;
  const [asked] = useDebouncedValue(network, 150);
  const composed = useQuery(composeQuery({ name: "network", ...specOf(asked) }));
  const all = composed.data;
  const before = useRef<Network[]>([]);
  const after = useRef<Network[]>([]);
  const [heard, say] = useState("");
  const list = useRef<HTMLOListElement>(null);
  const [focus, setFocus] = useState<{ at: number; of: string }>();
  const [dragged, drag] = useState<number>();
  const [kind, setKind] = useState("dense");
  const [code, show] = useState(false);

  const to = (n: Network, what?: string) => {
    if (n === network) return;
    before.current = [...before.current.slice(-99), network];
    after.current = [];
    set(n);
    if (what) say(what);
  };
  const make = (composed: Composed, what?: string) => composed !== c && to({ ...network, composed }, what);
  const undo = () => {
    const n = before.current.pop();
    if (!n) return;
    after.current.push(network);
    set(n);
    say("Undone.");
  };
  const redo = () => {
    const n = after.current.pop();
    if (!n) return;
    before.current.push(network);
    set(n);
    say("Done again.");
  };
  const acts = useRef({ undo, redo });
  acts.current = { undo, redo };
  useEffect(() => {
    const press = (e: KeyboardEvent) => {
      if (!(e.ctrlKey || e.metaKey) || e.altKey || typing(e.target) || document.querySelector("[role=dialog]")) return;
      const key = e.key.toLowerCase();
      if (key !== "z" && key !== "y") return;
      e.preventDefault();
      if (key === "y" || e.shiftKey) acts.current.redo();
      else acts.current.undo();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, []);
  // What was pressed goes along with its layer, or to the one that took its place.
  useEffect(() => {
    if (!focus) return;
    const item = list.current?.children[focus.at];
    const own = item?.querySelector<HTMLElement>(`[data-act="${focus.of}"]:not(:disabled)`) ?? item?.querySelector<HTMLElement>("[data-act]:not(:disabled)");
    (own ?? document.getElementById("add-layer"))?.focus();
    setFocus(undefined);
  }, [focus]);

  const layers = c.hidden_layers ?? [];
  const shift = (from: number, by: number, of: string) => {
    const at = from + by;
    if (at < 0 || at >= layers.length) return;
    make(move(c, from, at), `${labelOf(layers[from]!)} is layer ${at + 1} of ${layers.length} now.`);
    setFocus({ at, of });
  };
  const take = (at: number) => {
    make(remove(c, at), `${labelOf(layers[at]!)}, layer ${at + 1}, is gone.`);
    setFocus({ at: Math.min(at, layers.length - 2), of: "remove" });
  };
  const insert = (at = layers.length) => {
    make(add(c, kind, at), `${kinds[kind]!.label} is layer ${at + 1} of ${layers.length + 1}.`);
    setFocus({ at, of: "field" });
  };
  const other = (all?.messages ?? []).filter((m) => !/^(input|output|hidden_layers)\b/.test(m.field));

  return (
    <Stack gap="md">
      <Group gap="xs" role="toolbar" aria-label="Network">
        <SegmentedControl aria-label="Backend" size="xs" data={[{ value: "keras", label: "Keras" }, { value: "pytorch", label: "PyTorch" }, { value: "tf1", label: "TensorFlow 1" }]} value={c.backend || backends[0]} onChange={(v) => make({ ...c, backend: v })} />
        <Button size="xs" variant="default" disabled={before.current.length === 0} onClick={undo} aria-keyshortcuts="Control+Z">Undo</Button>
        <Button size="xs" variant="default" disabled={after.current.length === 0} onClick={redo} aria-keyshortcuts="Control+Y">Redo</Button>
        {link && <CopyButton value={link}>{({ copied, copy }) => <Button size="xs" variant="default" onClick={copy}>{copied ? "The link is copied" : "Share link"}</Button>}</CopyButton>}
        <Button size="xs" variant="default" aria-expanded={code} onClick={() => show(!code)}>{code ? "Hide code" : "Show code"}</Button>
      </Group>
      <Text size="sm" role="status" aria-label="Network in all">{summary(all)}</Text>
      <div className="hidden" aria-live="assertive">{heard}</div>
      {composed.error && <Failed error={composed.error} again={() => void composed.refetch()} />}
      {other.map((m) => <Text key={m.message} size="sm" c="var(--bad)" role="alert">{m.message}</Text>)}

      <Card withBorder padding="sm" component="section" aria-label="Input">
        <Head title="Input" of={found(all, "input").layer} />
        <Data network={network} set={(n) => to(n)} />
        <Messages all={all} name="input" />
      </Card>

      <ol className="layers" aria-label="Layers" ref={list}>
        {layers.map((l, at) => {
          const name = `hidden_layers[${at}]`;
          const { layer, messages } = found(all, name);
          const what = kinds[l.type || "dense"];
          return (
            <li key={at} aria-label={`Layer ${at + 1}: ${labelOf(l)}`} draggable={dragged === at}
              data-over={dragged !== undefined && dragged !== at}
              onDragOver={(e) => dragged !== undefined && e.preventDefault()}
              onDrop={(e) => {
                e.preventDefault();
                if (dragged !== undefined) make(move(c, dragged, at), `${labelOf(layers[dragged]!)} is layer ${at + 1} of ${layers.length} now.`);
                drag(undefined);
              }}
              onDragEnd={() => drag(undefined)}
              onKeyDown={(e) => {
                if (!e.altKey || (e.key !== "ArrowUp" && e.key !== "ArrowDown")) return;
                e.preventDefault();
                shift(at, e.key === "ArrowUp" ? -1 : 1, (e.target as HTMLElement).dataset.act ?? "field");
              }}>
              <Card withBorder padding="sm" style={messages.length > 0 ? { borderColor: "var(--bad)" } : undefined}>
                <Group justify="space-between" wrap="nowrap" align="start" gap="xs">
                  <Group gap={4} wrap="nowrap" style={{ minWidth: 0 }}>
                    <span className="grip" aria-hidden onPointerDown={() => drag(at)} onPointerUp={() => drag(undefined)} title="Drag to another place">⠿</span>
                    <Head title={`${at + 1}. ${labelOf(l)}`} of={layer} />
                  </Group>
                  <Group gap={4} wrap="nowrap">
                    <ActionIcon variant="default" data-act="up" aria-label={`Move layer ${at + 1} up`} disabled={at === 0} onClick={() => shift(at, -1, "up")}>↑</ActionIcon>
                    <ActionIcon variant="default" data-act="down" aria-label={`Move layer ${at + 1} down`} disabled={at === layers.length - 1} onClick={() => shift(at, 1, "down")}>↓</ActionIcon>
                    <ActionIcon variant="default" data-act="remove" aria-label={`Remove layer ${at + 1}`} onClick={() => take(at)}>✕</ActionIcon>
                  </Group>
                </Group>
                {what ? <Fields fields={what.fields} layer={l} set={(to) => make(change(c, at, to))} name={name} all={all} /> : <Text size="sm">There is no layer of the type {String(l.type)}.</Text>}
                <Messages all={all} name={name} fields={what?.fields.map((f) => f.name) ?? []} />
              </Card>
            </li>
          );
        })}
      </ol>
      <Group align="end" gap="xs">
        <Select label="Another layer" size="xs" w={190} allowDeselect={false} value={kind} onChange={(v) => v && setKind(v)} data={Object.entries(kinds).map(([value, k]) => ({ value, label: k.label }))} />
        <Button id="add-layer" size="xs" onClick={() => insert()}>Add layer</Button>
      </Group>

      <Card withBorder padding="sm" component="section" aria-label="Output">
        <Head title="Output" of={found(all, "output").layer} />
        <SimpleGrid cols={{ base: 1, xs: 2, md: 3 }} spacing="xs">
          <NumberInput label="Neurons" size="xs" allowDecimal={false} hideControls description="one for each class; 1: a number" value={c.output?.neurons ?? ""} onChange={(v) => make({ ...c, output: said(c.output ?? {}, "neurons", String(v), false) })} />
          <Select label="Activation" size="xs" clearable clearButtonProps={{ "aria-label": "By the loss" }} placeholder="by the loss" data={[...outputs]} value={c.output?.activation || null} onChange={(v) => make({ ...c, output: said(c.output ?? {}, "activation", v ?? "", true) })} />
          <Select label="Loss" size="xs" clearable clearButtonProps={{ "aria-label": "By the output" }} placeholder="by the output" data={[...losses]} value={c.loss || null} onChange={(v) => make(said(c, "loss", v ?? "", true))} />
        </SimpleGrid>
        <Messages all={all} name="output" />
      </Card>

      <Card withBorder padding="sm" component="section" aria-label="How it learns">
        <Title order={3} size="h6" mb="xs">How it learns</Title>
        <SimpleGrid cols={{ base: 1, xs: 2, md: 3 }} spacing="xs">
          <Select label="Optimizer" size="xs" clearable clearButtonProps={{ "aria-label": "adam" }} placeholder="adam" data={[...optimizers]} value={c.optimizer?.type || null} onChange={(v) => make({ ...c, optimizer: said(c.optimizer ?? {}, "type", v ?? "", true) })} />
          <Typed label="Learning rate" hint="by the optimizer" value={c.optimizer?.learning_rate} set={(t) => make({ ...c, optimizer: said(c.optimizer ?? {}, "learning_rate", t, false) })} />
          <Typed label="Momentum" hint="0" value={c.optimizer?.momentum} set={(t) => make({ ...c, optimizer: said(c.optimizer ?? {}, "momentum", t, false) })} />
          <Typed label="Epochs" hint="5" value={c.epochs} set={(t) => make(said(c, "epochs", t, false))} />
          <Typed label="Batch size" hint="32" value={c.batch_size} set={(t) => make(said(c, "batch_size", t, false))} />
          <Typed label="Part to validate by" hint="0.1" value={c.validation_split} set={(t) => make(said(c, "validation_split", t, false))} />
        </SimpleGrid>
      </Card>
      {code && <Program all={all} />}
    </Stack>
  );
}

const labelOf = (l: Layer) => kinds[l.type || "dense"]?.label ?? String(l.type);

function summary(all: Composition | undefined): string {
  if (!all) return "What it comes to is being asked.";
  const n = all.messages?.length ?? 0;
  const counted = `${all.parameters.toLocaleString("en")} parameters, ${all.trainable.toLocaleString("en")} of them learned`;
  return n === 0 ? `${counted}. The shapes fit.` : `${counted}. ${n === 1 ? "One thing is" : `${n} things are`} wrong.`;
}

/** A layer's name with what it gives. */
function Head({ title, of }: { title: string; of: NonNullable<Composition["layers"]>[number] | undefined }) {
  return (
    <Group gap="xs" mb={4}>
      <Title order={3} size="h6">{title}</Title>
      {of && (of.shape?.length ?? 0) > 0 && <Badge variant="default" tt="none">gives ({of.shape!.join(", ")})</Badge>}
      {of && of.parameters > 0 && <Text size="xs" c="dimmed">{of.parameters.toLocaleString("en")} parameters</Text>}
    </Group>
  );
}

/** What is wrong with a layer, besides what stands at its fields. */
function Messages({ all, name, fields = [] }: { all: Composition | undefined; name: string; fields?: string[] }) {
  const said = found(all, name).messages.filter((m) => !fields.some((f) => m.field === `${name}.${f}`));
  if (said.length === 0) return null;
  return <Alert color="red" variant="outline" py={6} mt="xs" role="alert">{said.map((m) => <Text key={m.message} size="sm">{m.message}</Text>)}</Alert>;
}

function Fields({ fields, layer, set, name, all }: { fields: Field[]; layer: Layer; set: (l: Layer) => void; name: string; all: Composition | undefined }) {
  if (fields.length === 0) return <Text size="xs" c="dimmed">It has nothing to say.</Text>;
  return (
    <SimpleGrid cols={{ base: 2, sm: 3 }} spacing="xs">
      {fields.map((f) => {
        const wrong = found(all, name).messages.find((m) => m.field === `${name}.${f.name}`)?.message;
        const value = layer[f.name];
        return f.of ? (
          <Select key={f.name} data-act="field" size="xs" label={f.label} clearable clearButtonProps={{ "aria-label": `${f.label}: ${f.hint}` }} placeholder={f.hint ?? ""} data={[...f.of]} value={value ? String(value) : null} error={wrong} onChange={(v) => set(said(layer, f.name, v ?? "", true))} />
        ) : (
          <Typed key={f.name} label={f.label} hint={f.hint} value={value as number | undefined} error={wrong} set={(t) => set(said(layer, f.name, t, false))} />
        );
      })}
    </SimpleGrid>
  );
}

/** A number as it is typed: "0." stays so until it is one. */
function Typed({ label, hint, value, error, set }: { label: string; hint?: string | undefined; value: number | undefined; error?: string | undefined; set: (text: string) => void }) {
  const known = value === undefined ? "" : String(value);
  const [text, setText] = useState(known);
  const same = text.trim() === known || (text.trim() !== "" && Number(text) === value);
  const shown = same ? text : known;
  return (
    <TextInput data-act="field" size="xs" label={label} placeholder={hint ?? ""} inputMode="decimal" value={shown} error={error}
      onChange={(e) => {
        setText(e.currentTarget.value);
        set(e.currentTarget.value);
      }} />
  );
}

/** The program that a network comes to, to be read. */
export function Program({ all }: { all: Composition | undefined }) {
  const files = Object.keys(all?.code ?? {}).sort((a, b) => (a === all?.entry ? -1 : b === all?.entry ? 1 : a.localeCompare(b)));
  const [path, setPath] = useState<string>();
  const at = path && files.includes(path) ? path : files[0];
  return (
    <section aria-label="Program">
      <Group gap="sm" mb="xs"><Title order={3} size="h6">Program</Title>{files.length > 1 && <SegmentedControl aria-label="File" size="xs" data={files} value={at!} onChange={setPath} />}</Group>
      {at === undefined ? <Text size="sm">There is a program once nothing of the network is wrong.</Text> : <Suspense fallback={<Text role="status">One moment…</Text>}><Listing path={at} text={all!.code![at]!} /></Suspense>}
    </section>
  );
}
