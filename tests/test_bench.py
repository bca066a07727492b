"""`edgekit bench`: turns, figures, tables and errors. Speeds are only checked to be positive."""

import csv
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import write_model

from edgekit.cli.main import main
from edgekit.errors import ContextError, RuntimeFailure, SettingError, UnknownPluginError, UsageError
from edgekit.evaluation import bench, bench_report, bench_worker
from edgekit.evaluation.bench import Bench, Figure
from edgekit.evaluation.bench_settings import Benching
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.inference import samplers
from edgekit.inference.sampling import Sampler
from edgekit.model import Model
from edgekit.tokenizers.load import from_files
from edgekit.utils.machine import physical_cores

TINY = LlamaConfig(
    vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=1,
    eos_token_id=(2,), pad_token_id=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """A model with seeded weights and no tokenizer."""
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    from edgekit.conversion.convert import convert
    from edgekit.settings import Converting

    folder = tmp_path_factory.mktemp("bench")
    source = write_model(folder / "tiny", TINY)
    return convert(source, "gguf", folder / "tiny.gguf", settings=Converting(quant="f32")).path


def call(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


# ---- turns and jobs ----


class Children:
    """A stand-in for child processes; each round is a little faster than the one before."""

    def __init__(self, context_length=1024):
        self.jobs, self.context_length = [], context_length

    def __call__(self, job):
        self.jobs.append(job)
        if job["verb"] == "prepare":
            return {
                "artefact": f"/kept/{job['model']}", "runtime": job["runtime"] or "onnx",
                "threads": 2 if job["threads"] == "auto" else job["threads"], "tuned": {"1": 0.002}, "bytes": 8_340_000,
                "context_length": self.context_length, "packages": {"onnxruntime": "1.32.0"},
            }  # fmt: skip
        return {
            "load": 0.2, "peak": 60e6,
            "texts": [
                {"prompt_tokens": n, "first_token": n / 1e4, "prefill": n / 2e4, "decode": 0.1, "outside": 0.01,
                 "steps": job["new_tokens"] - 1}
                for n in job["prompt_tokens"]
            ],
            "growth": {str(n): 1e-3 * (1 + n / 1000) for n in job["context"]},
        }  # fmt: skip


def measured(children, *models, **more) -> Bench:
    settings = {name: more.pop(name) for name in list(more) if name in Benching.__dataclass_fields__}
    return bench.bench(models, Benching(**settings), ask=children, **more)


def test_bench_models_take_turns():
    children = Children()
    measured(children, "a.onnx", "b.gguf", repeat=3)
    assert [job["model"] for job in children.jobs if job["verb"] == "prepare"] == ["a.onnx", "b.gguf"]
    assert [job["model"] for job in children.jobs if job["verb"] == "measure"] == ["a.onnx", "b.gguf"] * 3


def test_bench_measures_what_was_prepared():
    children = Children()
    measured(children, "a", runtimes=["onnxruntime"], threads=("auto",), sampling={"top_k": 5}, quant="int8")
    first, *rest = children.jobs
    assert first["model"] == "a" and first["runtime"] == "onnx" and first["quant"] == "int8"
    assert all(job["artefact"] == "/kept/a" and job["threads"] == 2 for job in rest)
    assert all(job["sampling"] == {"seed": 0, "top_k": 5} for job in rest)


def test_bench_has_a_line_per_runtime_threads_and_prompt():
    result = measured(Children(), "a", "b.onnx", runtimes=["onnx", "torch"], threads=(1, "auto"), prompt_tokens=(8, 64))
    lines = [(line.model, line.runtime, line.threads, line.auto, line.prompt_tokens) for line in result.lines]
    assert lines == [
        (model, runtime, threads, threads == 2, prompt)
        for model, runtime in (("a", "onnx"), ("a", "torch"), ("b.onnx", "onnx"))
        for threads in (1, 2)
        for prompt in (8, 64)
    ]
    assert result.notes == ["b.onnx runs on onnx only: not measured on torch"]


def test_bench_figures_are_medians_of_the_rounds():
    line = measured(Children(), "a.onnx", new_tokens=101, repeat=3).lines[0]
    assert line.decode.median == pytest.approx(1000) and line.prefill.median == pytest.approx(20_000)
    assert line.overhead.median == pytest.approx(1e-4) and line.first_token.median == pytest.approx(0.0032)
    assert line.growth[32].median == pytest.approx(1000 / 1.032)
    assert line.record()["step_ms_by_threads"] == {"1": 2.0} and line.record()["file_mb"] == 8.34
    figure = Figure((1.0, 5.0, 2.0))
    assert figure.median == 2 and figure.spread == 1 and figure.record()["rounds"] == [1.0, 5.0, 2.0]


def test_bench_context_too_long_is_clipped_prompt_raises():
    result = measured(Children(300), "a.onnx")
    assert list(result.lines[0].growth) == [32, 256, 300]
    assert result.notes == ["a.onnx: context 512, 1000 clipped to its 300 tokens"]
    assert not measured(Children(300), "a.onnx", context=()).lines[0].growth
    with pytest.raises(ContextError, match="a.onnx: a prompt of 200 tokens and 128 new ones do not fit.*300"):
        measured(Children(300), "a.onnx", prompt_tokens=(32, 200))


def test_labels_equal_names_become_paths():
    assert bench.labels(["x/a.gguf", "y/a.gguf", "b/", None]) == ["x/a.gguf", "y/a.gguf", "b", "bundled"]


@pytest.mark.parametrize("values, message", [
    ({"new_tokens": 1}, "new_tokens must be a whole number of at least 2"), ({"repeat": 0}, "repeat"),
    ({"prompt_tokens": ()}, "prompt_tokens"), ({"prompt_tokens": (0,)}, "prompt_tokens"),
    ({"context": (1,)}, "context"), ({"threads": ()}, "threads"), ({"threads": (0,)}, "threads"),
    ({"threads": ("all",)}, "threads must be whole numbers from 1 to 1024, or `auto`"),
])  # fmt: skip
def test_benching_setting_out_of_range_raises(values, message):
    with pytest.raises(SettingError, match=message):
        Benching(**values)


# ---- tables ----


def example() -> Bench:
    return measured(Children(), "a.onnx", "b<&>.gguf", prompt_tokens=(32, 256), repeat=2)


def test_report_has_table_contexts_and_footer():
    shown = bench_report.report(example())
    head, first = shown.splitlines()[:2]
    assert (
        head.split("  ")[0] == "model" and "overhead µs" in head and first.split()[:4] == ["a.onnx", "onnx", "2*", "32"]
    )
    assert (
        "decode tok/s" in shown and "at 512" in shown and "median of 2 rounds" in shown and "* threads chosen" in shown
    )
    markdown = bench_report.report(example(), markdown=True)
    assert markdown.startswith("| model | runtime | threads |") and "|---|" not in markdown.splitlines()[0]


def test_csv_has_a_row_per_line():
    rows = list(csv.DictReader(io.StringIO(bench_report.to_csv(example()))))
    assert len(rows) == 4 and [row["prompt_tokens"] for row in rows] == ["32", "256"] * 2
    assert all(float(row[name]) > 0 for row in rows for name in row if name not in ("model", "runtime"))
    assert float(rows[0]["decode_at_512"]) < float(rows[0]["decode_at_32"])


def test_svg_has_a_bar_per_line_and_a_curve_per_model():
    root = ElementTree.fromstring(bench_report.svg(example()))
    texts = "".join(root.itertext())
    assert root.tag.endswith("svg") and "b<&>.gguf on onnx" in texts and "By tokens of context" in texts
    assert "1,270" in texts and texts.count("of the speed left at 1,000 tokens") == 2
    ids = [node.get("id", "") for node in root.iter()]
    assert sum(id.startswith("bar_") for id in ids) == 4 and sum(id.startswith("line_") for id in ids) == 2
    plain = bench_report.svg(measured(Children(), "a.onnx", context=()))
    assert "By tokens of context" not in plain and ElementTree.fromstring(plain) is not None


# ---- prompts and timing ----


def test_prompt_is_seeded_and_without_specials():
    files = {
        "config.json": json.dumps({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": None}).encode(),
        "tokenizer.json": b'{"added_tokens": [{"id": 4, "special": true}, {"id": 5, "special": false}]}',
        "generation_config.json": b"damaged",
    }
    ids = bench_worker.prompt(files, 12, frozenset({0}), 500)
    assert set(ids) == {5, 6, 7, 8, 9, 10, 11} and ids == bench_worker.prompt(files, 12, frozenset({0}), 500)
    assert bench_worker.prompt(files, 12, frozenset({0}), 20) == ids[:20]


class Slow:
    """A runtime whose every call takes a second of a clock that a test can read."""

    vocab_size, context_length, files = 8, 64, {}

    def __init__(self):
        self.length, self.now = 0, 0.0

    def forward(self, tokens, *, every=False):
        self.length += len(tokens)
        self.now += 1.0
        return np.arange(8, dtype=np.float32)

    def rewind(self, length):
        self.length = length


@pytest.mark.parametrize("sampling_seconds", [0.0, 0.5])
def test_worker_outside_is_decode_without_forward_calls(monkeypatch, sampling_seconds):
    """The worker's own sums, with a clock that only forward calls and the sampler move."""
    runtime, choose = Slow(), Sampler.choose

    def slow_choose(self, logits, allowed=None):
        runtime.now += sampling_seconds
        return choose(self, logits, allowed)

    monkeypatch.setattr(bench_worker.time, "perf_counter", lambda: runtime.now)
    monkeypatch.setattr(Sampler, "choose", slow_choose)
    monkeypatch.setattr(samplers.engine, "library", lambda: None)
    model = Model(runtime, bench_worker.Wordless(8))
    monkeypatch.setattr(bench_worker, "open_model", lambda *_: model)
    job = {"artefact": "a", "runtime": "slow", "running": {}, "threads": 1, "sampling": {}, "prompt_tokens": [3],
           "new_tokens": 5, "context": []}  # fmt: skip
    (text,) = bench_worker.measure(job)["texts"]
    assert text["steps"] == 4 and text["prefill"] == pytest.approx(1)
    assert text["decode"] == pytest.approx(4 * (1 + sampling_seconds))
    assert text["outside"] == pytest.approx(4 * sampling_seconds)


def test_peak_bytes_is_of_this_process():
    before = bench_worker.peak_bytes()
    block = np.ones(64 << 20, np.uint8)
    assert bench_worker.peak_bytes() >= before + block.nbytes // 2 or before > block.nbytes
    assert 1e7 < bench_worker.peak_bytes() < 1e11


# ---- in child processes ----

FIGURES = (
    "load_ms",
    "first_token_ms",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "overhead_us",
    "peak_mb",
)


def test_bench_command_model_without_tokenizer(gguf, tmp_path):
    done = call(
        "-m", gguf, "--prompt-tokens", "4,20", "--new-tokens", 8, "--repeat", 2, "--context", "16,64,1000",
        "--threads", "1", "--repetition-penalty", 1.2, "--temperature", 0.8, "--json", "--csv", tmp_path / "a.csv",
        "--plot", tmp_path / "a.svg",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "note: tiny.gguf: context 1000 clipped to its 64 tokens" in done.stderr
    record = json.loads(done.stdout)
    assert record["machine"]["packages"]["llama_cpp"] and record["machine"]["cores"] >= 1
    assert [line["prompt_tokens"] for line in record["lines"]] == [4, 20]
    for line in record["lines"]:
        assert line["runtime"] == "llamacpp" and line["threads"] == 1 and not line["threads_measured"]
        for name in FIGURES:
            figure = line[name]
            assert len(figure["rounds"]) == 2 and 0 < figure["min"] <= figure["median"] <= figure["max"], name
        assert list(line["decode_at_context"]) == ["16", "64"] and line["peak_mb"]["median"] > 10
        assert line["file_mb"] == pytest.approx(gguf.stat().st_size / 1e6)
    assert len(list(csv.DictReader((tmp_path / "a.csv").open()))) == 2
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


def test_bench_command_folder_is_converted_first(stories, tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    done = call("-m", stories, "--runtime", "llama.cpp", "--quant", "q8_0", "--new-tokens", 4, "--repeat", 1,
                "--context", "none", "--threads", "auto")  # fmt: skip
    assert done.exit_code == 0, done.output
    model, runtime, threads, *_ = done.stdout.splitlines()[1].split()
    assert (model, runtime) == ("hf", "llamacpp") and "at 32" not in done.stdout
    (made,) = (tmp_path / "cache" / "converted").glob("*.gguf")
    assert "q8_0" in made.name
    assert threads.endswith("*") and 1 <= int(threads[:-1]) <= physical_cores()
    assert not (tmp_path / "cache" / "threads").exists()


@pytest.mark.parametrize("arguments, status, message", [
    (["--prompt-tokens", "60"], 1, "a prompt of 60 tokens and 128 new ones do not fit into its context of 64"),
    (["--prompt-tokens", "4;5"], 2, "'4;5' is not a comma-separated list of whole numbers"),
    (["--prompt-tokens", "none"], 2, "'none' is not a comma-separated list"),
    (["--prompt-tokens", "0"], 2, "prompt_tokens must be whole numbers of at least 1"),
    (["--threads", "1,many"], 2, "is not a comma-separated list"),
    (["--new-tokens", "1"], 2, "new_tokens must be a whole number of at least 2"),
    (["--top-p", "7"], 2, "top_p must be a number from 0 to 1"),
    (["--json", "--markdown"], 2, "not both"),
    (["--csv", "."], 2, "--csv needs a file"),
    (["--runtime", "nonsense"], 2, "unknown runtime 'nonsense': choose from"),
    (["--quant", "q4_0"], 2, "--quant does not apply: native opens tiny.gguf as it is"),
])  # fmt: skip
def test_bench_command_invalid_call_is_one_line(gguf, arguments, status, message):
    done = call("-m", gguf, *arguments)
    assert done.exit_code == status and message in done.stderr and "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()[-1]) < 300


def test_bench_command_unusable_model_is_one_line(tmp_path):
    done = call("-m", tmp_path / "none.gguf")
    assert done.exit_code == 1 and "does not exist" in done.stderr
    (tmp_path / "text.txt").write_text("no model")
    done = call("-m", tmp_path / "text.txt")
    assert done.exit_code == 1 and "is not a model edgekit can open" in done.stderr
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    done = call("-m", tmp_path / "broken.onnx", "--runtime", "llamacpp")
    assert done.exit_code == 2 and "broken.onnx runs on onnx only" in done.stderr


def test_child_that_dies_raises_one_line(monkeypatch, tmp_path):
    for script, message in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "ended with SIGABRT: no output"),
        ("import sys; sys.stderr.write('first\\nGGML_ASSERT(x) failed\\n'); sys.exit(3)", "status 3: GGML_ASSERT"),
        ("print('no json')", "status 0: no output"),
    ):
        fake = tmp_path / "python"
        fake.write_text(f"#!{sys.executable}\n{script}\n")
        fake.chmod(0o755)
        with monkeypatch.context() as changed:
            changed.setattr(bench.sys, "executable", str(fake))
            with pytest.raises(RuntimeFailure, match=message) as raised:
                bench.child({"verb": "measure", "model": "a.gguf"})
        assert "\n" not in str(raised.value)


def test_child_error_keeps_its_class(monkeypatch):
    def unknown(job):
        raise UnknownPluginError("unknown runtime 'x'")

    assert issubclass(UnknownPluginError, UsageError)
    answer = {"error": "unknown runtime 'x'", "kind": "UnknownPluginError"}
    monkeypatch.setattr(bench.subprocess, "run", lambda *a, **k: type("Done", (), {
        "returncode": 0, "stdout": json.dumps(answer), "stderr": "",
    }))  # fmt: skip
    with pytest.raises(UnknownPluginError, match="unknown runtime 'x'"):
        bench.child({"verb": "prepare", "model": None})


# ---- the scripts in benchmarks/ ----


def test_the_peers_script_compares_contestants(monkeypatch, tmp_path):
    pytest.importorskip("tokenizers")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import peers

    def one(name, *rates, tokens=(), threads=1):
        made = peers.Contestant(name, ["python"], threads, rates=list(rates), tokens=list(tokens))
        made.decode = [rate * 1.1 for rate in rates]
        return made

    result = [
        one("hf fp32", 100.0, 50.0, tokens=[1, 2, 3]), one("edgekit torch bf16", 700.0, 400.0, tokens=[1, 2, 4]),
        one("edgekit torch int8", 100.0, 50.0), one("optimum int8", 300.0, 300.0), one("optimum int8", 2, 2, threads=2),
        one("edgekit onnx int8", 900.0, 900.0),
    ]  # fmt: skip
    result.append(peers.Contestant("genai int4", ["python"], 1, absent="not installed"))
    ratios = {v["ratio"]: v for v in peers.ratios_measured(result)}
    assert ratios["edgekit torch bf16 / hf fp32"]["measured"] == pytest.approx(7.5)
    assert ratios["edgekit torch bf16 / hf fp32"]["reached"]
    assert not ratios["edgekit onnx int8 / optimum int8"]["reached"]
    assert ratios["edgekit onnx int4 / genai int4"]["measured"] is None
    assert ratios["edgekit onnx int8 / optimum int8"]["quartiles"] == [3, 3]  # of the faster of optimum's two
    shown = peers.report(result, "about", markdown=True)
    assert "| edgekit torch bf16 | 1 | 550 |" in shown and "2 of 3" in shown and "- genai int4: not installed" in shown
    named = {name.partition("@")[0] for ours, _, theirs in peers.LOWEST_MEASURED for name in (*ours, theirs)}
    assert named <= set(peers.NAMES)


def test_the_peers_pipe(monkeypatch, tmp_path):
    """One contestant end to end, with a model that does nothing."""
    benchmarks = Path(__file__).resolve().parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    import peers

    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(benchmarks)!r})\n"
        "from _serve import serve\n"
        "print('a library that prints')\n"
        "def open_model(threads):\n"
        "    if 'bad' in sys.argv: raise ValueError('cannot\\nopen')\n"
        "    return lambda prompt, count: (1e-9, list(range(count)))\n"
        "if 'prepare' not in sys.argv: serve(open_model)\n"
    )
    good = peers.Contestant("good", [sys.executable, str(script)], 1)
    bad = peers.Contestant("bad", [sys.executable, str(script), "bad"], 1)
    gone = peers.Contestant("gone", [str(tmp_path / "no-python")], 2)
    job = {"prompt": [1, 2], "new_tokens": 6}
    lines = []
    peers.prepare([good, bad, gone], tmp_path, lines.append)
    peers.compare([good, bad, gone], 2, job, lines.append)
    assert len(good.rates) == len(good.decode) == 2 and good.tokens == [0, 1, 2, 3, 4, 5]
    assert bad.absent == "ValueError: cannot" and "is not there" in gone.absent
    assert [line for line in lines if line.startswith("round")] == [f"round {i} of 2: good, threads: 1" for i in (1, 2)]


def test_the_profile_finds_every_kernel(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import kernels

    from edgekit.conversion.convert import convert
    from edgekit.settings import Converting

    folder = write_model(tmp_path / "m", LlamaConfig(128, 64, 128, 3, 2, 2, 32, 64, tie_word_embeddings=True))
    path = convert(folder, "onnx", tmp_path / "m.onnx", settings=Converting(quant="int4_pure"), verify=False).path
    result = kernels.profile(path, 20, tmp_path)
    rows = {row["kind"]: row for row in result["rows"]}
    assert rows["GroupQueryAttention"]["nodes"] == 3 and rows["SkipSimplifiedLayerNormalization"]["nodes"] == 6
    product = rows["MatMulNBits 64 -> 256, 4 bits in blocks of 32"]
    assert product["nodes"] == 3 and product["bytes"] == 3 * (256 * 32 + 4 * 256 * 2)
    assert result["step"] > result["call"] > 0 and result["rows"] == sorted(result["rows"], key=lambda row: -row["us"])


def test_the_seeded_model_is_one_that_edgekit_reads(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import _seeded

    files = {"tokenizer.json": json.dumps(_seeded.tokenizer(8064)).encode()}
    words = from_files(files, 8064)
    ids = words.encode("hello, world")
    assert words.decode(ids) == "hello, world" and len(ids) < 12
    assert sum(int(np.prod(shape)) for shape in _seeded.SHAPE.shapes().values()) == 12_294_400
