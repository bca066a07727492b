"""A text out of any model, in fifteen lines: all that a runtime must answer is `forward` (and `rewind`).

    python examples/embedding/fifteen_lines.py [MODEL [PROMPT]]

It gives what `Model.stream` gives, less stop strings, statistics and the masking of broken characters. The same
fifteen lines drive PyTorch, ONNX Runtime and llama.cpp, or a runtime of your own (CONTRIBUTING.md says how to add one).
"""

import dataclasses
import sys

import edgekit
from edgekit.inference.sampling import Sampler


def tell(model, prompt, most=80):
    """Pieces of text, as they become certain; the model's own defaults say how tokens are chosen."""
    runtime, tokenizer = model.runtime, model.tokenizer
    ids = model.encode(prompt)
    decoder = tokenizer.decoder(ids)
    sampler = Sampler(model.defaults, runtime.vocab_size, seen=ids)
    runtime.rewind(0)
    logits = runtime.forward(ids)
    for left in reversed(range(min(most, runtime.context_length + 1 - len(ids)))):
        token = sampler.choose(logits)
        if token in tokenizer.stop:
            break
        yield decoder.feed(token)
        if left:
            logits = runtime.forward([token])
    yield decoder.flush()


if __name__ == "__main__":
    model = edgekit.load(*sys.argv[1:2])
    model.defaults = dataclasses.replace(model.defaults, seed=7)  # the same text each time, on every runtime
    for piece in tell(model, *(sys.argv[2:3] or ["Once upon a time"])):
        print(piece, end="", flush=True)
    print()
