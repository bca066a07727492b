"""The parts of Android's AAR: the libraries' format, their answers without Java, and those of Kotlin on a desktop.

The programs android.c and android.kt read commands and answer with a line each. In commands, texts are hexadecimal
UTF-8 and ids have commas between them; `-` is none of them.
"""

import json
import platform
import re
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_examples import checked_output, opened_script

from edgekit.conversion.convert import convert
from edgekit.errors import MissingExtraError
from edgekit.formats.hub import BUNDLED
from edgekit.settings import Converting

ROOT = Path(__file__).resolve().parents[1]
ANDROID = ROOT / "examples" / "android"
TESTS = ROOT / "tests"
BUILD = opened_script(ANDROID / "build.py")
MODELS = json.loads((ROOT / "examples" / "golden" / "golden.json").read_text())["models"]
KV = {"f32": 1, "f16": 2, "int8": 3}
FINISH = {1: "stop", 2: "length", 3: "cancelled"}
NUMBERS = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "top_k",
    "no_repeat_ngram_size", "max_new_tokens", "ignore_eos", "ban_replacement",
)  # fmt: skip
ARM = Path("/usr/aarch64-linux-gnu")


def hexed(text: str) -> str:
    return text.encode().hex() or "-"


def unhexed(text: str) -> str:
    return "" if text == "-" else bytes.fromhex(text).decode(errors="replace")


def joined(ids: list[int]) -> str:
    return ",".join(map(str, ids)) or "-"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> dict[str, Path]:
    """The library for each ABI, built as for the AAR."""
    compiler, headers = BUILD.c_compiler(), BUILD.java_headers()
    if compiler is None or headers is None:
        pytest.skip("needs zig or clang and lld, and a JDK: pip install ziglang, apt install default-jdk-headless")
    folder = tmp_path_factory.mktemp("android")
    with ThreadPoolExecutor() as pool:
        paths = pool.map(lambda abi: BUILD.library(abi, folder / abi, compiler, headers), BUILD.ABIS)
        return dict(zip(BUILD.ABIS, paths, strict=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory, shared) -> dict[str, Path]:
    """The models of golden.json."""
    out = tmp_path_factory.mktemp("models") / "story.gguf"
    try:
        convert(BUNDLED, "gguf", out, settings=Converting(quant="q4_0"), verify=False)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return {"story-7m-q4_0": out, "stories260K": shared / "models" / "stories260K" / "stories260K.f32.gguf"}


# ---- the libraries' format -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("abi, machine", [("arm64-v8a", "AArch64"), ("x86_64", "Advanced Micro Devices X86-64")])
def test_library_is_what_android_loads(libraries, abi, machine):
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf: apt install binutils")
    text = checked_output(["readelf", "-hdlW", "--dyn-syms", libraries[abi]])
    assert re.search(r"Machine: +(.+)", text)[1] == machine and "Type:                              DYN" in text
    assert re.findall(r"NEEDED.*\[(.+)\]", text) == ["libc.so"]
    assert re.findall(r"SONAME.*\[(.+)\]", text) == ["libedgekit.so"]
    assert "TEXTREL" not in text and "RPATH" not in text and "RUNPATH" not in text
    # Pages of 16 kB: segments are aligned to them, and what becomes read-only shares none with what stays writable.
    segments = re.findall(r"^  (LOAD|GNU_RELRO) +0x\w+ 0x(\w+) 0x\w+ 0x\w+ 0x(\w+) (...) 0x(\w+)$", text, re.MULTILINE)
    loads = [(int(at, 16), int(size, 16), flags) for kind, at, size, flags, _ in segments if kind == "LOAD"]
    assert len(loads) >= 3 and {align for kind, *_, align in segments if kind == "LOAD"} == {"4000"}
    assert not any("W" in flags and "E" in flags for _, _, flags in loads)
    [(start, size)] = [(int(at, 16), int(size, 16)) for kind, at, size, *_ in segments if kind == "GNU_RELRO"]
    end = (start + size + 0x3FFF) // 0x4000 * 0x4000
    assert all(at == start or at >= end for at, _, flags in loads if "W" in flags)
    # Only the functions of Native.kt are visible, and only the names of libc that build.py lists are used.
    symbols = re.findall(r"GLOBAL +DEFAULT +(\w+) (\S+)$", text, re.MULTILINE)
    assert {name for where, name in symbols if where == "UND"} <= set(BUILD.LIBC)
    declared = re.findall(r"external fun (\w+)", (ANDROID / "src" / "kotlin" / "edgekit" / "Native.kt").read_text())
    assert {name for where, name in symbols if where != "UND"} == {f"Java_edgekit_Native_{name}" for name in declared}


# ---- the libraries without Java ------------------------------------------------------------------------------------


def libc_folder(folder: Path, libc: Path) -> Path:
    """A folder for LD_LIBRARY_PATH where glibc has the name of Android's libc."""
    folder.mkdir()
    (folder / "libc.so").symlink_to(libc)
    return folder


def own_libc() -> Path:
    """This machine's glibc; skips elsewhere."""
    maps = Path("/proc/self/maps")
    found = re.search(r"(/\S+/libc\.so\.6)$", maps.read_text(), re.MULTILINE) if maps.exists() else None
    if found is None or platform.machine() != "x86_64":
        pytest.skip("needs x86_64 and glibc")
    return Path(found[1])


@pytest.fixture(scope="module", params=["x86_64", "arm64-v8a"])
def program(request, libraries, tmp_path_factory) -> tuple[str, list[str]]:
    """The ABI, and the command of android.c with its library."""
    folder, abi = tmp_path_factory.mktemp("program"), request.param
    if abi == "x86_64":
        compiler, libc, start = "cc", own_libc(), []
    else:
        compiler, libc = "aarch64-linux-gnu-gcc", ARM / "lib" / "libc.so.6"
        start = ["qemu-aarch64-static", "-L", str(ARM)]
    for name in (compiler, *start[:1]):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}: apt install gcc-aarch64-linux-gnu qemu-user-static")
    headers = BUILD.java_headers()
    out = folder / "android"
    checked_output(
        [compiler, "-O1", "-Wall", "-Wextra", "-Werror", f"-I{headers}", f"-I{headers / 'linux'}", TESTS / "android.c",
         "-o", out, "-ldl"]
    )  # fmt: skip
    path = libc_folder(folder / "libc", libc)
    variables = ["-E", f"LD_LIBRARY_PATH={path}"] if start else []
    before = [] if start else ["env", f"LD_LIBRARY_PATH={path}"]
    return abi, [*before, *start, *variables, str(out), str(libraries[abi])]


