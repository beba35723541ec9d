/** A document for React. Nothing else is as in a browser: the network is Node's. Import it before `react-dom`. */
import { Window } from "happy-dom";

const window = new Window();
Object.assign(globalThis, { window, document: window.document });
Object.defineProperty(globalThis, "navigator", { value: window.navigator, configurable: true });
