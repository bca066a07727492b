"""The fused graph: a Llama in about ten nodes per layer, for ONNX Runtime, built from a checkpoint with numpy and onnx.

    embedding -> norm -> n x [QKV -> GroupQueryAttention -> output -> norm -> gate and up -> SiLU x up -> down -> norm]
    -> the requested positions -> head

At 12 M parameters the kernels are fast and everything around them is slow, so there are few nodes: Q, K and V are one
product, gate and up another, a residual and the norm after it one operator, and GroupQueryAttention rotates, attends
and writes keys and values into one buffer that is both its past and its present. Most operators are ONNX Runtime's own
(com.microsoft), so the file runs only there.

inputs   input_ids                     int64 (1, n)
         logit_positions               int64 (k,), which of the n positions get logits; usually the last
         seqlens_k                     int32 (1,), tokens in the cache after this call, less one
         total_sequence_length         int32 (), the same, not less one
         past_key_values.N.key|value   float32 (1, kv_heads, c, head_dim), c >= total_sequence_length; or int8
outputs  logits                        float32 (1, k, vocab_size)
         present.N.key|value           as the past, and best the same memory: then nothing is copied
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from edgekit.converters import _onnx_blocks, _onnx_cache
from edgekit.converters._onnx_names import EMBEDDING, HEAD, QUANTIZED, ROTARY, SCALE, SINKS
from edgekit.converters._onnx_packed import Make, Packed
from edgekit.converters._onnx_types import KINDS, Types, padded, shape_of
from edgekit.converters._onnx_write import Part, Spec
from edgekit.errors import CheckpointError
from edgekit.formats import rope
from edgekit.formats.checkpoint import Checkpoint, LlamaConfig

MICROSOFT = "com.microsoft"

MOST_POSITIONS = 1 << 20
"""Of the tables of rotations, which ONNX Runtime computes when it loads the file."""

# The oldest that have all of these operators: ONNX Runtime 1.20 reads IR version 10 and opset 21.
IR_VERSION, OPSET = 10, 18

# MatMulNBits rounds activations to int8, block by block, and multiplies integers. Level 1 keeps them in float32.
ACCURACY_LEVEL = 4

HALF_MAX = 65504.0

CACHE_ATTRIBUTES: dict[str, Any] = {
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}

# Attention can have one more logit, without a token. With this one, whose exponential is 0, only the kernel changes:
# over an int8 cache flash attention of ONNX Runtime 1.32 is slower than its plain one, which it uses with a sink
# (ORT_GQA_DISABLE_FLASH_ATTENTION=1 has the same times). At 12.3M parameters on one core a step was 1.1 times as fast
# after 32 tokens, 1.15 after 160, 1.2 after 512 and 1.28 after 960, and a prefill as fast. Over a float32 cache steps
# are slower (0.56 times after 960).
NO_SINK = -1e30

F32, F16, U8, I64 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint8), np.dtype(np.int64)


@dataclass
class Fused:
    """A graph and its tensors, in the order of their use."""

    model: ModelProto
    parts: list[Part]

    @property
    def specs(self) -> list[Spec]:
        return [spec for part in self.parts for spec in part.specs]


def build(checkpoint: Checkpoint, types: Types, kv_cache: str = "f32") -> Fused:
    """The graph of a checkpoint; its weights are computed when they are written.

    Args:
        types: how its matrices are stored.
        kv_cache: "f32", or "int8" with the scales of `_onnx_cache.py`.
    """
    graph = _Graph(checkpoint, types, _onnx_cache.Cache(checkpoint) if kv_cache == "int8" else None)
    graph.build()
    model = helper.make_model(
        helper.make_graph(graph.nodes, "llama", graph.inputs, graph.outputs),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
    )
    return Fused(model, graph.parts)


@dataclass
class _Graph:
    checkpoint: Checkpoint
    types: Types
    cache: _onnx_cache.Cache | None
    nodes: list[NodeProto] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)

    @property
    def config(self) -> LlamaConfig:
        return self.checkpoint.config

    @property
    def packed(self) -> Packed:
        return Packed(self.checkpoint)

    def build(self) -> None:
        config = self.config
        self.interface()
        self.rotation()
        skip = self.embedding()
        norms = [f"model.layers.{i}.input_layernorm.weight" for i in range(config.num_hidden_layers)]
        # ONNX Runtime has this operator in the standard's domain, though it is not in the standard.
        normal = self.node(
            "SimplifiedLayerNormalization",
            [skip, self.vector(norms[0])],
            "layers.0.input_layernorm",
            "",
            axis=-1,
            epsilon=config.rms_norm_eps,
        )
        norms.append("model.norm.weight")
        for i in range(config.num_hidden_layers):
            normal, skip = self.layer(i, normal, skip, norms[i + 1])
        hidden = self.node("Gather", [normal, "logit_positions"], "kept", "", axis=1)
        self.head(hidden)

    def interface(self) -> None:
        config, value = self.config, helper.make_tensor_value_info
        integers: Any = (("input_ids", TensorProto.INT64, [1, "sequence_length"]),
                    ("logit_positions", TensorProto.INT64, ["kept_length"]),
                    ("seqlens_k", TensorProto.INT32, [1]),
                    ("total_sequence_length", TensorProto.INT32, []))  # fmt: skip
        self.inputs += [value(*integer) for integer in integers]
        self.outputs.append(value("logits", TensorProto.FLOAT, [1, "kept_length", config.vocab_size]))
        shape: Any = [1, config.num_key_value_heads, "cache_length", padded(config.head_dim)]
        element = TensorProto.FLOAT if self.cache is None else TensorProto.INT8
        for i in range(config.num_hidden_layers):
            for kind in ("key", "value"):
                self.inputs.append(value(f"past_key_values.{i}.{kind}", element, shape))
                self.outputs.append(value(f"present.{i}.{kind}", element, shape))

    def rotation(self) -> None:
        """Cosine and sine of every position's angles, (context, head_dim / 2): transformers' `LlamaRotaryEmbedding`.

        ONNX Runtime computes the two tables once, when it loads the file: stored, they would be 2 % of a 12.3M model.
        """
        config = self.config
        context, half = config.max_position_embeddings, padded(config.head_dim) // 2
        if context > MOST_POSITIONS:
            raise CheckpointError(
                f"a context of {context:,} tokens: a fused graph has a table row for each, at most {MOST_POSITIONS:,}"
            )

        def make() -> list[NDArray]:
            frequencies = np.zeros((1, half), np.float32)
            each = rope.frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
            frequencies[0, : len(each)] = each
            return [np.arange(context, dtype=np.float32)[:, None], frequencies]

        self.parts.append(Part((Spec(ROTARY[0], (context, 1), F32), Spec(ROTARY[1], (1, half), F32)), make))
        angles = self.node("Mul", list(ROTARY), "rotary.angles", "")
        self.node("Cos", [angles], "rotary.cos", "")
        self.node("Sin", [angles], "rotary.sin", "")

    def embedding(self) -> str:
        """The embedding; the name of the first hidden states."""
        config, name = self.config, EMBEDDING
        width, kind = config.hidden_size, self.types.bits(EMBEDDING)
        if kind > 8:
            return self.node(
                "Gather", [self.plain(name, self.packed.get(name), turn=False), "input_ids"], "embedding", ""
            )
        size = self.blocks(name, (config.vocab_size, width), self.packed.get(name), kind)
        # The same bytes and scales as the head's. The scales are reshaped for this operator; ONNX Runtime does that
        # once, when it loads the file.
        scales = self.node("Reshape", [name + SCALE, self.integers("scales_shape", [0, 0, 1])], name + ".scales", "")
        gathered = self.node(
            "GatherBlockQuantized", [name + QUANTIZED, "input_ids", scales], "embedding.blocks",
            bits=kind, block_size=size, gather_axis=0, quantize_axis=2,
        )  # fmt: skip
        flat = self.node("Reshape", [gathered, self.integers("embedding_shape", [0, 0, -1])], "embedding.rows", "")
        if width % size == 0:
            return flat
        ends = [self.integers(f"embedding_{key}", [value]) for key, value in (("from", 0), ("to", width), ("axis", 2))]
        return self.node("Slice", [flat, *ends], "embedding", "")

    def layer(self, i: int, normal: str, skip: str, next_norm: str) -> tuple[str, str]:
        """One layer, and the norm before the next: (normalized, residual), by name."""
        config, packed, name, short = self.config, self.packed, f"model.layers.{i}.", f"layers.{i}."
        heads, kv, epsilon = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
        attn, mlp = name + "self_attn.", name + "mlp."
        shapes = {kind: shape_of(config, kind) for kind in KINDS}
        qkv = self.product(normal, attn + "qkv_proj.weight", shapes["qkv"], packed.qkv(i))
        qkv = self.bias(qkv, attn + "qkv_proj.bias", shapes["qkv"][0], packed.qkv(i, "bias"))
        cache = [f"past_key_values.{i}.{kind}" for kind in ("key", "value")]
        attention = self.node(
            "GroupQueryAttention",
            [qkv, "", "", *cache, "seqlens_k", "total_sequence_length", "rotary.cos", "rotary.sin", *self.scales(i)],
            [short + "attention", f"present.{i}.key", f"present.{i}.value"],
            num_heads=heads, kv_num_heads=kv, do_rotary=1, rotary_interleaved=0, scale=config.head_dim**-0.5,
            **({} if self.cache is None else CACHE_ATTRIBUTES),
        )  # fmt: skip
        out = self.product(attention, attn + "o_proj.weight", shapes["o"], packed.output(i))
        out = self.bias(out, attn + "o_proj.bias", shapes["o"][0], packed.get(attn + "o_proj.bias"))
        normal, skip = self.norm(out, skip, name + "post_attention_layernorm.weight", epsilon)
        both = self.product(normal, mlp + "gate_up_proj.weight", shapes["gate_up"], packed.gate_up(i))
        both = self.bias(both, mlp + "gate_up_proj.bias", shapes["gate_up"][0], packed.gate_up(i, "bias"))
        gate, up = short + "gate", short + "up"
        self.node("Split", [both], [gate, up], "", axis=-1, num_outputs=2)
        activated = self.node("QuickGelu", [gate], short + "silu", alpha=1.0)  # x * sigmoid(alpha * x)
        multiplied = self.node("Mul", [activated, up], short + "gated", "")
        down = self.product(multiplied, mlp + "down_proj.weight", shapes["down"], packed.get(mlp + "down_proj.weight"))
        down = self.bias(down, mlp + "down_proj.bias", shapes["down"][0], packed.get(mlp + "down_proj.bias"))
        return self.norm(down, skip, next_norm, epsilon, last=i + 1 == config.num_hidden_layers)

    def scales(self, i: int) -> list[str]:
        """The additional inputs of attention over an int8 cache: two unused ones, a sink, the scales of a layer."""
        cache, config = self.cache, self.config
        if cache is None:
            return []
        names = (f"layers.{i}.key_scales", f"layers.{i}.value_scales")
        heads, wide = config.num_key_value_heads, padded(config.head_dim)

        def make() -> list[NDArray]:
            keys, values = (scales.reshape(-1, 1) for scales in cache.scales(i))
            both = self.packed.pad(keys, heads, 2), self.packed.pad(values, heads, 1)
            # The padding of a head is 0 at any scale, but a scale of 0 would be invalid.
            return [np.where(x > 0, x, np.float32(1)).reshape(1, heads, 1, wide) for x in both]

        self.parts.append(Part(tuple(Spec(name, (1, heads, 1, wide), F32) for name in names), make))
        if i == 0:
            sinks = np.full(config.num_attention_heads, NO_SINK, np.float32)
            self.parts.append(Part((Spec(SINKS, sinks.shape, F32),), lambda: [sinks]))
        return ["", "", SINKS, *names]

    def head(self, hidden: str) -> None:
        config, tied = self.config, self.config.tie_word_embeddings
        name = EMBEDDING if tied else HEAD
        shape, kind = (config.vocab_size, config.hidden_size), self.types.bits(name)
        if not tied:
            self.product(hidden, name, shape, self.packed.get(name), "logits")
        elif kind > 8:
            # The embedding's own table, (vocab, hidden), transposed by the operator.
            table = name if kind == 32 else name + ".float32"
            self.node("FusedMatMul", [hidden, table], "logits", transB=1)
        else:
            self.multiply(hidden, name, shape, kind, self.types.size(name, shape[1]), "logits")

    def bias(self, x: str, name: str, length: int, make: Make) -> str:
        """x plus a vector, if the model has biases there; the name of the sum."""
        if not (self.config.attention_bias if "self_attn" in name else self.config.mlp_bias):
            return x
        self.parts.append(Part((Spec(name, (length,), F32),), lambda: [make().reshape(-1)]))
        return self.node("Add", [x, name], re.sub(r"^model\.|self_attn\.|mlp\.|_proj", "", name), "")

    # ------------------------------------------------------------------------- nodes

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: str | list[str],
        domain: str = MICROSOFT,
        **attributes: Any,
    ) -> str:
        """Append a node; the name of its first output."""
        names = [outputs] if isinstance(outputs, str) else outputs
        self.nodes.append(
            helper.make_node(operator, inputs, names, f"{operator}_{len(self.nodes)}", domain=domain, **attributes)
        )
        return names[0]

    def norm(self, x: str, skip: str, weight: str, epsilon: float, *, last: bool = False) -> tuple[str, str]:
        """x + skip normalized, and the sum itself, which is not needed after the last one."""
        short = weight.removeprefix("model.").removesuffix(".weight")
        outputs = [short] if last else [short, "", "", short + ".sum"]
        self.node("SkipSimplifiedLayerNormalization", [x, skip, self.vector(weight)], outputs, epsilon=epsilon)
        return short, outputs[-1]

    def product(self, x: str, name: str, shape: tuple[int, ...], make: Make, out: str = "") -> str:
        """x times the transpose of a matrix (out, in), stored according to `quant`."""
        out = out or re.sub(r"^model\.|self_attn\.|mlp\.|_proj\.weight$", "", name)
        kind = self.types.bits(name)
        if kind > 8:
            return self.node("MatMul", [x, self.plain(name, make, shape)], out, "")
        return self.multiply(x, name, shape, kind, self.blocks(name, shape, make, kind), out)

    def multiply(self, x: str, name: str, shape: tuple[int, ...], kind: int, size: int, out: str) -> str:
        return self.node(
            "MatMulNBits", [x, name + QUANTIZED, name + SCALE], out,
            N=shape[0], K=shape[1], bits=kind, block_size=size, accuracy_level=ACCURACY_LEVEL,
        )  # fmt: skip

    # ------------------------------------------------------------------------- tensors

    def vector(self, name: str) -> str:
        self.parts.append(Part((Spec(name, self.config.shapes()[name], F32),), lambda: [self.checkpoint.float32(name)]))
        return name

    def integers(self, name: str, values: list[int]) -> str:
        self.parts.append(Part((Spec(name, (len(values),), I64),), lambda: [np.array(values, np.int64)]))
        return name

    def plain(
        self,
        name: str,
        make: Make,
        shape: tuple[int, ...] = (),
        *,
        turn: bool = True,
    ) -> str:
        """A matrix (out, in) in float32 or float16, transposed as MatMul needs it if `turn`; the name as float32."""
        shape = shape or self.config.shapes()[name]
        half = self.types.bits(name) == 16

        def values() -> list[NDArray]:
            rows = make()
            if half and float(np.abs(rows).max()) > HALF_MAX:
                raise CheckpointError(f"tensor {name} has a value of {np.abs(rows).max():.4g}, more than fp16 can hold")
            return [(rows.T if turn else rows).astype(F16 if half else F32)]

        self.parts.append(Part((Spec(name, shape[::-1] if turn else shape, F16 if half else F32),), values))
        if not half:
            return name
        # ONNX Runtime does this once, when it loads the file.
        return self.node("Cast", [name], name + ".float32", "", to=TensorProto.FLOAT)

    def blocks(self, name: str, shape: tuple[int, ...], make: Make, kind: int) -> int:
        """A matrix (out, in) in blocks; returns their length."""
        size = self.types.size(name, shape[1])
        count = -(-shape[1] // size)
        specs = (
            Spec(name + QUANTIZED, (shape[0], count, size * kind // 8), U8),
            Spec(name + SCALE, (shape[0], count), F32),
        )
        self.parts.append(Part(specs, lambda: _onnx_blocks.quantize(make(), kind, size)))
        return size
