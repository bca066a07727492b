"""What the initializers of a graph are called: by Hugging Face's names, scales and bytes of a matrix with a suffix."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# What ONNX Runtime's quantizer puts behind the name of a weight.
QUANTIZED, SCALE, ZERO_POINT = "_quantized", "_scale", "_zero_point"

# Constants of the fused graph, not weights: what the angles of its rotation are made of, and a logit for each head.
ROTARY = ("rotary.positions", "rotary.frequencies")
SINKS = "attention.sinks"


def weight_of(name: str) -> str:
    """The Hugging Face name of the tensor that an initializer is, or belongs to."""
    for suffix in (QUANTIZED, SCALE, ZERO_POINT):
        name = name.removesuffix(suffix)
    return name
