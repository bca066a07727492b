"""The reference: plain Hugging Face transformers on PyTorch, float32, against which every other runtime is held.

It opens what `edgekit.convert.open_model` reads: a Hugging Face folder, or a `.gguf` by dequantizing. So the
tensors are checked by name, shape and value before transformers sees them, and no code of the folder ever runs.
Works with transformers 4.48 and later, and 5.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgekit.checkpoint import Checkpoint
from edgekit.convert import open_model
from edgekit.errors import RuntimeFailure
from edgekit.runtime import Logits, check_forward, check_rewind, choose_threads
from edgekit.settings import Running

SUFFIX = ""

# The default of transformers, so what people compare with. It equals `eager` to 1e-6 and decodes a tenth faster.
ATTENTION = "sdpa"


def load(path: Path, settings: Running) -> "TorchRuntime":
    """Open a model folder or a `.gguf`, weights widened to float32.

    PyTorch has one thread pool: `settings.threads` holds for the whole process, and the last model loaded decides.

    Raises:
        FileError: a file cannot be read, or (`CheckpointError`) is damaged or no Llama that edgekit supports.
        MissingExtraError: reading a `.gguf` needs the `gguf` extra.
    """
    checkpoint = open_model(path)
    torch.set_num_threads(choose_threads(settings.threads, 4 * sum(tensor.size for _, tensor in checkpoint)))
    return TorchRuntime(checkpoint)


def build(checkpoint: Checkpoint) -> LlamaForCausalLM:
    """The transformers model of a checkpoint: float32, on the CPU, ready for inference."""
    config = LlamaConfig.from_dict(checkpoint.config.to_dict())
    # Without memory at first: drawing initial weights takes longer than reading the real ones, and it would
    # advance the caller's random generator.
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, attn_implementation=ATTENTION)
    weights = {name: torch.from_numpy(np.array(tensor, np.float32, order="C")) for name, tensor in checkpoint}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected or set(missing) - ({"lm_head.weight"} if checkpoint.config.tie_word_embeddings else set()):
        raise RuntimeFailure(f"{checkpoint.name}: transformers does not know {unexpected} or misses {missing}")
    model.model.rotary_emb = LlamaRotaryEmbedding(config=config)  # computed, not stored: the meta one is empty
    model.tie_weights()
    return model.eval().requires_grad_(False)


class TorchRuntime:
    """A transformers Llama and its `DynamicCache`. See `edgekit.runtime.Runtime`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.vocab_size = checkpoint.config.vocab_size
        self.context_length = checkpoint.config.max_position_embeddings
        self.length = 0
        self.files = checkpoint.files
        self.model = build(checkpoint)
        self._cache = DynamicCache()

    def forward(self, tokens: Sequence[int], *, every: bool = False) -> Logits:
        """Append tokens; float32 logits, (vocab_size,) or (len(tokens), vocab_size). See `Runtime.forward`.

        If PyTorch itself fails (out of memory), the cache is emptied.
        """
        check_forward(self, tokens)
        ids = torch.tensor([[int(token) for token in tokens]])
        with torch.inference_mode():
            try:
                output = self.model.model(input_ids=ids, past_key_values=self._cache, use_cache=True)
                # The head by hand, only where it is wanted: its keyword was renamed between versions of transformers.
                hidden = output.last_hidden_state[0]
                logits = self.model.lm_head(hidden if every else hidden[-1])
            except RuntimeError as error:
                self.rewind(0)  # the layers before the one that failed have appended already
                raise RuntimeFailure(f"PyTorch: {str(error).splitlines()[0]}") from error
        self.length += len(tokens)
        return logits.numpy()

    def rewind(self, length: int) -> None:
        """Keep the first `length` tokens. See `Runtime.rewind`."""
        check_rewind(self, length)
        if length == 0:
            self._cache = DynamicCache()
        elif length < self.length:
            # Transformers 4 also takes the length to keep; 5 only the number of tokens to drop, as a negative.
            self._cache.crop(length - self.length)
        self.length = length
