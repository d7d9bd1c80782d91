import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// In development the page comes from here and everything else from a platform
// that is up: MLAAS_URL, or the port that `mlaas up` takes by itself.
const platform = process.env.MLAAS_URL ?? "http://127.0.0.1:7480";

export default defineConfig({
  plugins: [react()],
  build: { outDir: "../dist/page", emptyOutDir: true, manifest: true, chunkSizeWarningLimit: 900 },
  server: {
    fs: { allow: ["../.."] },
    proxy: { "/api": { target: platform, ws: true }, "/login": platform, "/openapi.json": platform },
  },
});