def answers(command: list[str], lines: list[str]) -> list[str]:
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(found) == len(lines)
    return found


def text_command(case: dict, cancel_after: int = -1, **changes) -> str:
    """A case of `texts` for android.c."""
    settings = case["settings"] | changes
    numbers = [str(settings.get(name, "nan")) for name in NUMBERS]
    stops = "".join(stop + "\0" for stop in settings.get("stop", ()))
    seed = settings.get("seed", "0")
    return f"text {joined(case['prompt_ids'])} {seed} {hexed(stops)} {cancel_after} {' '.join(numbers)}"


def text_answer(answer: str) -> dict:
    reused, *steps, finish = answer.split(" ")
    ids, pieces = zip(*(step.split(":") for step in steps), strict=True)
    texts = [unhexed(piece) for piece in pieces if piece != "-"]
    return {"reused": int(reused), "ids": list(map(int, ids)), "pieces": texts, "finish": FINISH[int(finish)]}


def with_reuse(cases: list[dict]) -> list[dict]:
    """Cases of `texts` as they are answered one after the other: with how much of each prompt is in the cache."""
    held: list[int] = []
    answered = []
    for case in cases:
        prompt, n = case["prompt_ids"], 0
        while n < min(len(held), len(prompt) - 1) and held[n] == prompt[n]:
            n += 1
        answered.append({"reused": n, **{key: case[key] for key in ("ids", "pieces", "finish")}})
        held = prompt + case["ids"][:-1]  # the last token is not read
    return answered


