"""The engine's WebAssembly beside ONNX Runtime's, in headless Chromium in one run.

    pip install playwright && python benchmarks/web.py        # needs Chromium, npm, and edgekit-lm[onnx]

The model has 12.3M parameters (Stentor2-12M's shape, seeded weights): q4_0 for the engine, as exported pages have it,
and `edgekit convert --to onnx --quant fp32` for ONNX Runtime, as they ran it before. Both run on one thread in the
same page and take the likeliest token; ONNX Runtime's loop has no tokenizer and no sampler. In a round each writes one
text. A rate is new tokens a second after the first one; the ratio is the median over rounds of the ratio in each round.
npm fetches onnxruntime-web once, into `--work`.
"""

import argparse
import functools
import gzip
import http.server
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
from pathlib import Path

import _seeded

from edgekit.conversion.convert import convert
from edgekit.evaluation.bench import machine
from edgekit.settings import Converting
from edgekit.web.export import PACKAGE

ORT = "onnxruntime-web@1.30.0"
ORT_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.mjs")
HERE = Path(__file__).resolve().parent


def fetched(work: Path) -> Path:
    """The npm package onnxruntime-web, unpacked."""
    folder = work / ORT.replace("@", "-")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as temporary:
            command = ["npm", "pack", ORT, "--silent", "--pack-destination", temporary]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            shutil.unpack_archive(next(Path(temporary).glob("*.tgz")), temporary, filter="data")
            shutil.move(Path(temporary) / "package", folder)
    return folder


def prepare(folder: Path, work: Path) -> None:
    """What the page needs."""
    _seeded.write(folder / "model")
    for to, quant in (("gguf", "q4_0"), ("onnx", "fp32")):
        convert(folder / "model", to, folder / f"model.{to}", settings=Converting(quant=quant), verify=False)
    shutil.copytree(PACKAGE, folder / "engine")
    (folder / "ort").mkdir()
    for name in ORT_FILES:
        shutil.copy(fetched(work) / "dist" / name, folder / "ort")
    shutil.copy(HERE / "web.mjs", folder)
    (folder / "index.html").write_text("<!doctype html><title>benchmark</title>")


def transfer(folder: Path, instructions: str) -> dict[str, float]:
    """MB that a first visit fetches, of each: the model as it is, and ONNX Runtime's WebAssembly as gzip sends it."""
    build = folder / "engine" / f"engine-{instructions}.wasm"
    engine = [*(folder / "engine").glob("*.js"), build, folder / "model.gguf"]
    binary = gzip.compress((folder / "ort" / ORT_FILES[1]).read_bytes(), 9)
    ort = len(binary) + sum((folder / name).stat().st_size for name in (f"ort/{ORT_FILES[0]}", "model.onnx"))
    return {"engine": sum(path.stat().st_size for path in engine) / 1e6, "ort": ort / 1e6}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def measured(folder: Path, prompt_tokens: int, new_tokens: int, rounds: int) -> dict:
    from playwright.sync_api import sync_playwright

    shape = _seeded.SHAPE
    prompt = random.Random(1).choices(range(10, shape.vocab_size), k=prompt_tokens)
    config = {"prompt": prompt, "layers": shape.num_hidden_layers, "heads": shape.num_key_value_heads}
    config["headDim"] = shape.head_dim
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as play:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        found = page.evaluate("async (config) => (await import('/web.mjs')).prepare(config)", config)
        found |= {"browser": browser.version, "engine": [], "ort": []}
        for round in range(-1, rounds):  # the first is not counted
            for name in ("engine", "ort"):
                ask = "async (given) => (await import('/web.mjs')).run(...given)"
                text = page.evaluate(ask, [name, prompt, new_tokens])
                if round >= 0:
                    found[name].append((new_tokens - 1) / (text["seconds"] - text["first"]))
        browser.close()
        server.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, default=HERE.parent / "build" / "web", help="keeps onnxruntime-web")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        folder = Path(temporary)
        prepare(folder, args.work)
        before = os.getloadavg()[0]
        found = measured(folder, args.prompt_tokens, args.new_tokens, args.rounds)
        found |= {"load": [before, os.getloadavg()[0]], "transfer": transfer(folder, found["instructions"])}
    ratios = [ours / theirs for ours, theirs in zip(found["engine"], found["ort"], strict=True)]
    facts = machine({"onnxruntime-web": ORT.partition("@")[2], "chromium": found["browser"]})
    if args.json:
        print(json.dumps(found | {"ratios": ratios, "machine": facts}))
        return
    print(f"{facts['cpu']}, {facts['cores']} cores, load average {before:.1f}, Chromium {found['browser']}, {ORT}")
    print("| | tokens/s | first visit, MB |\n|---|---:|---:|")
    for name, title in (("engine", f"engine, q4_0, {found['instructions']}"), ("ort", "ONNX Runtime, fp32")):
        print(f"| {title} | {statistics.median(found[name]):.0f} | {found['transfer'][name]:.1f} |")
    print(f"ratio {statistics.median(ratios):.1f} (of the rounds: {min(ratios):.1f} to {max(ratios):.1f})")
    opened, first = 1000 * found["opened"], 1000 * found["first"]
    print(f"from the file to the first token: {opened:.0f} ms to open, {first:.0f} ms for the token", end="; ")
    print(f"memory {found['memory'] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
