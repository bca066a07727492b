"""Healthy models of a few kilobytes to a few megabytes, built in every clone, and ways to damage them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import tokenizers
from handmade import small
from helpers import tokenmonster_files, write_model
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, models, normalizers, processors

from edgekit.doctor import examine
from edgekit.formats.checkpoint import INDEX, LlamaConfig, open_folder
from edgekit.formats.gguf import GGUFFile
from edgekit.settings import Converting
from edgekit.utils import registry
from edgekit.utils.progress import silent

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz.,"]
SHAPE = LlamaConfig(
    vocab_size=len(PIECES),
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=128,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=(2,),
)
LAYER = "model.layers.1."
EMBEDDING = "model.embed_tokens.weight"


def sentencepiece_like() -> bytes:
    """A tokenizer.json like Llama 2's: characters, byte fallback, BOS before a text."""
    made = tokenizers.Tokenizer(
        models.BPE({p: i for i, p in enumerate(PIECES)}, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(PIECES[:3])
    made.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    return made.to_str().encode()


FILES = {
    "tokenizer.json": sentencepiece_like(),
    "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 128}).encode(),
    "generation_config.json": b'{"bos_token_id": 1, "eos_token_id": 2}',
}


class Folder:
    """A healthy model folder, and ways to damage it."""

    def __init__(self, path: Path):
        self.path = write_model(path, SHAPE, files=FILES)

    def json(self, name: str, **changes) -> None:
        """Change keys of a JSON file; `...` removes one."""
        file = self.path / name
        values = json.loads(file.read_bytes()) if file.exists() else {}
        values |= changes
        file.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    def config(self, **changes) -> None:
        self.json("config.json", **changes)

    def generation(self, **changes) -> None:
        self.json("generation_config.json", **changes)

    def words(self, **changes) -> None:
        self.json("tokenizer_config.json", **changes)

    def tensors(self, change, metadata=("format", "pt")) -> None:
        """`change` is called with the tensors by name and changes them in place."""
        file = self.path / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata=dict([metadata]) if metadata else None)

    def value(self, name: str, number: float) -> None:
        self.tensors(lambda t: t[name].reshape(-1).__setitem__(0, number))

    def put(self, name: str, data: bytes = b"") -> None:
        (self.path / name).write_bytes(data)

    def drop(self, *names: str) -> None:
        for name in names:
            (self.path / name).unlink()

    def shards(self) -> dict[str, str]:
        """Split the weights into two files and an index, as transformers does; returns the index' table."""
        tensors = load_file(self.path / "model.safetensors")
        self.drop("model.safetensors")
        names = list(tensors)
        index = {}
        for i, part in enumerate((names[:5], names[5:])):
            file = f"model-{i + 1:05}-of-00002.safetensors"
            save_file({name: tensors[name] for name in part}, self.path / file, metadata={"format": "pt"})
            index |= dict.fromkeys(part, file)
        self.put(INDEX, json.dumps({"metadata": {}, "weight_map": index}).encode())
        return index

    def tokenmonster(self) -> None:
        vocabulary = small(1)
        base = vocabulary.table_size
        rows = -(-(base + 2) // 32) * 32
        shape = dataclasses.replace(SHAPE, vocab_size=rows, eos_token_id=(base,), bos_token_id=base + 1)
        self.drop("tokenizer.json", "generation_config.json")
        write_model(self.path, shape, files=tokenmonster_files(vocabulary.to_bytes(), rows, model_max_length=128))


def findings_of(path, name: str) -> list:
    return [finding for finding in examine.examine(path).findings if finding.name == name]


def levels_and_names(path) -> set[tuple[str, str]]:
    return {(finding.level, finding.name) for finding in examine.examine(path).findings}


def converted(source: Path, out: Path, to: str, quant: str, **settings) -> Path:
    """The output of a converter alone, without verification."""
    registry.load("converters", to).convert(open_folder(source), out, Converting(quant, **settings), silent)
    return out


def rewritten(path: Path, change=lambda keys, tensors: None) -> Path:
    """A copy of a GGUF with changed keys and tensors, as another program might have written it."""
    from edgekit.formats.gguf_write import write

    file = GGUFFile(path)
    keys = {k: v.tobytes() if getattr(v, "dtype", None) == np.uint8 else v for k, v in file.metadata.items()}
    tensors = {name: (info.shape, info.type, file.data(name)) for name, info in file.tensors.items()}
    change(keys, tensors)
    out = path.with_name("changed.gguf")
    rows = [(name, shape, kind) for name, (shape, kind, _) in tensors.items()]
    write(out, keys, rows, [data for _, _, data in tensors.values()])
    return out


def unpermuted(rows, head_dim=16):
    """Query or key rows as if Hugging Face's order had been taken for llama.cpp's and undone."""
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