def continuation(case: dict, count: int) -> dict:
    """A greedy case whose prompt has the first tokens of its text."""
    assert case["settings"] == {"temperature": 0.0, "repetition_penalty": 1.0, "max_new_tokens": len(case["pieces"])}
    settings = case["settings"] | {"max_new_tokens": len(case["ids"]) - count}
    rest = {"ids": case["ids"][count:], "pieces": case["pieces"][count:]}
    return case | {"prompt_ids": case["prompt_ids"] + case["ids"][:count], "settings": settings} | rest


@pytest.mark.parametrize("name", MODELS)
def test_library_without_java_gives_the_golden_answers(program, files, name):
    abi, command = program
    golden, path = MODELS[name], files[name]
    few = slice(0, 2) if abi != "x86_64" and name == "story-7m-q4_0" else slice(None)  # emulated, it takes its time
    lines, expected = [f"open {path} 0 2 2"], ["ok"]
    for case in golden["encode"]:
        lines.append(f"encode {hexed(case['text'])}")
        expected.append(joined(case["ids"]))
    for case in golden["decode"]:
        lines.append(f"decode {joined(case['ids'])}")
        expected.append(case["pieces"])
    for case in golden["texts"]:
        lines.append(f"prompt {hexed(case['prompt'])}")
        expected.append(joined(case["prompt_ids"]))
    texts = [*golden["texts"][few], golden["texts"][0], continuation(golden["texts"][0], 30)]
    lines += map(text_command, texts)
    expected += with_reuse(texts)
    for kv, number in KV.items():
        lines += ["close", f"open {path} 0 {number} 1"]
        expected += ["0", "ok"]
        for case in (case for case in golden["logits"][few] if case["kv"] == kv):
            lines.append(f"logits {joined(case['ids'])}")
            expected.append(case["fnv1a64"])
    found: list = answers(command, lines)
    for i, line in enumerate(lines):
        if line.startswith("decode"):
            found[i] = [unhexed(piece) for piece in found[i].split(",")]
        elif line.startswith("text"):
            found[i] = text_answer(found[i])
    assert found == expected


@pytest.mark.parametrize("program", ["arm64-v8a"], indirect=True)
@pytest.mark.parametrize("processor, instructions", [("cortex-a53", "neon"), ("max", "dotprod")])
def test_library_chooses_instructions_without_the_processors_register(
    libraries, program, files, processor, instructions
):
    """Android's kernels before 4.11 end a program that reads the register; qemu does not, so the code is searched."""
    abi, command = program
    code = checked_output(["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", libraries[abi]])
    assert "\tsdot\t" in code and "id_aa64" not in code.lower()
    golden = MODELS["stories260K"]["logits"][0]
    lines = [f"open {files['stories260K']} 0 2 1", "instructions", f"logits {joined(golden['ids'])}"]
    found = answers([command[0], "-cpu", processor, *command[1:]], lines)
    assert found == ["ok", instructions, golden["fnv1a64"]]


