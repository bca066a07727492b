"""Settings of `verify`, and of the measurement that every conversion makes of its own artefact."""

from dataclasses import dataclass

from edgekit.settings import Checked, setting


@dataclass(frozen=True)
class Verifying(Checked):
    """How artefacts are compared with the model they were made from."""

    tokens: int = setting(2048, "Use at most this many tokens of text.", ge=2)
    window: int = setting(
        256, "Tokens of a window, at most the context; every window starts with an empty cache.", ge=2
    )
    greedy: int = setting(64, "Tokens of each greedy text to compare; 0 writes none.", ge=0)
    prompts: int = setting(4, "Number of greedy texts, each from another position in the text.", ge=1)
    layers: bool = setting(False, "Compare layer by layer, and name the first that differs.")
    max_kl: float | None = setting(None, "Fail if the mean KL exceeds this, in nats a token.", ge=0)
    kv_type: str = setting(
        "f32",
        "Type of llama.cpp's KV cache; f32 measures the conversion alone, f16 also the cache that `edgekit run` uses.",
        choices=("f16", "f32"),
    )
    threads: int | None = setting(
        None, "CPU threads; default: by the size of the model, at most the physical cores.", ge=1, le=1024
    )


SHORT = Verifying(tokens=256, greedy=24, prompts=2, threads=1)
"""What a conversion measures of its artefact: about a second for 12 million parameters. One thread, so that the figures
are the same on every machine of one kind, and a busy core costs no more than its share."""
