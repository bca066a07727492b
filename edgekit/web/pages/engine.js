// Which engine is behind the page. `edgekit export-web` writes the other one in this file's place.
export { engine } from "./engine_server.js";