def test_library_without_java_refuses_bad_input(program, files, tmp_path):
    """No call ends the program, and each error has its sentence."""
    _, command = program
    path = files["stories260K"]
    whole = path.read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "short": whole[:10], "empty": b"", "text": b"Once upon a time" * 9}
    bad["many"] = whole[:8] + b"\xff" * 16 + whole[24:]
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    case = MODELS["stories260K"]["texts"][0]
    lines = [
        *(f"open {tmp_path / name} 0 2 1" for name in bad),
        f"open {path} 2147483647 2 1", f"open {path} 0 9 1", f"open {path} 0 2 999", f"open {path} -1 2 1",
        "encode 61", "logits 1",  # of a model that is not open
        f"open {path} 0 2 1", "logits 1,99999", "logits -", f"logits {joined([1] * 600)}",
        *(text_command(case | {"prompt_ids": ids}) for ids in ([], [1] * 600, [99999])),
        text_command(case, top_p=2.0), text_command(case, temperature="inf"), text_command(case, top_k=-1),
        text_command(case, max_new_tokens=0.5), text_command(case, stop=[""]),
        text_command(case), text_command(case, 0), text_command(case, 3), "close",
    ]  # fmt: skip
    found = answers(command, lines)
    errors = [answer.removeprefix("error ") for answer in found[: len(bad) + 6]]
    assert all(answer.startswith("error ") for answer in found[: len(bad) + 6]), found
    assert "cut" in errors[0] or "end" in errors[0], errors
    assert errors[3].startswith("not a GGUF file")
    assert "context of 2147483647" in errors[len(bad)]
    assert "kv must be" in errors[len(bad) + 1] and "threads must be 1 to 256" in errors[len(bad) + 2]
    assert errors[len(bad) + 4 :] == ["the model is closed"] * 2
    rest = found[len(bad) + 6 :]
    assert rest[0] == "ok" and all(answer.startswith("error ") for answer in rest[1:12]), rest
    assert "the prompt has 600 tokens, but the context holds 512" in rest[5]
    assert "top_p is out of range" in rest[7] and "top_k must be an integer" in rest[9]
    assert "stops: a text is empty" in rest[11]
    assert text_answer(rest[12])["ids"] == case["ids"]
    assert text_answer(rest[13]) == {"reused": 4, "ids": [0], "pieces": [], "finish": "cancelled"}
    three = {"ids": [*case["ids"][:3], 0], "pieces": case["pieces"][:3], "finish": "cancelled"}
    assert text_answer(rest[14]) == {"reused": 0, **three}  # the text before had not read its prompt
    assert rest[15] == "0"  # nothing of Java's is kept


# ---- Kotlin --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kotlin(libraries, tmp_path_factory) -> tuple[Path, list[str]]:
    """classes.jar, and the command of android.kt."""
    compiler, java = shutil.which("kotlinc"), shutil.which("java")
    if compiler is None or java is None:
        pytest.skip("needs kotlinc and java: npm install kotlin-compiler, apt install default-jdk-headless")
    folder = tmp_path_factory.mktemp("kotlin")
    libc = libc_folder(folder / "libc", own_libc())
    BUILD.classes(folder / "classes.jar", compiler)
    lib = Path(compiler).resolve().parents[1] / "lib"
    jars = [folder / "classes.jar", lib / "kotlinx-coroutines-core-jvm.jar"]
    classpath = ":".join(map(str, jars))
    checked_output(["bash", compiler, "-cp", classpath, "-d", folder / "android.jar", TESTS / "android.kt"])
    classpath = ":".join(map(str, [*jars, folder / "android.jar", lib / "kotlin-stdlib.jar"]))
    return folder / "classes.jar", [
        "env", f"LD_LIBRARY_PATH={libc}", java, "-Xcheck:jni", f"-Djava.library.path={libraries['x86_64'].parent}",
        "-cp", classpath, "AndroidKt",
    ]  # fmt: skip


