"""A text on its way to the terminal, and its statistics."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgekit.inference.generate import Generation, Stream
    from edgekit.inference.speculative.speculation import DraftStats


def write(piece: str) -> None:
    click.echo(piece, nl=False)
    sys.stdout.flush()


def show(stream: "Stream", *, quiet: bool = False) -> bool:
    """Print a text as it comes, without a last newline. Returns False if Ctrl-C ended it; `quiet` prints nothing."""
    try:
        for piece in stream:
            if not quiet:
                write(piece)
    except KeyboardInterrupt:
        stream.close()
        return False
    return True


def notes(result: "Generation", context_length: int) -> list[str]:
    """What the user should know about an answer to a conversation."""
    lines = []
    if count := result.dropped_messages:
        messages = f"the {count} oldest messages" if count > 1 else "the oldest message"
        lines.append(f"[{messages} left out: the context holds {context_length} tokens]")
    if result.finish_reason == "length":
        lines.append(f"[cut off after {len(result.tokens)} tokens: see --max-new-tokens]")
    return lines


def statistics(result: "Generation") -> str:
    t = result.timings
    drafted = "" if result.draft is None else "\n" + _draft_statistics(result.draft)
    reused = f" ({t.reused_tokens} of them in the cache)" if t.reused_tokens else ""
    return (
        f"load {1000 * t.load:.0f} ms · first token {1000 * t.first_token:.1f} ms · "
        f"prefill {t.prompt_tokens} tokens{reused} {_rate(t.prefill_rate)}/s · "
        f"decode {t.new_tokens} tokens {_rate(t.decode_rate)}/s · {result.finish_reason} · seed {result.seed}"
        f"{drafted}"
    )


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _draft_statistics(d: "DraftStats") -> str:
    line = f"draft ({d.kind}) · {d.accepted} of {d.drafted} drafted tokens accepted"
    line += f" ({100 * d.acceptance:.0f} %)" if d.drafted else ""
    line += f" · {d.tokens_per_call:.2f} tokens per call of the model"
    if d.speedup is not None:
        step = f"{1000 * d.plain_step:.2f} ms"
        line += f" · estimated speed-up {d.speedup:.2f} (against one-token calls of {step}, measured in this text)"
    if d.rests:
        line += f" · did not pay: stopped {d.rests} time{'s' if d.rests > 1 else ''}"
        line += ", at the end as well" if d.resting else ""
    return line
