"""Five hundred texts on which tokenizers are compared: the same for the same special tokens, on every machine."""

import random
from collections.abc import Iterable

COUNT = 500
MOST_NAMES = 12
"""Special tokens of which texts are made; of more, those spread evenly over the list."""

PARTS = (
    # words and contractions
    *"the The THE cat mouse's don't DON'T we'll WE'LL I'm it's you've he'd 'tis rock'n'roll littlest unread".split(),
    *"NewHTTPServer camelCase snake_case_name McDonald iPhone Straße naïve café ÉCOLE İstanbul ǅ Ⅷ".split(),
    *" the| Once upon a time| there was| girl.| I| a| He said, \"Go!\"|“Quotes” – dashes…|hello world".split("|"),
    # digits and punctuation
    *"0 7 12 123 1234 12345 1234567 3.14 1,234.56 2024-11-28 50% $9.99 1st x2 ½ ² １２ ٣".split(),
    *". , ... !? -- --- == != += /* */ // () [] {} <> <<>> @ # & _ __ ~ ` ^ | \\ ;: '' \"\" ' \"".split(),
    # white space
    *(" ", "  ", "   ", "    ", "        ", "\n", "\n\n", "\n\n\n", " \n", "\n ", "  \n  ", "\r\n", "\t", "\t\t"),
    *(" \t ", "\u00a0", "\u3000", "\u2009", "\u200b", "\u2028", "\x85"),
    # code and the net
    *("def f(x):\n    return x + 1", "if (x == 1) { y[0]++; }", "for(int i=0;i<n;i++)", "</div>", "\\n", "a.b.c()"),
    *("https://example.com/a?b=c&d=%20", "name@example.com", "C:\\Users", "#include <stdio.h>", "x->y", "λx.x"),
    # other scripts, marks and symbols
    *("日本語", "中文字", "한국어", "Привет МИР", "مرحبا", "שלום", "हिन्दी", "ไทย", "ελληνικά", "Việt"),
    *("e\u0301", "é", "ﬁ", "Ａｂ", "ℵ", "™", "€", "→", "∑", "\u0301", "\ufeff", "\u202e", "\ufffd", "\x07", "\x7f"),
    *("🙂", "👩‍👩‍👧", "🇫🇷", "👍🏽", "❤️", "𝔘", "𐍈", "▁", "▁the", "Ġ", "Ġthe", "<0x41>", "##ing"),
)  # fmt: skip


def sample_texts(names: Iterable[str] = ()) -> list[str]:
    """`COUNT` texts: every part by itself, then mixtures.

    Args:
        names: special tokens, which some of the texts contain.
    """
    names = [name for name in dict.fromkeys(names) if name]
    names = names[:: max(1, -(-len(names) // MOST_NAMES))]
    texts = [*PARTS, "".join(PARTS), *(text for name in names for text in _around(name))]
    choose = random.Random(0)
    while len(texts) < COUNT:
        parts = choose.choices(PARTS, k=choose.randint(2, 12))
        texts.append(choose.choice(("", " ", " ", " ")).join(parts))
    return texts[:COUNT]


def _around(name: str) -> tuple[str, ...]:
    return name, f"a{name}b", f"a {name} b", f" {name}\n{name} x", f"{name[:-1]} {name[1:]}"
