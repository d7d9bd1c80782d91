import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { json } from "@codemirror/lang-json";
import { markdown } from "@codemirror/lang-markdown";
import { python } from "@codemirror/lang-python";
import { yaml } from "@codemirror/lang-yaml";
import { bracketMatching, foldGutter, foldKeymap, HighlightStyle, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { unifiedMergeView } from "@codemirror/merge";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState, type Extension } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, highlightActiveLineGutter, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useComputedColorScheme } from "@mantine/core";
import { useEffect, useRef } from "react";
import { nonce } from "../theme";

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

type Props = {
  path: string;
  text: string;
  /** What text is compared with; the editor then shows what is other. */
  base?: string | undefined;
  line?: number | undefined;
  readOnly?: boolean;
  change: (text: string) => void;
  save: () => void;
  run: () => void;
};

/** Edits one file. What is typed is told at once; Tab goes on after Escape. */
export function Editor({ path, text, base, line, readOnly = false, change, save, run }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(undefined);
  const dark = useComputedColorScheme("light") === "dark";
  const acts = useRef({ change, save, run });
  acts.current = { change, save, run };
  const first = useRef(text);
  first.current = text;

  useEffect(() => {
    const made = new EditorView({
      parent: place.current!,
      state: EditorState.create({
        doc: first.current,
        extensions: [
          EditorView.cspNonce.of(nonce()),
          EditorView.theme({}, { dark }),
          EditorView.contentAttributes.of({ "aria-label": `Text of ${path}`, tabindex: "0" }),
          keymap.of([
            { key: "Mod-s", preventDefault: true, run: () => (acts.current.save(), true) },
            { key: "Mod-Enter", preventDefault: true, run: () => (acts.current.run(), true) },
          ]),
          lineNumbers(), foldGutter(), history(), drawSelection(), indentOnInput(), bracketMatching(), highlightActiveLine(), highlightActiveLineGutter(), highlightSelectionMatches(),
          search({ top: true }),
          indentUnit.of("    "),
          syntaxHighlighting(colours), language(path),
          keymap.of([...searchKeymap, ...foldKeymap, ...historyKeymap, ...defaultKeymap, indentWithTab]),
          EditorState.readOnly.of(readOnly),
          base === undefined ? [] : unifiedMergeView({ original: base, mergeControls: false }),
          EditorView.updateListener.of((u) => {
            if (u.docChanged) acts.current.change(u.state.doc.toString());
          }),
        ],
      }),
    });
    view.current = made;
    return () => made.destroy();
  }, [path, dark, base, readOnly]);

  // Another version of the same file, or a draft that was given up.
  useEffect(() => {
    const v = view.current;
    if (v && v.state.doc.toString() !== text) v.dispatch({ changes: { from: 0, to: v.state.doc.length, insert: text } });
  }, [text]);

  useEffect(() => {
    const v = view.current;
    if (!v || !line || line > v.state.doc.lines) return;
    const at = v.state.doc.line(line);
    v.dispatch({ selection: { anchor: at.from }, effects: EditorView.scrollIntoView(at.from, { y: "center" }) });
    v.focus();
  }, [line, path]);

  return <div className="editor" ref={place} />;
}
