"""References for exported graphs: Hugging Face's model in float32, and the distance of logits from it."""

import numpy as np
import pytest


def hugging_face(folder):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def hf_logits(folder, tokens):
    """float32 (tokens, vocab_size)."""
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        return hugging_face(folder)(torch.tensor([tokens])).logits[0].numpy()


def log_softmax(x):
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(source, got):
    """Mean KL(source || got) in nats, and the share of positions with the same likeliest token."""
    p, q = log_softmax(source), log_softmax(got)
    return float((np.exp(p) * (p - q)).sum(-1).mean()), float((source.argmax(-1) == got.argmax(-1)).mean())
