"""Checks of the files of a model folder: whether they exist, are complete, and are where programs look for them."""

import json
from collections.abc import Iterator

from edgekit.doctor.case import Case, read_head, weight_map
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, counted, error, note, some, warning
from edgekit.doctor.tensors import LFS
from edgekit.formats.checkpoint import INDEX, WEIGHTS

RESAVE = "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER, safe_serialization=True)"
CLEAN = "write a clean copy: edgekit convert -m FOLDER --to hf"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@check("folder")
def no_config(case: Case) -> Iterator[Finding]:
    if (case.path / "config.json").is_file() or (case.path / "adapter_config.json").is_file():
        return
    files = sorted(p.name for p in case.path.iterdir() if p.suffix in (".gguf", ".onnx"))
    yield error(
        "there is no config.json",
        "edgekit, transformers and llama.cpp's converter all refuse the folder: nothing describes the weights",
        f"the folder contains {some(files)}: use that file" if files else "use the folder that contains config.json",
    )


@check("folder")
def lora_adapter(case: Case) -> Iterator[Finding]:
    if (case.path / "adapter_config.json").is_file():
        yield error(
            "this is a LoRA adapter: changes to a model, not a model",
            "edgekit refuses it; llama.cpp's convert_lora_to_gguf.py converts it to a file that is loaded with a model",
            "merge it first: PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(NEW)",
        )


@check()
def damaged_json(case: Case) -> Iterator[Finding]:
    for name in case.files:
        if not name.endswith(".json"):
            continue
        try:
            value = json.loads(case.files[name])
            why = "" if isinstance(value, dict) else "it is not a JSON object"
        except (ValueError, RecursionError) as reason:
            why = str(reason)
        if why:
            yield error(f"{name} cannot be read: {why}", "every program that reads it stops", "repair the file")


@check("folder")
def git_lfs(case: Case) -> Iterator[Finding]:
    pointers = [p.name for p in sorted(case.path.iterdir()) if p.is_file() and read_head(p).startswith(LFS)]
    if pointers:
        yield error(
            f"{some(pointers)}: Git LFS pointers of a hundred bytes, not the files themselves",
            "no program can read them; most report a damaged file",
            "git lfs install && git lfs pull in the folder, or download it with `hf download`",
        )


@check("folder")
def no_safetensors(case: Case) -> Iterator[Finding]:
    if case.shards or (case.path / "adapter_config.json").is_file() or (case.path / INDEX).is_file():
        return
    files = sorted(p.name for p in case.path.glob("*.safetensors"))
    pickles = [p.name for pattern in PICKLES for p in sorted(case.path.glob(pattern))]
    if files:
        yield error(
            f"{some(files)}: several weight files, no {INDEX} and none called {WEIGHTS}",
            "edgekit and transformers refuse the folder: nothing tells which belong together",
            f"if they are parts of one model, save it again with {RESAVE}; otherwise keep one of them",
        )
    elif pickles:
        yield error(
            f"the only weights are pickles ({some(pickles)})",
            "loading a pickle can run any code, so edgekit never loads one; transformers requires torch 2.6 or newer; "
            "llama.cpp's converter reads pytorch_model*.bin only",
            f"if you trust the file: {RESAVE}",
        )
    else:
        yield error(
            "there are no weights",
            "edgekit and every other program refuse the folder (from the Hub, edgekit downloads no pickles)",
            "download all files, or check on the Hub whether there are weights",
        )


@check("folder")
def pickles_beside(case: Case) -> Iterator[Finding]:
    pickles = [p for pattern in ("pytorch_model*.bin", "*.pth", "*.ckpt") for p in case.path.glob(pattern)]
    if case.shards and pickles:
        size = sum(p.stat().st_size for p in pickles)
        yield note(
            f"there are pickled weights next to the safetensors: {some(p.name for p in sorted(pickles))}, "
            f"{size / 1e6:.1f} MB",
            "edgekit and transformers read the safetensors; a download of the folder contains both",
            "delete them if the safetensors are the same model",
        )


