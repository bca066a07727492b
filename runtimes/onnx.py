"""ONNX Runtime on the CPU, with nothing else imported: the runtime for small machines.

It runs two graphs, told apart by their inputs: the fused one of `edgekit convert --to onnx`, and the one of Hugging
Face optimum's text-generation-with-past, made by edgekit (`--graph portable`, and all before it had another) or by
optimum itself, if `config.json` lies beside the file.
"""

from pathlib import Path

from edgekit.runtimes import _onnx_session
from edgekit.runtimes._onnx_fused import FusedRuntime
from edgekit.runtimes._onnx_portable import PortableRuntime
from edgekit.settings import Running

SUFFIX = ".onnx"


def load(path: Path, settings: Running) -> FusedRuntime | PortableRuntime:
    """Open an `.onnx` file.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: it is no ONNX model, or not one with either interface; says what is missing.
    """
    path = Path(path)
    session = _onnx_session.session(path, settings)
    files = _onnx_session.carried(session, path)
    config = _onnx_session.config(files, path)
    fused = any(node.name == "seqlens_k" for node in session.get_inputs())
    return (FusedRuntime if fused else PortableRuntime)(session, files, config, path)
