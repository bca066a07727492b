"""The reference: plain Hugging Face transformers, float32, with which every other runtime is compared.

The tensors have been checked by name, shape and value before transformers sees them, and no code of the model's folder
ever runs. Works with transformers 4.48 and later, and 5. Imported on request only: transformers takes longer to import
than PyTorch, and the fast path does not use it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgekit.errors import RuntimeFailure
from edgekit.formats.checkpoint import Checkpoint

# The default of transformers, so what people compare with. It equals `eager` to 1e-6 and decodes a tenth faster.
ATTENTION = "sdpa"


def build(checkpoint: Checkpoint) -> LlamaForCausalLM:
    """The transformers model of a checkpoint: float32, on the CPU, ready for inference."""
    config = LlamaConfig.from_dict(checkpoint.config.to_dict())
    # Without memory at first: drawing initial weights takes longer than reading the real ones, and it would advance the
    # caller's random generator.
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION)
    weights = {name: torch.from_numpy(np.array(tensor, np.float32, order="C")) for name, tensor in checkpoint}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected or set(missing) - ({"lm_head.weight"} if checkpoint.config.tie_word_embeddings else set()):
        raise RuntimeFailure(f"{checkpoint.name}: transformers does not know {unexpected} or misses {missing}")
    model.model.rotary_emb = LlamaRotaryEmbedding(config=config)  # computed, not stored: on `meta` it is empty
    model.tie_weights()
    return model.eval().requires_grad_(False)


class ReferenceLlama:
    """A transformers Llama and its `DynamicCache`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = build(checkpoint)
        self._cache, self._length = DynamicCache(), 0

    def append(self, tokens: Sequence[int], start: int, every: bool) -> Tensor:
        """float32 logits (vocab_size,) or (len(tokens), vocab_size); the tokens follow the first `start`."""
        self._keep(start)
        ids = torch.tensor([tokens])
        self._length = -1  # until done: the layers before one that fails have already appended
        # By position: the cache is `past_key_values` in transformers 4 and `cache` in 5.
        output = self.model.model(ids, None, None, self._cache, use_cache=True)
        # The head is applied by hand where it is needed: its keyword was renamed between versions of transformers.
        hidden = output.last_hidden_state[0]
        logits = self.model.lm_head(hidden if every else hidden[-1])
        self._length = start + len(tokens)
        return logits

    def holds(self, length: int) -> int:
        """How many of `length` tokens are still cached after a failed `append`: none."""
        return length if self._length >= length else 0

    def _keep(self, length: int) -> None:
        if length == 0:
            self._cache = DynamicCache()
        elif length < self._length:
            # Transformers 4 also takes the length to keep; 5 only the number of tokens to drop, as a negative.
            self._cache.crop(length - self._length)
        self._length = length
