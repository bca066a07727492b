"""Names of a graph's initializers: Hugging Face's, with a suffix for the scales and bytes of a matrix."""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# Suffixes that ONNX Runtime's quantizer appends to the name of a weight.
QUANTIZED, SCALE, ZERO_POINT = "_quantized", "_scale", "_zero_point"

# Constants of the fused graph, not weights: positions and frequencies of the rotation, and a logit for each head.
ROTARY = ("rotary.positions", "rotary.frequencies")
SINKS = "attention.sinks"


def weight_of(name: str) -> str:
    """The Hugging Face name of the tensor of an initializer, which may be its scales or zero points."""
    for suffix in (QUANTIZED, SCALE, ZERO_POINT):
        name = name.removesuffix(suffix)
    return name
