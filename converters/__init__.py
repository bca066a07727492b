"""Converters, installed as `edgekit.converters`: one file for each target format, named as `--to` takes it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the type checker compares the modules with their contracts
    from edgekit.conversion import base
    from edgekit.converters import gguf, hf, onnx

    _gguf: base.Converter = gguf
    _hf: base.Converter = hf
    _onnx: base.Converter = onnx
    _reads_back: base.ReadsBack = gguf
    _compare: tuple[base.ComparesTensors, ...] = (gguf, onnx)
    _receipts: tuple[base.CarriesReceipt, ...] = (gguf, onnx)
    _sizes: tuple[base.PlansSizes, ...] = (gguf, onnx)
    _tensors: base.PlansTensors = gguf
    _synonyms: base.HasSynonyms = gguf
    _probes: tuple[base.HasProbes, ...] = (gguf, onnx)
    _weighs: base.WeighsRounding = gguf
    _describes: base.Describes = onnx
