"""Changes to optimum's graph: weights stored once, half the nodes, weights in int8."""

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgekit.converters._onnx_names import EMBEDDING, HEAD, QUANTIZED, SCALE, ZERO_POINT, weight_of
from edgekit.errors import RuntimeFailure
from edgekit.formats.checkpoint import LlamaConfig
from edgekit.utils import temporaries

__all__ = ["EMBEDDING", "HEAD", "QUANTIZED", "SCALE", "ZERO_POINT", "weight_of"]


def fold_transposes(model: onnx.ModelProto, config: LlamaConfig) -> None:
    """Store every weight as its MatMul needs it, (in, out), and a tied table once; in place.

    A tied head is the embedding's transpose. The exporter's own folding stores both, which is 17 % of a 12.3M model.
    Left as a Transpose node, ONNX Runtime folds it when it loads: one table in the file, two in memory, and none that
    the quantizer recognizes as a weight. So the table is stored once as the head needs it, (hidden, vocab), and the
    embedding gathers columns of it instead of rows: 1 KB for a token, which is not measurable.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for name, shape in config.shapes().items():
        if name not in weights and len(shape) > 1:  # torch stores equal vectors once, under one of their names
            raise RuntimeFailure(f"the export to ONNX lacks {name}: this version of torch or optimum is not supported")
    transposes = [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in config.shapes()]
    source = {node.output[0]: node.input[0] for node in transposes}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in source:
                node.input[i] = source[name]
    for node in transposes:
        weight = weights[node.input[0]]
        transposed = np.ascontiguousarray(numpy_helper.to_array(weight).T)
        weight.CopyFrom(numpy_helper.from_array(transposed, weight.name))
        graph.node.remove(node)
    if EMBEDDING in source.values():
        gather = _embedding_gather(model)
        columns = gather.output[0] + "_columns"
        gather.attribute.append(helper.make_attribute("axis", 1))
        rows = helper.make_node("Transpose", [columns], [gather.output[0]], name=gather.name + "/Rows", perm=[1, 2, 0])
        gather.output[0] = columns
        graph.node.insert(list(graph.node).index(gather) + 1, rows)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph after ONNX Runtime's basic optimizations, in operators of the ONNX standard only.

    They do not depend on the machine (constants folded, duplicates merged), halve the nodes and save 50 ms per start.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with temporaries.scratch() as folder:
        path = folder / "basic.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        simple = onnx.load(path)
    if any(node.domain not in ("", "ai.onnx") for node in simple.graph.node):
        return model  # a later ONNX Runtime may do more in basic; then the exporter's own graph is used
    return simple


def quantize(model: onnx.ModelProto, *, reduce_range: bool) -> onnx.ModelProto:
    """ONNX Runtime's dynamic int8: weights (in, out) symmetric, a scale per column; activations uint8 at run time.

    Only MatMul with a constant side, so the products inside attention stay float32. ONNX Runtime could also quantize
    the Gather of the embedding, with one scale for the whole table; here each token keeps its own scale.

    Args:
        reduce_range: weights in [-64, 64]. Without VNNI, x86 adds two products of uint8 and int8 in an int16, which
            overflows with larger ones (microsoft/onnxruntime#6004).
    """
    # The quantizer requires this mark of its own preprocessing, which `simplify` replaces.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with temporaries.scratch() as folder:
        path = folder / "int8.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        quantized = onnx.load(path)
    _int8_embedding(quantized, 64 if reduce_range else 127)
    return quantized


def _int8_embedding(model: onnx.ModelProto, most: int) -> None:
    """Make the embedding int8, too: the head's table if they are tied, otherwise its rows with a scale each."""
    graph, gather = model.graph, _embedding_gather(model)
    names = {tensor.name for tensor in graph.initializer}
    table = next(t for t in graph.initializer if t.name == EMBEDDING)
    tied = EMBEDDING + QUANTIZED in names
    if not tied:
        rows, scales = symmetric(numpy_helper.to_array(table), most)
        graph.initializer.append(numpy_helper.from_array(rows, EMBEDDING + QUANTIZED))
        graph.initializer.append(numpy_helper.from_array(scales, EMBEDDING + SCALE))
    graph.initializer.remove(table)
    gather.input[0] = EMBEDDING + QUANTIZED
    # Before: Gather -> Transpose -> the model, or Gather -> the model if untied. The new nodes are inserted after it.
    last = gather
    if tied:
        last = next(node for node in graph.node if gather.output[0] in node.input)
    result, base = last.output[0], gather.name
    last.output[0] = result + "_int8"
    new = [
        helper.make_node("Cast", [last.output[0]], [result + "_float"], name=base + "/Cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", [EMBEDDING + SCALE, gather.input[1]], [result + "_scale"], name=base + "/Scale"),
        helper.make_node("Unsqueeze", [result + "_scale", "edgekit_last"], [result + "_scales"], name=base + "/Last"),
        helper.make_node("Mul", [result + "_float", result + "_scales"], [result], name=base + "/Mul"),
    ]
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "edgekit_last"))
    at = list(graph.node).index(last) + 1
    for node in reversed(new):
        graph.node.insert(at, node)


def symmetric(rows: NDArray[np.float32], most: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row (n, width) as int8 in [-most, most] and its scale, (n,), as ONNX Runtime's quantizer does it."""
    scales = (np.abs(rows).max(axis=1) / most).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1  # a row of zeros
    return np.clip(np.rint(rows / scales[:, None]), -most, most).astype(np.int8), scales


def _embedding_gather(model: onnx.ModelProto) -> NodeProto:
    gathers = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] == EMBEDDING]
    if len(gathers) != 1:
        raise RuntimeFailure(
            f"the export to ONNX reads {EMBEDDING} {len(gathers)} times: this version is not supported"
        )
    return gathers[0]


def tidy(model: onnx.ModelProto, config: LlamaConfig) -> None:
    """Make the bytes depend on the model only: initializers in the checkpoint's order, no traces of tools; in place."""
    order = {name: i for i, name in enumerate(config.shapes())}
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data"):  # the quantizer writes its zero points as a list of numbers
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    tensors = sorted(model.graph.initializer, key=lambda t: (order.get(weight_of(t.name), len(order)), t.name))
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    used = {node.domain for node in model.graph.node} | {""}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    del model.metadata_props[:]
