// Builds one script and one style; rlm/trajectory/view/page.py embeds both in the page.
import { defineConfig } from "vite";

export default defineConfig({
  build: {
    target: "es2022",
    outDir: "../rlm/trajectory/view/assets",
    emptyOutDir: true,
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    lib: {
      entry: "src/main.ts",
      formats: ["iife"],
      name: "viewer",
      fileName: () => "viewer.js",
      cssFileName: "viewer",
    },
  },
});
