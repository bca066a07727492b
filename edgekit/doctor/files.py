"""The doctor on the files of a model folder: what is there, whole, and where programs look for it."""

import json
from collections.abc import Iterator

from edgekit.doctor.case import Case, read_head, weight_map
from edgekit.doctor.checks import check
from edgekit.doctor.finding import Finding, counted, error, note, some, warning
from edgekit.doctor.tensors import LFS
from edgekit.formats.checkpoint import INDEX, WEIGHTS

RESAVE = "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER, safe_serialization=True)"
CLEAN = "write the folder anew: edgekit convert -m FOLDER --to hf"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@check("folder")
def no_config(case: Case) -> Iterator[Finding]:
    if (case.path / "config.json").is_file() or (case.path / "adapter_config.json").is_file():
        return
    inside = sorted(p.name for p in case.path.iterdir() if p.suffix in (".gguf", ".onnx"))
    yield error(
        "there is no config.json",
        "edgekit, transformers and llama.cpp's converter all refuse the folder: nothing says what the weights are",
        f"the folder holds {some(inside)}: name that file" if inside else "name the folder that holds config.json",
    )


@check("folder")
def lora_adapter(case: Case) -> Iterator[Finding]:
    if (case.path / "adapter_config.json").is_file():
        yield error(
            "this is a LoRA adapter, the changes to a model and not a model",
            "edgekit refuses it; llama.cpp's convert_lora_to_gguf.py makes a file of it that is loaded beside a model",
            "merge it first: PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(NEW)",
        )


@check()
def damaged_json(case: Case) -> Iterator[Finding]:
    for name in case.files:
        if not name.endswith(".json"):
            continue
        try:
            value = json.loads(case.files[name])
            why = "" if isinstance(value, dict) else "it is no JSON object"
        except (ValueError, RecursionError) as reason:
            why = str(reason)
        if why:
            yield error(f"{name} cannot be read: {why}", "every program that reads it stops", "mend the file")


@check("folder")
def git_lfs(case: Case) -> Iterator[Finding]:
    pointers = [p.name for p in sorted(case.path.iterdir()) if p.is_file() and read_head(p).startswith(LFS)]
    if pointers:
        yield error(
            f"{some(pointers)}: Git LFS pointers of a hundred bytes, not the files themselves",
            "no program can read them; most say that the file is damaged",
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
            "edgekit and transformers refuse the folder: nothing says which belong together",
            f"if they are the parts of one model, save it again with {RESAVE}; else keep one of them",
        )
    elif pickles:
        yield error(
            f"the weights are pickled only ({some(pickles)})",
            "a pickle can run any code when it is loaded, so edgekit never does; transformers asks for torch 2.6 or "
            "newer; llama.cpp's converter reads pytorch_model*.bin and nothing of another name",
            f"where you trust the file: {RESAVE}",
        )
    else:
        yield error(
            "there are no weights",
            "edgekit and every other program refuse the folder (from the Hub edgekit fetches safetensors only)",
            "download it whole, or see at the Hub whether there are any",
        )


@check("folder")
def pickles_beside(case: Case) -> Iterator[Finding]:
    pickles = [p for pattern in ("pytorch_model*.bin", "*.pth", "*.ckpt") for p in case.path.glob(pattern)]
    if case.shards and pickles:
        size = sum(p.stat().st_size for p in pickles)
        yield note(
            f"pickled weights lie beside the safetensors: {some(p.name for p in sorted(pickles))}, {size / 1e6:.1f} MB",
            "edgekit and transformers read the safetensors; who downloads the folder gets both",
            "delete them, once the safetensors are known to be the same model",
        )


@check("folder")
def odd_weights_name(case: Case) -> Iterator[Finding]:
    if len(case.shards) == 1 and (name := next(iter(case.shards))) != WEIGHTS and not (case.path / INDEX).is_file():
        yield warning(
            f"the weights are in {name}, not in {WEIGHTS}",
            f"edgekit takes the only safetensors file that there is; transformers looks for {WEIGHTS} and finds no "
            "weights, llama.cpp's converter for names that begin with `model`",
            f"rename it to {WEIGHTS}",
        )


@check("folder")
def two_sets_of_weights(case: Case) -> Iterator[Finding]:
    if (case.path / INDEX).is_file() and (case.path / WEIGHTS).is_file() and WEIGHTS not in case.shards:
        yield warning(
            f"there is a {WEIGHTS} and an index of other files",
            "edgekit and llama.cpp's converter go by the index, transformers takes the single file: if they are not "
            "the same model, two programs talk of two models",
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
    lost = [
        f"{tensor} (not in {name})" for tensor, name in index.items() if name in case.shards and tensor not in stored
    ]
    unlisted = sorted(set(stored) - set(index))
    moved = [t for t, name in index.items() if t in stored and name in case.shards and stored[t] != name]
    if lost or unlisted or moved:
        parts = [f"names {some(lost)}"] * bool(lost) + [f"does not list {some(unlisted)}"] * bool(unlisted)
        parts += [f"puts {some(moved)} into another file than the one it is in"] * bool(moved)
        yield warning(
            f"{INDEX} {'; '.join(parts)}",
            "edgekit reads what is in the files, whatever the index says; llama.cpp's converter stops (`Mismatch "
            "between weight map and model parts`)",
            CLEAN,
        )


@check("folder")
def tensor_twice(case: Case) -> Iterator[Finding]:
    if case.twice:
        yield error(
            f"{some(case.twice)}: in more than one file, or under two names that differ by a wrapper's prefix only",
            "edgekit refuses the folder, since it cannot tell which is meant; transformers takes the last one read",
            f"save it again: {RESAVE}",
        )


@check("folder")
def safetensors_of_another_framework(case: Case) -> Iterator[Finding]:
    for name, shard in case.shards.items():
        said = (shard.metadata or {}).get("format")
        # transformers.modeling_utils.load_state_dict: no metadata at all passes, metadata without a known format not.
        if shard.metadata is not None and said not in ("pt", "tf", "flax", "mlx"):
            yield warning(
                f"{name} says format {said!r} of itself, and not `pt`",
                "edgekit and llama.cpp's converter do not mind; transformers refuses the file",
                CLEAN,
            )
