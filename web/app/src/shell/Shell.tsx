import { ActionIcon, Alert, AppShell, Burger, Button, Group, Text, Tooltip, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useDisclosure, useHotkeys } from "@mantine/hooks";
import { Link, Outlet, useLocation, useNavigate } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { useJobs, useLink, useLive } from "../api/live";
import { SignedOut } from "./SignedOut";
import { Palette } from "./Palette";
import { places } from "./places";
import { usePopupsOfEnds } from "./popups";
import { Shortcuts, useShortcuts } from "./Shortcuts";
import { ButtonTo, NavTo } from "./links";

/** What is around every page: where one can go, whether what is seen is live, and the keys. */
export function Shell() {
  const [open, menu] = useDisclosure(false);
  const [palette, paletteOpen] = useDisclosure(false);
  const [sheet, sheetOpen] = useDisclosure(false);
  const { pathname } = useLocation();
  const navigate = useNavigate();
  const link = useLink();
  const shortcuts = useShortcuts();
  usePopupsOfEnds();

  const typed = useRef(0); // when g was pressed
  useHotkeys([["mod+K", paletteOpen.toggle]], [], true);
  useEffect(() => {
    if (!shortcuts.on) return;
    const press = (e: KeyboardEvent) => {
      if (e.ctrlKey || e.metaKey || e.altKey || typing(e.target) || document.querySelector("[role=dialog]")) return;
      const place = places.find((p) => p.key === e.key);
      if (e.timeStamp - typed.current < 1500 && place) {
        typed.current = 0;
        void navigate({ to: place.to });
      } else if (e.key === "g") typed.current = e.timeStamp;
      else if (e.key === "?") sheetOpen.open();
      else if (e.key === "/" && document.querySelector("[data-filter]")) document.querySelector<HTMLInputElement>("[data-filter]")!.focus();
      else if (e.key === "n") void navigate({ to: "/jobs/new" });
      else return;
      e.preventDefault();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [navigate, sheetOpen, shortcuts.on]);

  const main = useRef<HTMLElement>(null);
  const before = useRef(pathname);
  useEffect(() => {
    menu.close();
    if (before.current !== pathname) main.current?.focus({ preventScroll: true }); // who reads by ear hears the new page
    before.current = pathname;
  }, [pathname, menu]);

  return (
    <AppShell header={{ height: 52 }} navbar={{ width: 200, breakpoint: "sm", collapsed: { mobile: !open } }} padding="md">
      <a className="skip" href="#main">Skip to content</a>
      <AppShell.Header>
        <Group h="100%" px="sm" justify="space-between" wrap="nowrap" gap="xs">
          <Group gap="xs" wrap="nowrap">
            <Burger opened={open} onClick={menu.toggle} hiddenFrom="sm" size="sm" aria-label="Menu" aria-expanded={open} />
            <Link to="/jobs" style={{ display: "flex", alignItems: "center", gap: 8, textDecoration: "none", color: "inherit" }}>
              <img src="/icon.svg" alt="" width={22} height={22} /><Text fw={700}>mlaas</Text>
            </Link>
          </Group>
          <Group gap="xs" wrap="nowrap">
            <Button variant="default" size="xs" onClick={paletteOpen.open} visibleFrom="sm" aria-keyshortcuts="Control+K">Search <kbd style={{ marginLeft: 8 }}>Ctrl K</kbd></Button>
            <ActionIcon variant="default" hiddenFrom="sm" size={30} aria-label="Search" onClick={paletteOpen.open}>⌕</ActionIcon>
            <LinkState />
            <Scheme />
            <Tooltip label="Keys"><ActionIcon variant="default" size={30} aria-label="Keyboard shortcuts" onClick={sheetOpen.open}>?</ActionIcon></Tooltip>
            <ButtonTo to="/jobs/new" search={{}} size="xs" px={{ base: 10, sm: "sm" }} aria-label="New job">+<Text component="span" inherit visibleFrom="sm" ml={6}>New job</Text></ButtonTo>
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" aria-label="Pages">
        {places.map((p) => (
          <NavTo key={p.to} to={p.to} label={p.name} active={pathname === p.to || pathname.startsWith(`${p.to}/`)} variant="light"
            aria-current={pathname === p.to || pathname.startsWith(`${p.to}/`) ? "page" : undefined} />
        ))}
      </AppShell.Navbar>
      <AppShell.Main id="main" ref={main} tabIndex={-1} style={{ outline: "none" }}>
        {link.state === "signed out" ? <SignedOut /> : <><Away /><Outlet /></>}
      </AppShell.Main>
      <Palette open={palette} close={paletteOpen.close} keys={sheetOpen.open} />
      <Shortcuts open={sheet} close={sheetOpen.close} />
    </AppShell>
  );
}

/** Whether keys go into what has the focus. */
export function typing(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));
}

function LinkState() {
  const link = useLink();
  useJobs(); // so that the connection is about something on every page
  const words = { live: "live", connecting: "connecting", away: "reconnecting", "signed out": "signed out" }[link.state];
  const tone = link.state === "live" ? "good" : link.state === "signed out" ? "bad" : "wait";
  return <span className="status" data-tone={tone} role="status" style={{ fontSize: 13 }}><span aria-hidden>{link.state === "live" ? "●" : "◌"}</span>{words}</span>;
}

const patience = 3000; // milliseconds: a short break needs no words

/** Says that what is seen is not live, once that has lasted. */
function Away() {
  const link = useLink();
  const { hub } = useLive();
  const [long, setLong] = useState(false);
  useEffect(() => {
    setLong(false);
    if (link.state !== "away") return;
    const t = setTimeout(() => setLong(true), Math.max(0, link.since + patience - Date.now()));
    return () => clearTimeout(t);
  }, [link]);
  if (!long) return null;
  return (
    <Alert color="yellow" variant="outline" role="alert" mb="md" title="Reconnecting">
      <Group justify="space-between">
        <Text size="sm">What you see is as of {new Date(link.since).toLocaleTimeString()}. It goes on where it was as soon as the platform answers; nothing is lost.</Text>
        <Button size="xs" variant="default" onClick={() => hub.hurry()}>Try now</Button>
      </Group>
    </Alert>
  );
}

function Scheme() {
  const { setColorScheme } = useMantineColorScheme();
  const now = useComputedColorScheme("light");
  const other = now === "dark" ? "light" : "dark";
  return (
    <Tooltip label={`Use ${other} colours`}>
      <ActionIcon variant="default" size={30} aria-label={`Use ${other} colours`} onClick={() => setColorScheme(other)}>{now === "dark" ? "☀" : "☾"}</ActionIcon>
    </Tooltip>
  );
}
