"""An ONNX model changed through its protobuf messages."""

import base64
import hashlib
import random

import onnx
import values
from onnx import TensorProto, helper

OPERATORS = ["Loop", "If", "Scan", "Split", "Identity", "MatMul", "Reshape", "Expand", "Tile", "ConstantOfShape",
    "Range", "Pad", "Cast",
             "Gather", "Concat", "Slice", "Where", "Add", "Mul", "NoSuchOp", "RandomNormal",
             "GroupQueryAttention"]  # fmt: skip


def change(rng: random.Random, data: bytes) -> bytes:
    model = onnx.load_model_from_string(data)
    for _ in range(rng.choice([1, 1, 1, 2])):
        rng.choice([_node, _attribute, _attribute, _initializer, _initializer, _metadata, _interface, _graph, _insert])(
            rng, model
        )
    return model.SerializeToString()


def _node(rng: random.Random, model: onnx.ModelProto) -> None:
    nodes = model.graph.node
    node = rng.choice(nodes)
    how = rng.randrange(6)
    if how == 0:
        nodes.remove(node)
    elif how == 1:
        node.op_type = rng.choice(OPERATORS)
    elif how == 2:
        node.domain = rng.choice(["", "com.microsoft", "ai.onnx.ml", "x", "a" * 300])
    elif how == 3 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(
            ["", "x", *rng.choice(nodes).output, rng.choice(model.graph.initializer).name]
        )
    elif how == 4 and node.input:
        del node.input[rng.randrange(len(node.input))]
    elif node.output:
        node.output[0] = rng.choice(["", "logits", rng.choice(nodes).output[0]])


def _attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute)
    how = rng.randrange(5)
    if how == 0:
        node.attribute.remove(attribute)
    elif how == 1:
        attribute.name = rng.choice(["bits", "K", "N", "block_size", "to", "axis", "x"])
    elif how == 2:
        attribute.type = rng.randrange(14)
    elif how == 3:
        attribute.ints.extend(rng.choices([0, -1, 1 << 40], k=3))
    attribute.i = rng.choice([n for n in values.NUMBERS if -(1 << 63) <= n < 1 << 63])
    attribute.f = rng.choice([0, 1e30, float("nan")])


def _initializer(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = rng.choice(model.graph.initializer)
    how = rng.randrange(8)
    if how == 0:
        model.graph.initializer.remove(tensor)
    elif how == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, 1, -1, 2, 1 << 31, 1 << 40, (1 << 63) - 1])
    elif how == 2:
        tensor.data_type = rng.choice([0, *range(1, 24), 99, -1])
    elif how == 3:
        tensor.raw_data = values.raw(rng, tensor.raw_data)
    elif how == 4:
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = (
            "location",
            rng.choice(["weights.bin", "../x", "/etc/passwd", "/dev/zero", "", "a" * 300, "."]),
        )
        entry = tensor.external_data.add()
        entry.key, entry.value = (
            rng.choice(["length", "offset"]),
            rng.choice(["0", "-1", "1" * 400, "1" * 5000, "x", "²"]),
        )
        tensor.ClearField("raw_data")
    elif how == 5:
        tensor.name = rng.choice(["", "x", rng.choice(model.graph.initializer).name])
    elif how == 6:
        tensor.float_data.extend([1.0, 2.0])
    else:
        tensor.dims.append(rng.choice([1, 0, 7]))


def _metadata(rng: random.Random, model: onnx.ModelProto) -> None:
    props = model.metadata_props
    prop = rng.choice(props)
    name = prop.key.removeprefix("edgekit.file.")
    if prop.key.startswith("edgekit.file.") and name.endswith(".json"):
        data = values.json_bytes(rng, base64.b64decode(prop.value))
        prop.value = base64.b64encode(data).decode()
        for other in props:
            if other.key == prop.key + ".sha256":
                other.value = hashlib.sha256(data).hexdigest()
    elif rng.random() < 0.5:
        props.remove(prop)
    else:
        prop.value = rng.choice(["", "x", "{}", "[]", "=", "\0", "a" * 1000])


def _interface(rng: random.Random, model: onnx.ModelProto) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    how = rng.randrange(5)
    if how == 0:
        value.name = rng.choice(["", "x", "logits", "past_key_values.9.key"])
    elif how == 1:
        value.type.tensor_type.elem_type = rng.choice([0, 1, 7, 10, 16, 99])
    elif how == 2:
        value.type.Clear()
    elif how == 3 and value.type.tensor_type.shape.dim:
        rng.choice(value.type.tensor_type.shape.dim).dim_value = rng.choice([0, 1, -1, 1 << 40, 17])
    else:
        value.type.tensor_type.shape.dim.add().dim_value = 3


def _graph(rng: random.Random, model: onnx.ModelProto) -> None:
    how = rng.randrange(5)
    if how == 0 and model.opset_import:
        rng.choice(model.opset_import).version = rng.choice([0, -1, 1, 7, 99, (1 << 62)])
    elif how == 1:
        model.ir_version = rng.choice([0, -1, 1, 3, 99])
    elif how == 2:
        del model.opset_import[:]
    elif how == 3:
        nodes = list(model.graph.node)
        rng.shuffle(nodes)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    else:
        model.functions.append(helper.make_function("x", "F", ["a"], ["a"], [], [helper.make_opsetid("", 17)]))


def _insert(rng: random.Random, model: onnx.ModelProto) -> None:
    """An operator that is not one of ours, in the way of the logits."""
    last = next((n for n in model.graph.node if "logits" in n.output), None)
    if last is None:
        return
    at = list(last.output).index("logits")
    last.output[at] = "before"
    kind = rng.choice(["Loop", "Split", "Identity", "Tile", "Expand"])
    name = f"n{rng.randrange(1 << 20)}"
    if kind == "Loop":
        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])], "body",
            [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("c", 9, []),
            helper.make_tensor_value_info("v", 1, None)],
            [helper.make_tensor_value_info("d", 9, []), helper.make_tensor_value_info("w", 1, None)],
        )  # fmt: skip
        model.graph.initializer.append(helper.make_tensor(name, 7, [], [rng.choice([3, 1 << 40])]))
        model.graph.initializer.append(helper.make_tensor(name + "c", 9, [], [True]))
        model.graph.node.append(helper.make_node("Loop", [name, name + "c", "before"], ["logits"], body=body))
    elif kind == "Split":
        model.graph.node.append(helper.make_node("Split", ["before"], ["logits"], num_outputs=1, axis=0))
    elif kind in ("Tile", "Expand"):
        model.graph.initializer.append(
            helper.make_tensor(name, 7, [3], rng.choice([[1, 1, 1], [1 << 20, 1 << 10, 1], [-1, 0, 1]]))
        )
        model.graph.node.append(helper.make_node(kind, ["before", name], ["logits"]))
    else:
        model.graph.node.append(helper.make_node("Identity", ["before"], ["logits"]))
