import "./styles/base.css";
import "./styles/app.css";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";
import { loadTranslations } from "./i18n.ts";
import { applyTheme } from "./theme.ts";
import { App } from "./views/App.tsx";
import { Crash } from "./views/Crash.tsx";
import { registerWorker } from "./worker.ts";

applyTheme();
const root = document.getElementById("root");
function start() {
  if (root === null) return;
  // At once: what is pressed in the form of index.html until then is lost.
  flushSync(() =>
    createRoot(root).render(
      <Crash>
        <App />
      </Crash>,
    ),
  );
}
const translations = loadTranslations();
if (translations === null) start();
else translations.then(start);
// Optional: without it the page does not open offline.
registerWorker().catch(() => undefined);