@check("folder")
def odd_weights_name(case: Case) -> Iterator[Finding]:
    if len(case.shards) == 1 and (name := next(iter(case.shards))) != WEIGHTS and not (case.path / INDEX).is_file():
        yield warning(
            f"the weights are in {name}, not in {WEIGHTS}",
            f"edgekit reads the only safetensors file; transformers looks for {WEIGHTS} and finds no weights, "
            "llama.cpp's converter looks for names that begin with `model`",
            f"rename it to {WEIGHTS}",
        )


@check("folder")
def two_sets_of_weights(case: Case) -> Iterator[Finding]:
    if (case.path / INDEX).is_file() and (case.path / WEIGHTS).is_file() and WEIGHTS not in case.shards:
        yield warning(
            f"there is a {WEIGHTS} and an index of other files",
            "edgekit and llama.cpp's converter use the index, transformers uses the single file: if they are not the "
            "same model, programs give different results",
            f"delete {WEIGHTS}, or the index and its files",
        )


@check("folder")
def cut_off(case: Case) -> Iterator[Finding]:
    for name, shard in case.shards.items():
        if shard.fault and "Git LFS" not in shard.fault:
            yield error(f"{name} is damaged: {shard.fault}", "every program refuses the file", "download it again")
        elif shard.cut:
            yield error(
                f"{name} is cut off: the bytes of {counted(len(shard.cut), 'tensor')} are missing ({some(shard.cut)})",
                "every program refuses the file",
                "download it again, and compare its size with the one on the Hub",
            )


@check("folder")
def index_and_files_differ(case: Case) -> Iterator[Finding]:
    if not (case.path / INDEX).is_file():
        return
    index = weight_map(case.path)
    if not index:
        yield error(f"{INDEX} has no weight_map", "every program refuses the folder", f"save it again: {RESAVE}")
        return
    missing = sorted({name for name in index.values() if name not in case.shards})
    if missing:
        yield error(
            f"{INDEX} names {some(missing)}, which is not in the folder",
            "edgekit, transformers and llama.cpp's converter refuse the folder: a part of the weights is missing",
            "download the missing files",
        )
    stored = {t.stored: name for name, shard in case.shards.items() for t in shard.tensors}
    absent = [
        f"{tensor} (not in {name})" for tensor, name in index.items() if name in case.shards and tensor not in stored
    ]
    unlisted = sorted(set(stored) - set(index))
    moved = [t for t, name in index.items() if t in stored and name in case.shards and stored[t] != name]
    if absent or unlisted or moved:
        parts = [f"names {some(absent)}"] * bool(absent) + [f"does not list {some(unlisted)}"] * bool(unlisted)
        parts += [f"puts {some(moved)} into another file than the one it is in"] * bool(moved)
        yield warning(
            f"{INDEX} {'; '.join(parts)}",
            "edgekit reads the files, whatever the index says; llama.cpp's converter stops (`Mismatch "
            "between weight map and model parts`)",
            CLEAN,
        )


@check("folder")
def tensor_twice(case: Case) -> Iterator[Finding]:
    if case.twice:
        yield error(
            f"{some(case.twice)}: in more than one file, or under two names that differ only by a wrapper's prefix",
            "edgekit refuses the folder, because it cannot tell which is right; transformers uses the last one it "
            "reads",
            f"save it again: {RESAVE}",
        )


@check("folder")
def safetensors_of_another_framework(case: Case) -> Iterator[Finding]:
    for name, shard in case.shards.items():
        framework = (shard.metadata or {}).get("format")
        # transformers.modeling_utils.load_state_dict accepts no metadata at all, but not metadata without a known
        # format.
        if shard.metadata is not None and framework not in ("pt", "tf", "flax", "mlx"):
            yield warning(
                f"the metadata of {name} has format {framework!r}, not `pt`",
                "edgekit and llama.cpp's converter ignore it; transformers refuses the file",
                CLEAN,
            )
