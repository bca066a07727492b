// edgekit-lm in Node: opening, the first token, and tokens per second on each WebAssembly file.
//
//     node --experimental-wasm-relaxed-simd benchmarks/javascript.mjs FILE.gguf
//
// The flag is for Node before 22. A rate is that of the median step of five texts of 100 tokens, and of the fastest tenth
// of the steps, which other programs on the machine disturb less.
import { readFile } from "node:fs/promises";
import { load } from "../edgekit/web/javascript/index.js";

const bytes = await readFile(process.argv[2]);
console.log("file     open  first token   median     fastest tenth     memory");
for (const wasm of ["relaxed", "simd", "scalar"]) {
  const begin = performance.now();
  const model = await load(bytes, { wasm });
  const opened = performance.now();
  const steps = [];
  let first = 0;
  for (let seed = 0; seed < 5; seed++) {
    let last = performance.now();
    for await (const _ of model.stream("Once upon a time", { seed, maxNewTokens: 100, ignoreEos: true }).tokens()) {
      const now = performance.now();
      if (first) steps.push(now - last);
      first ||= now - opened;
      last = now;
    }
  }
  steps.sort((a, b) => a - b);
  const rate = (part) => `${(1000 / steps[Math.floor(steps.length * part)]).toFixed(0)} tokens/s`.padStart(13);
  const times = `${(opened - begin).toFixed(0).padStart(4)} ms ${first.toFixed(0).padStart(8)} ms`;
  console.log(`${wasm.padEnd(7)} ${times} ${rate(0.5)} ${rate(0.1)} ${(model.info.memory / 1e6).toFixed(1).padStart(8)} MB`);
  model.close();
}
