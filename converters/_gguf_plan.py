"""The size of a GGUF file of each type, exact to the byte, before it is written.

For the types that edgekit writes itself, the sizes follow from the shapes. Which types llama.cpp's quantizer mixes into
a K-quant changes from version to version, so it is asked: it quantizes a thin model, with all metadata and all tensors,
but two rows of each matrix. The types that it chooses depend on names, widths and metadata, not on the rows.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.conversion.base import Planned, Written
from edgekit.conversion.importance import Importance, provenance
from edgekit.converters import _gguf_importance, _gguf_keys, _gguf_llama
from edgekit.converters._gguf_receipt import key_bytes
from edgekit.errors import MissingExtraError
from edgekit.formats import embedded
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig
from edgekit.formats.gguf_tensors import file_shapes
from edgekit.formats.gguf_write import data_bytes, head, tensor_bytes, write
from edgekit.settings import Converting
from edgekit.utils import temporaries

PLAIN = "f32"
ROWS = 2
"""With one row a tensor counts as a vector, which stays as it is."""


def sizes(
    checkpoint: Checkpoint,
    settings: Converting,
    quants: Sequence[str],
    same: Mapping[str, str],
    weighted: Collection[str],
    planned: Callable[[LlamaConfig, str, str | None], list[Written]],
) -> Iterator[Planned]:
    """A row for each of `quants`, in their order.

    Args:
        same: quantizations with a second name -> that name.
        weighted: types that use an importance matrix.
        planned: the tensors of a type that does not need llama.cpp.
    """
    embedding = settings.embedding_type.lower() if settings.embedding_type else None
    keys, _ = _gguf_keys.metadata(checkpoint, PLAIN, 0)
    importance = _gguf_importance.uniform(checkpoint.config) if settings.importance is not None else None
    with temporaries.scratch() as folder:
        thin = _thin(folder / "plain.gguf", keys, planned(checkpoint.config, PLAIN, None))
        for quant in quants:
            note = f"the same as {same[quant]}" if quant in same else ""
            weighs = importance is not None and quant in weighted
            try:
                if quant in _gguf_llama.DIRECT and (embedding is None or embedding in _gguf_llama.DIRECT):
                    tensors = planned(checkpoint.config, quant, embedding)
                else:
                    tensors = _by_llama(checkpoint, thin, quant, embedding, weighs)
            except MissingExtraError as error:
                yield Planned(quant, [], None, str(error))
                continue
            metadata = keys | {"edgekit.quant": quant}
            if weighs and importance is not None and settings.importance is not None:
                text = provenance(settings.importance)["text"]
                metadata |= _gguf_importance.keys(Importance(importance.values, text, 0))
            size = len(head(metadata, [(t.name, t.shape, t.type) for t in tensors]))
            size += data_bytes((t.shape, t.type) for t in tensors) + key_bytes(embedded.RECEIPT_ROOM)
            yield Planned(quant, tensors, size, note)


def _thin(path: Path, keys: Mapping[str, Any], tensors: Sequence[Written]) -> Path:
    """A file with all metadata and tensors; of a matrix it has two rows, of zeros."""
    shapes = [(t.name, (ROWS, *t.shape[1:]) if len(t.shape) > 1 else t.shape) for t in tensors]
    data = (np.zeros(shape, np.float32) for _, shape in shapes)
    write(path, keys, [(name, shape, "F32") for name, shape in shapes], data)
    return path


def _by_llama(checkpoint: Checkpoint, thin: Path, quant: str, embedding: str | None, weighted: bool) -> list[Written]:
    types = _gguf_llama.types(_gguf_llama.library(quant), checkpoint, thin, quant, embedding, weighted)
    rows = file_shapes(checkpoint.config).items()
    return [Written(name, shape, types[name], tensor_bytes(shape, types[name])) for name, shape in rows]
