import { python } from "@codemirror/lang-python";
import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { EditorState } from "@codemirror/state";
import { EditorView, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useComputedColorScheme } from "@mantine/core";
import { useEffect, useRef } from "react";
import { nonce } from "../theme";

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.controlKeyword], color: "var(--lane-3)" },
  { tag: tags.string, color: "var(--good)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--lane-1)" },
  { tag: tags.comment, color: "var(--over)", fontStyle: "italic" },
  { tag: [tags.function(tags.definition(tags.variableName)), tags.className], color: "var(--lane-0)" },
]);

/** A program to be read. */
export default function Listing({ path, text }: { path: string; text: string }) {
  const place = useRef<HTMLDivElement>(null);
  const dark = useComputedColorScheme("light") === "dark";
  useEffect(() => {
    const made = new EditorView({
      parent: place.current!,
      state: EditorState.create({
        doc: text,
        extensions: [EditorView.cspNonce.of(nonce()), EditorView.theme({}, { dark }), EditorView.contentAttributes.of({ "aria-label": `Text of ${path}`, "aria-readonly": "true", tabindex: "0" }), lineNumbers(), syntaxHighlighting(colours), python(), EditorState.readOnly.of(true)],
      }),
    });
    return () => made.destroy();
  }, [path, text, dark]);
  return <div className="editor" ref={place} />;
}
