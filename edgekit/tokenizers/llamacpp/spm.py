"""How llama.cpp joins the characters of a text in a `llama` vocabulary, in plain Python: what its files mean.

Of all neighbours whose joined text is a token, those of the best score are joined, at equal scores the leftmost. A
`tokenizer.json` has ranks instead, and no two pairs of the same rank: where scores are equal, only this says what
llama.cpp does (llama-vocab.cpp, llm_tokenizer_spm_session).
"""

import heapq
from collections.abc import Mapping


def encode(text: str, ids: Mapping[str, int], scores: Mapping[str, float], unknown: int | None) -> list[int]:
    """The ids of a text without special tokens; its spaces are `▁` already.

    Args:
        ids: token -> id, byte tokens (`<0x41>`) included.
        scores: token -> score.
        unknown: for bytes without a token; None leaves them out.
    """
    parts, after = list(text), list(range(1, len(text) + 1))
    before = [i - 1 for i in range(len(text))]
    queue: list[tuple[float, int, int, str]] = []

    def add(left: int, right: int) -> None:
        if left >= 0 and right < len(parts) and (joined := parts[left] + parts[right]) in ids:
            heapq.heappush(queue, (-scores[joined], left, right, joined))

    for i in range(1, len(parts)):
        add(i - 1, i)
    while queue:
        _, left, right, joined = heapq.heappop(queue)
        if not parts[left] or not parts[right] or parts[left] + parts[right] != joined:
            continue
        parts[left], parts[right], after[left] = joined, "", after[right]
        if after[left] < len(parts):
            before[after[left]] = left
        add(before[left], left)
        add(left, after[left])
    found: list[int] = []
    for part in filter(None, parts):
        if part in ids:
            found.append(ids[part])
            continue
        codes = [ids.get(f"<0x{byte:02X}>", ids.get(chr(byte), unknown)) for byte in part.encode()]
        found += [id for id in codes if id is not None]
    return found


def tied(scores: Mapping[str, float]) -> bool:
    """Whether two tokens of several characters have the same score."""
    joined = [score for text, score in scores.items() if len(text) > 1]
    return len(set(joined)) < len(joined)
