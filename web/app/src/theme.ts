import { createTheme, type CSSVariablesResolver } from "@mantine/core";

/** The word by which the browser knows the styles that the page makes; another in each answer of the server. */
export const nonce = () => document.querySelector<HTMLMetaElement>('meta[name="nonce"]')?.content ?? "";

// Shades that are told from what is below them by 4.5 to 1, in both schemes.
export const theme = createTheme({
  primaryColor: "indigo",
  primaryShade: { light: 7, dark: 8 },
  fontFamily: "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
  fontFamilyMonospace: "ui-monospace, SFMono-Regular, Menlo, 'DejaVu Sans Mono', monospace",
  defaultRadius: "sm",
  cursorType: "pointer",
  respectReducedMotion: true,
});

export const variables: CSSVariablesResolver = () => ({
  variables: {},
  light: { "--mantine-color-dimmed": "#495057", "--mantine-color-placeholder": "#5c636a", "--mantine-color-error": "#b3261e" },
  dark: { "--mantine-color-dimmed": "#b4b8bd", "--mantine-color-placeholder": "#9ba1a6", "--mantine-color-error": "#ff9d95", "--mantine-color-anchor": "#a9baff" },
});
