import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { json } from "@codemirror/lang-json";
import { markdown } from "@codemirror/lang-markdown";
import { python } from "@codemirror/lang-python";
import { yaml } from "@codemirror/lang-yaml";
import { bracketMatching, foldGutter, foldKeymap, HighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { unifiedMergeView } from "@codemirror/merge";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { Compartment, EditorState, StateEffect, StateField, type Extension } from "@codemirror/state";
import { Decoration, drawSelection, EditorView, highlightActiveLine, highlightActiveLineGutter, keymap, lineNumbers, WidgetType, type DecorationSet } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useComputedColorScheme } from "@mantine/core";
import { useEffect, useRef } from "react";
import { nonce } from "../theme";
import { after, pieceAt, type Piece } from "./cells";
import { others, show, together, type Person, type Together } from "./collab";

// The colours of page.css, so that both schemes are told from their ground.
const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.controlKeyword], color: "var(--lane-3)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--good)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--lane-1)" },
  { tag: tags.comment, color: "var(--over)", fontStyle: "italic" },
  { tag: [tags.function(tags.variableName), tags.function(tags.definition(tags.variableName)), tags.className], color: "var(--lane-0)" },
  { tag: [tags.meta, tags.propertyName, tags.definition(tags.propertyName)], color: "var(--lane-2)" },
  { tag: tags.heading, fontWeight: "bold" },
  { tag: tags.invalid, color: "var(--bad)" },
]);

function language(path: string): Extension {
  if (/\.pyi?$/.test(path)) return python();
  if (/\.json$/.test(path)) return json();
  if (/\.ya?ml$/.test(path)) return yaml();
  if (/\.md$/.test(path)) return markdown();
  return [];
}

/** A line at which something failed. */
export type Failure = { line: number; says: string };

const failed = StateEffect.define<Failure[]>();

class Says extends WidgetType {
  constructor(private readonly says: string) {
    super();
  }
  override eq(o: Says) {
    return o.says === this.says;
  }
  toDOM() {
    const at = document.createElement("span");
    at.className = "cm-says";
    at.textContent = `  ${this.says}`;
    return at;
  }
}

/** The lines at which something failed, until they are edited or it is run anew. */
const failures = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(marks, tr) {
    marks = marks.map(tr.changes);
    for (const e of tr.effects) {
      if (!e.is(failed)) continue;
      marks = Decoration.set(e.value.filter((f) => f.line >= 1 && f.line <= tr.newDoc.lines).flatMap((f) => {
        const line = tr.newDoc.line(f.line);
        return [Decoration.line({ class: "cm-failed" }).range(line.from), Decoration.widget({ widget: new Says(f.says), side: 1 }).range(line.to)];
      }), true);
    }
    return marks;
  },
  provide: (f) => EditorView.decorations.from(f),
});

type Props = {
  path: string;
  /** What it says, where it is not edited together with others. */
  text: string;
  /** How it is edited: without, it is to be read. Another one makes another editor. */
  with?: Together | undefined;
  /** What the text is compared with; the editor then shows what is other. */
  base?: string | undefined;
  line?: number | undefined;
  people?: Person[] | undefined;
  failures?: Failure[] | undefined;
  /** What else the editor can, such as what a language server knows. */
  also?: Extension | undefined;
  save: () => void;
  /** Runs a piece of the text, or all of it. */
  run: (piece: Piece, all: boolean) => void;
  /** Hands out the editor, to those who run what is in it. */
  made?: (view: EditorView | undefined) => void;
};

/** What is run from an editor now. */
export function pieceOf(view: EditorView, all: boolean): Piece {
  const { doc, selection } = view.state;
  return all ? { code: doc.toString(), line: 1 } : pieceAt(doc, selection.main.from, selection.main.to);
}

const compare = (base: string | undefined) => (base === undefined ? [] : unifiedMergeView({ original: base, mergeControls: false }));
const nobody: Person[] = [], nothing: Failure[] = [];

/** Shows one file, or edits it. Tab goes on after Escape. */
export function Editor({ path, text, with: t, base, line, people = nobody, failures: bad = nothing, also, save, run, made }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(undefined);
  const parts = useRef({ look: new Compartment(), base: new Compartment(), also: new Compartment() });
  const dark = useComputedColorScheme("light") === "dark";
  const acts = useRef({ save, run, made });
  acts.current = { save, run, made };
  const first = useRef({ text, dark, base, also });
  first.current = { text, dark, base, also };

  useEffect(() => {
    const { look, base, also } = parts.current;
    const begin = first.current;
    const go = (all: boolean) => (v: EditorView) => {
      const piece = pieceOf(v, all);
      acts.current.run(piece, all);
      const next = all || !v.state.selection.main.empty ? undefined : after(v.state.doc, piece);
      if (next !== undefined) v.dispatch({ selection: { anchor: next }, scrollIntoView: true });
      return true;
    };
    const editor = new EditorView({
      parent: place.current!,
      state: EditorState.create({
        doc: t ? t.doc.text : begin.text,
        extensions: [
          EditorView.cspNonce.of(nonce()),
          look.of(EditorView.theme({}, { dark: begin.dark })),
          EditorView.contentAttributes.of({ "aria-label": `Text of ${path}`, tabindex: "0" }),
          keymap.of([
            { key: "Mod-s", preventDefault: true, run: () => (acts.current.save(), true) },
            { key: "Mod-Enter", preventDefault: true, run: go(false), shift: go(true) },
          ]),
          lineNumbers(), foldGutter(), history(), drawSelection(), indentOnInput(), bracketMatching(), highlightActiveLine(), highlightActiveLineGutter(), highlightSelectionMatches(),
          search({ top: true }),
          indentUnit.of("    "),
          syntaxHighlighting(colours), language(path),
          keymap.of([...searchKeymap, ...foldKeymap, ...historyKeymap, ...defaultKeymap, indentWithTab]),
          t ? [together(t), others] : EditorState.readOnly.of(true),
          failures,
          also.of(begin.also ?? []),
          base.of(compare(begin.base)),
        ],
      }),
    });
    view.current = editor;
    acts.current.made?.(editor);
    return () => {
      acts.current.made?.(undefined);
      editor.destroy();
    };
  }, [path, t]);

  // Another version of a file that is read.
  useEffect(() => {
    const v = view.current;
    if (v && !t && v.state.doc.toString() !== text) v.dispatch({ changes: { from: 0, to: v.state.doc.length, insert: text } });
  }, [text, t]);

  const { look, base: compared, also: more } = parts.current;
  useEffect(() => view.current?.dispatch({ effects: look.reconfigure(EditorView.theme({}, { dark })) }), [look, dark]);
  useEffect(() => view.current?.dispatch({ effects: compared.reconfigure(compare(base)) }), [compared, base, path, t]);
  useEffect(() => view.current?.dispatch({ effects: more.reconfigure(also ?? []) }), [more, also, path, t]);
  useEffect(() => view.current?.dispatch({ effects: failed.of(bad) }), [bad, path, t]);
  useEffect(() => {
    if (t) view.current?.dispatch(show(people));
  }, [people, t]);

  useEffect(() => {
    const v = view.current;
    if (!v || !line || line > v.state.doc.lines) return;
    const at = v.state.doc.line(line);
    v.dispatch({ selection: { anchor: at.from }, effects: EditorView.scrollIntoView(at.from, { y: "center" }) });
    v.focus();
  }, [line, path, t]);

  return <div className="editor" ref={place} />;
}
