import "./styles/base.css";
import "./styles/app.css";
import { createRoot } from "react-dom/client";
import { applyTheme } from "./theme.ts";
import { App } from "./views/App.tsx";
import { Crash } from "./views/Crash.tsx";
import { registerWorker } from "./worker.ts";

applyTheme();
const root = document.getElementById("root");
if (root !== null)
  createRoot(root).render(
    <Crash>
      <App />
    </Crash>,
  );
// Without it the page works as well, but not when the server is away.
registerWorker().catch(() => undefined);
