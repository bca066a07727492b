"""A text from any model, token by token, in fifteen lines of the public API.

    python examples/embedding/fifteen_lines.py [MODEL [PROMPT]]

The text goes to stdout as it becomes certain; what the model thought of it goes to stderr. The same fifteen lines drive
PyTorch, ONNX Runtime and llama.cpp, or a runtime of your own (CONTRIBUTING.md shows how to add one).
"""

import dataclasses
import sys

import edgekit


def tell(model, prompt, limit=80):
    """Yield pieces of text as they become certain; the model's own defaults decide how tokens are chosen."""
    stream = model.stream(prompt, max_new_tokens=limit, logprobs=0)
    nats = 0.0
    try:
        for step in stream.steps():
            nats -= step.logprob.logprob  # the token's log-probability under the model
            if step.text:  # empty while a character is unfinished
                yield step.text
    finally:
        stream.close()  # also if the caller stops early
    result = stream.result
    rarest = min(result.logprobs, key=lambda entry: entry.logprob)
    text = model.tokenizer.decode([rarest.token])
    print(f"\n{len(result.tokens)} tokens, {nats / len(result.tokens):.2f} nats each", file=sys.stderr)
    print(f"least expected: {text!r} at {-rarest.logprob:.1f} nats; ended by {result.finish_reason}", file=sys.stderr)


if __name__ == "__main__":
    model = edgekit.load(*sys.argv[1:2])
    model.defaults = dataclasses.replace(model.defaults, seed=7)  # the same text each time, on every runtime
    for piece in tell(model, *(sys.argv[2:3] or ["Once upon a time"])):
        print(piece, end="", flush=True)
    print()
