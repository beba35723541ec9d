import { defineConfig } from "vitest/config";

export default defineConfig({
  build: {
    target: "es2022",
    minify: true,
    lib: {
      entry: { index: "src/index.ts", node: "src/node.ts", react: "src/react.ts", testing: "src/testing.ts" },
      formats: ["es"],
    },
    rolldownOptions: {
      external: [/^node:/, "socket.io-client", "react"],
      output: { minify: true, chunkFileNames: "core.js" },
    },
  },
  test: { include: ["tests/**/*.test.{ts,tsx}"], testTimeout: 60_000, hookTimeout: 120_000, maxWorkers: 2 },
});
