"""What an ONNX graph is made of, checked before ONNX Runtime gets it: operators, subgraphs, files outside the model.

A graph is a program that came with a model: loops without end, and operators on which ONNX Runtime ends the process. A
Llama needs few operators, so each of edgekit's two interfaces has a list. The file is walked without the package `onnx`
(onnx.proto has the numbers of fields); protobuf merges repeated messages, so what occurs twice is checked
twice.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import CheckpointError
from edgekit.formats.protobuf import fields, message, number, text

GRAPH, FUNCTIONS = 7, 25  # of a ModelProto
NODE, INITIALIZER, INPUT, SPARSE = 1, 5, 11, 15  # of a GraphProto
NODE_INPUT, OPERATOR, ATTRIBUTE, DOMAIN = 1, 4, 5, 7  # of a NodeProto
NAME, INT, TENSOR, SUBGRAPH, TENSORS, SUBGRAPHS = 1, 3, 5, 6, 10, 11  # of an AttributeProto
TENSOR_NAME, EXTERNAL_DATA = 8, 13  # of a TensorProto

DOMAINS = ("", "ai.onnx", "com.microsoft")
FUSED = frozenset(
    """Add Cast Cos FusedMatMul Gather GatherBlockQuantized GroupQueryAttention MatMul MatMulNBits Mul QuickGelu Reshape
    SimplifiedLayerNormalization Sin SkipSimplifiedLayerNormalization Slice Split Transpose Unsqueeze
    DequantizeLinear""".split()
)
"""Of `edgekit convert --to onnx`, all versions."""
PORTABLE = FUSED | frozenset(
    """Abs And Attention CastLike Ceil Clip Concat Constant ConstantOfShape CumSum Div DynamicQuantizeLinear
    DynamicQuantizeMatMul Einsum Equal Erf Exp Expand FastGelu Flatten Floor FusedGemm GatherElements GatherND Gelu Gemm
    Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual Log MatMulInteger MatMulIntegerToFloat Max
    Min Mod MultiHeadAttention Neg Not Or Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceMax ReduceMean
    ReduceMin ReduceSum RotaryEmbedding Round ScatterElements ScatterND Shape Sigmoid Sign SkipLayerNormalization
    Softmax Sqrt Squeeze Sub Swish Tanh Tile Trilu Where""".split()
)
"""Of optimum's, torch's and transformers.js' exports of a Llama, quantized or not."""
BRANCH = "use_cache_branch"
"""The one condition of the one `If` of optimum's merged decoders."""


def check(path: Path, data: memoryview) -> None:
    """Refuse a graph that edgekit would not run, and data outside the model's folder.

    Args:
        data: the file's bytes.

    Raises:
        CheckpointError: names the operator or the file.
    """
    try:
        graphs = []
        for field, value in fields(data):
            if field == FUNCTIONS:
                raise CheckpointError(f"{path} defines functions of its own, which edgekit does not run")
            if field == GRAPH:
                graphs.append(message(value))
        allowed = FUSED if any("seqlens_k" in _inputs(graph) for graph in graphs) else PORTABLE
        for graph in graphs:
            _graph(path, graph, allowed, inner=False)
    except ValueError as error:
        raise CheckpointError(f"{path} is not a whole ONNX file: it is cut off or damaged") from error


def _inputs(graph: memoryview) -> set[str]:
    return {
        text(value)
        for field, info in fields(graph)
        if field == INPUT
        for key, value in fields(message(info))
        if key == NAME
    }


def _graph(path: Path, graph: memoryview, allowed: frozenset[str], *, inner: bool) -> None:
    for field, value in fields(graph):
        if field == NODE:
            _node(path, message(value), allowed, inner=inner)
        elif field == INITIALIZER:
            _tensor(path, message(value))
        elif field == SPARSE:
            raise CheckpointError(f"{path} has sparse tensors, which edgekit does not run")


def _node(path: Path, node: memoryview, allowed: frozenset[str], *, inner: bool) -> None:
    operators, inputs, attributes = [], [], []
    for field, value in fields(node):
        if field == OPERATOR:
            operators.append(text(value))
        elif field == NODE_INPUT:
            inputs.append(text(value))
        elif field == ATTRIBUTE:
            attributes.append(message(value))
        elif field == DOMAIN and (domain := text(value)) not in DOMAINS:
            raise CheckpointError(f"{path} has operators of the domain {domain!r:.60}, which edgekit does not run")
    is_branch = operators == ["If"] and allowed is PORTABLE and inputs == [BRANCH] and not inner
    for name in operators:
        if name not in allowed and not is_branch:
            raise CheckpointError(f"{path} has the operator {name!r:.60}, which is in no graph that edgekit runs")
    for attribute in attributes:
        name, values = "", []
        for field, value in fields(attribute):
            if field == NAME:
                name = text(value)
            elif field == INT:
                values.append(number(value))
            elif field in (TENSOR, TENSORS):
                _tensor(path, message(value))
            elif field in (SUBGRAPH, SUBGRAPHS):
                if not is_branch:
                    raise CheckpointError(f"{path} has a graph inside its operator {operators[:1]}: edgekit runs none")
                _graph(path, message(value), allowed, inner=True)
        # ONNX Runtime ends the process.
        if "Split" in operators and name == "num_outputs" and any(count < 2 for count in values or [0]):
            raise CheckpointError(f"{path} has a Split into {values[-1] if values else 0} parts: the file is damaged")


def _tensor(path: Path, tensor: memoryview) -> None:
    """Refuse a tensor whose data is in a file outside the model's folder, or in none."""
    name, locations = "", []
    for field, value in fields(tensor):
        if field == TENSOR_NAME:
            name = text(value)
        elif field == EXTERNAL_DATA:
            entry = dict(_texts(message(value)))
            locations += [entry.get(2, "")] if entry.get(1) == "location" else []
    for location in locations:
        outside = not location or "\0" in location or "\\" in location or ".." in Path(location).parts
        if outside or os.path.isabs(location):
            raise CheckpointError(f"{path}: tensor {name!r:.60} is in {location!r:.80}, outside the model's folder")
        try:
            regular = stat.S_ISREG(os.stat(path.absolute().parent / location).st_mode)
        except OSError:
            regular = False
        if not regular:
            raise CheckpointError(f"{path} needs {location!r:.80} next to it, which is missing: download it, too")


def _texts(entry: memoryview) -> Iterator[tuple[int, str]]:
    for field, value in fields(entry):
        yield field, text(value)
