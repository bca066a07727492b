// Selects the engine of the page. `edgekit export-web` replaces this file with one for the browser's engine.
export { engine } from "./engine_server.js";