def words(settings: dict) -> str:
    """Settings for android.kt."""
    values = settings | {"stop": ",".join(map(hexed, settings["stop"]))} if "stop" in settings else settings
    return " ".join(f"{name}={value}" for name, value in values.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_kotlin_gives_the_golden_answers(kotlin, files, name):
    golden, path = MODELS[name], files[name]
    lines, expected = [f"open {path} 0 2 2"], ["ok"]
    for case in golden["encode"]:
        lines.append(f"encode {hexed(case['text'])}")
        expected.append(joined(case["ids"]))
    for case in golden["decode"]:
        text = "".join(case["pieces"])
        lines += [f"decode {joined(case['ids'])}", f"join {joined(case['ids'])}"]
        expected += [",".join(map(hexed, case["pieces"])), hexed(text)]
    for case, answer in zip(golden["texts"], with_reuse(golden["texts"]), strict=True):
        pieces = ",".join(map(hexed, case["pieces"]))
        lines += [
            f"prompt {hexed(case['prompt'])}",
            f"text {joined(case['prompt_ids'])} -1 {words(case['settings'])}",
            f"flow {hexed(case['prompt'])} 1 {words(case['settings'])}",
        ]
        result = f"{answer['reused']} {joined(case['ids'])} {pieces} {case['finish']}"
        expected += [joined(case["prompt_ids"]), result, pieces]
    for kv, number in KV.items():
        lines += ["close", f"open {path} 0 {number} 1 0 {path.stat().st_size}"]  # as an asset's descriptor
        expected += ["ok", "ok"]
        for case in (case for case in golden["logits"] if case["kv"] == kv):
            lines.append(f"logits {joined(case['ids'])}")
            expected.append(case["fnv1a64"])
    assert answers(kotlin[1], lines) == expected


@pytest.mark.slow
def test_kotlin_refuses_bad_input(kotlin, files, tmp_path):
    path = files["stories260K"]
    size, whole = path.stat().st_size, path.read_bytes()
    (tmp_path / "cut").write_bytes(whole[: size // 2])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "asset").write_bytes(b"x" * 4097 + whole + b"more")  # not at a page's beginning, nor aligned
    case = MODELS["stories260K"]["texts"][0]
    settings = "temperature=0 repetition_penalty=1"
    pairs = {
        f"open {tmp_path / 'none'} 0 2 1": f"error cannot read the model: {tmp_path / 'none'} (",
        f"open {tmp_path / 'empty'} 0 2 1": "error not a GGUF file",
        f"open {tmp_path / 'cut'} 0 2 1": "error ",
        f"open {path} 0 2 1 buffer": "error the model's bytes are not in a direct buffer",
        f"open {path} 0 2 1 100 {size}": f"error the file has {size} bytes, not {size} from 100 on",
        f"open {path} 0 2 1 100 {size - 100}": "error not a GGUF file",
        f"open {tmp_path / 'asset'} 0 2 1 4097 {size}": "ok",
        "info": "Info(vocabulary=512, layers=5, hidden=64, context=512, parameters=",
        "surrogate": "error the text has half a surrogate pair",
        "prompt -": "1",  # BOS
        f"text {joined([1] * 600)} -1 ": "error the prompt has 600 tokens, but the context holds 512",
        "text 1 -1 temperature=-1": "error temperature is out of range",
        "text 1 -1 temperature=NaN": "error a setting is not a number",
        "text 1 -1 top_k=-1": "error top_k must be an integer from 0 on",
        "text 1 -1 stop=61,6100": "error stop: a text has a zero character",
        "second": "error the model was used for something else before this text was complete",
        f"text {joined(case['prompt_ids'])} 3 {settings}": f"1 {joined(case['ids'][:3])} ",
        f"race {settings} ignore_eos=true max_new_tokens=0": "error the model is closed",
        "info ": "Info(",
        "encode 61": "error the model is closed",
        "logits 1": "error the model is closed",
        "close": "ok",
    }
    found = answers(kotlin[1], list(pairs))
    for answer, (line, start) in zip(found, pairs.items(), strict=True):
        assert answer.startswith(start), line
    assert found[-6].endswith(" cancelled")


@pytest.mark.slow
def test_aar_has_what_gradle_expects(kotlin, libraries, tmp_path):
    out = tmp_path / "edgekit.aar"
    BUILD.pack(out, libraries, kotlin[0])
    with zipfile.ZipFile(out) as file:
        assert sorted(file.namelist()) == [
            "AndroidManifest.xml", "META-INF/com/android/build/gradle/aar-metadata.properties", "R.txt", "classes.jar",
            "jni/arm64-v8a/libedgekit.so", "jni/x86_64/libedgekit.so", "proguard.txt",
        ]  # fmt: skip
        assert all(entry.external_attr >> 16 == 0o644 for entry in file.infolist())
        assert "." in ElementTree.fromstring(file.read("AndroidManifest.xml")).attrib["package"]
    with zipfile.ZipFile(kotlin[0]) as file:
        names = file.namelist()
        kept = re.findall(r"-keep class (\S+)", BUILD.KEEP)
        assert {name.replace(".", "/") + ".class" for name in kept} < set(names)
        assert int.from_bytes(file.read("edgekit/Model.class")[6:8]) == 52  # Java 8, which every build of Android reads
        # Coroutines are needed by Flow.kt alone.
        users = {name for name in names if b"kotlinx/coroutines" in file.read(name)}
        assert users and all(name.startswith("edgekit/Flow") for name in users)
