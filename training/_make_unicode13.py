"""Print the two tables of edgekit/tokenizers/tokenmonster/unicode13.py. Run it with Python 3.9 or 3.10, whose
`unicodedata` is the Unicode Character Database 13.0.0; it needs nothing else and refuses any other version.

    python3.10 training/_make_unicode13.py
"""

import itertools
import re
import sys
import textwrap
import unicodedata

CLASSES = {"Lu": "u", "Ll": "l", "Lt": "t", "Lm": "t", "Lo": "t", "Nd": "n", "Nl": "n", "No": "n",
           "Mn": "m", "Mc": "s", "Me": "s", "Cn": "-"}  # fmt: skip


def category_runs() -> str:
    """Every code point's class in order, run-length coded: `u26` is 26 times u; `z5` is `ul` five times."""
    classes = "".join(CLASSES.get(unicodedata.category(chr(point)), "o") for point in range(0x110000))
    counted = ((kind, len(list(run))) for kind, run in itertools.groupby(classes))
    runs = "".join(kind + (str(count) if count > 1 else "") for kind, count in counted)
    return re.sub(r"(?:ul(?!\d)){3,}", lambda match: f"z{len(match[0]) // 2}", runs)


def starters_that_compose() -> str:
    """Code points of combining class 0 that are the second of a canonical composition pair, except Hangul jamo."""
    seconds = set()
    for point in range(0x110000):
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and not parts[0].startswith("<") and unicodedata.normalize("NFC", chr(point)) == chr(point):
            seconds.add(chr(int(parts[1], 16)))
    return "".join(sorted(char for char in seconds if not unicodedata.combining(char)))


if __name__ == "__main__":
    if unicodedata.unidata_version != "13.0.0":
        sys.exit(f"this Python has Unicode {unicodedata.unidata_version}; run with Python 3.9 or 3.10 (13.0.0)")
    lines = textwrap.wrap(category_runs(), 112, break_on_hyphens=False)
    sys.stdout.write("_RUNS = (\n" + "".join(f'    "{line}"\n' for line in lines) + ")\n")
    starters = starters_that_compose()
    lines = [ascii(starters[start : start + 10])[1:-1] for start in range(0, len(starters), 10)]
    sys.stdout.write("_COMPOSING = (\n" + "".join(f'    "{line}"\n' for line in lines) + ")\n")
