import "@xterm/xterm/css/xterm.css";
import { Alert } from "@mantine/core";
import { FitAddon } from "@xterm/addon-fit";
import { Terminal as Screen } from "@xterm/xterm";
import { getNonce } from "get-nonce";
import { useEffect, useRef, useState } from "react";

const part = 32 << 10; // of what is sent at once: docs/reference/stream.md

/** A shell in a running replica: as its program's user, in its sandbox, with the rights of this login. */
export default function Terminal({ job, run, replica }: { job: string; run: string; replica: string }) {
  const box = useRef<HTMLDivElement>(null);
  const [over, setOver] = useState<string>();
  useEffect(() => {
    const e = box.current!;
    const style = getComputedStyle(document.body);
    const screen = new Screen({
      cursorBlink: false, fontFamily: style.getPropertyValue("--mantine-font-family-monospace") || "monospace", fontSize: 13, screenReaderMode: true,
      theme: { background: style.backgroundColor, foreground: style.color, cursor: style.color, selectionBackground: "#7f9fff66" },
      documentOverride: withNonce(),
    });
    const fit = new FitAddon();
    screen.loadAddon(fit);
    screen.open(e);
    fit.fit();
    const q = new URLSearchParams({ run, terminal: "true", columns: String(screen.cols), rows: String(screen.rows), term: "xterm-256color" });
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/job/${encodeURIComponent(job)}/node/${encodeURIComponent(replica)}/shell?${q}`);
    socket.binaryType = "arraybuffer";
    const bytes = new TextEncoder();
    const send = (kind: string, data: Uint8Array) => {
      if (socket.readyState !== WebSocket.OPEN) return;
      for (let i = 0; i === 0 || i < data.length; i += part) {
        const some = data.subarray(i, i + part);
        const packet = new Uint8Array(some.length + 1);
        packet[0] = kind.charCodeAt(0);
        packet.set(some, 1);
        socket.send(packet);
      }
    };
    let ended = false;
    const end = (why: string) => {
      if (!ended) setOver(why);
      ended = true;
    };
    socket.onmessage = (m: MessageEvent<ArrayBuffer>) => {
      const packet = new Uint8Array(m.data);
      const kind = String.fromCharCode(packet[0] ?? 0);
      if (kind === "d" || kind === "e") screen.write(packet.subarray(1));
      else if (kind === "q") {
        const said = JSON.parse(new TextDecoder().decode(packet.subarray(1))) as { code?: number; error?: string };
        end(said.error ?? `The shell has ended with ${said.code ?? 0}.`);
      }
    };
    socket.onopen = () => screen.focus();
    socket.onclose = () => end("The connection to the replica is closed: it has ended, or lets nobody in.");
    const typed = screen.onData((text) => send("d", bytes.encode(text)));
    const sized = screen.onResize(({ cols, rows }) => send("s", bytes.encode(JSON.stringify({ columns: cols, rows }))));
    const look = new ResizeObserver(() => fit.fit());
    look.observe(e);
    return () => {
      ended = true;
      look.disconnect();
      typed.dispose();
      sized.dispose();
      socket.close();
      screen.dispose();
    };
  }, [job, run, replica]);
  return (
    <>
      {over && <Alert variant="outline" color="yellow" role="status" mb="xs">{over}</Alert>}
      <div ref={box} className="terminal" role="group" aria-label={`Shell in ${replica}`} />
    </>
  );
}

/** The document, of which each new style carries the word by which the page's policy knows its own. */
function withNonce(): Document {
  const create = (name: string) => {
    const e = document.createElement(name);
    if (name === "style") e.setAttribute("nonce", getNonce() ?? "");
    return e;
  };
  return new Proxy(document, {
    get: (of, what) => {
      if (what === "createElement") return create;
      const v: unknown = Reflect.get(of, what, of);
      return typeof v === "function" ? (v as () => unknown).bind(of) : v;
    },
  });
}
