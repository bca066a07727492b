"""The parts of the package `gguf` that the converters use: quantizers and names of types. The rest is not imported."""

from typing import Any

from edgekit.utils import lazy

_constants: Any = lazy.load("gguf", "constants")
_quants: Any = lazy.load("gguf", "quants")

GGMLQuantizationType, LlamaFileType = _constants.GGMLQuantizationType, _constants.LlamaFileType
GGML_QUANT_VERSION: int = _constants.GGML_QUANT_VERSION
quantize, dequantize = _quants.quantize, _quants.dequantize
size_label = lazy.load("gguf", "utility").size_label
