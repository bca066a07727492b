"""ONNX Runtime on the CPU, with nothing else imported: the runtime for small machines.

It runs two graphs, recognized by their inputs: the fused one of `edgekit convert --to onnx`, and that of Hugging Face
optimum's text-generation-with-past, written by edgekit (`--graph portable`, and versions before the fused graph) or by
optimum itself, if `config.json` is next to the file.
"""

import dataclasses
from pathlib import Path

from edgekit.formats import onnx, onnx_graph
from edgekit.inference import context
from edgekit.runtimes import _onnx_session
from edgekit.runtimes._onnx_fused import FusedRuntime
from edgekit.runtimes._onnx_portable import PortableRuntime
from edgekit.settings import Running

SUFFIX = ".onnx"


def load(path: Path, settings: Running) -> FusedRuntime | PortableRuntime:
    """Open an `.onnx` file.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: not an ONNX model, or not one with either interface, or an operator that is in
            neither; names what is missing.
    """
    path = Path(path)
    onnx_graph.check(path, onnx.mapped(path))
    session = _onnx_session.session(path, settings)
    files = onnx.files_of(session.get_modelmeta().custom_metadata_map, path)
    config = onnx.config_of(files, path)
    length = context.length(config.max_position_embeddings, settings)
    config = dataclasses.replace(config, max_position_embeddings=length)
    fused = any(node.name == "seqlens_k" for node in session.get_inputs())
    return (FusedRuntime if fused else PortableRuntime)(session, files, config, path)
