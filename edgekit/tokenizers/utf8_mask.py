"""Which ids may come next so that U+FFFD is never printed: the mask of `ban_replacement`.

A token is bytes, and a token may end inside a character that the next one finishes. An id is allowed if the text stays
well-formed UTF-8 after it and any unfinished character can still be finished by existing tokens. This is a walk through
a small automaton over classes of bytes: the UTF-8 automaton of the Unicode Standard's table 3-7, extended by the delete
markers of TokenMonster's capcode, which can remove bytes from a character or join what is on both sides of them. All
tokens walk at once, one numpy step per byte position; a mask is computed once per state of the decoder and cached. A
token that spells U+FFFD itself (EF BF BD) is banned too.
"""

import functools
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

# Classes of byte values. ASCII is 0; 1 and 2 are the capcode markers, at levels that have them.
ASCII, DELETE, SILENT = range(3)
C80, C90, CA0, CBD, CBE, CBF = range(3, 9)  # continuation bytes, from this value up
TWO, E0, THREE, ED, EF, F0, FOUR, F4, NEVER, NOTHING = range(9, 19)  # lead bytes; bytes never legal; no byte at all
CONTINUATION = range(C80, CBF + 1)

# Transitions: state -> class -> state. "" is between characters; a digit is the number of continuation bytes to come.
NEXT: dict[str, dict[int, str]] = {
    "": {ASCII: "", DELETE: "", SILENT: "", TWO: "1", E0: "E0", THREE: "2", ED: "ED", EF: "EF", F0: "F0", FOUR: "3",
         F4: "F4"},
    "1": dict.fromkeys(CONTINUATION, ""),
    "2": dict.fromkeys(CONTINUATION, "1"),
    "3": dict.fromkeys(CONTINUATION, "2"),
    "E0": dict.fromkeys((CA0, CBD, CBE, CBF), "1"),
    "ED": dict.fromkeys((C80, C90), "1"),
    "EF": dict.fromkeys((C80, C90, CA0, CBD, CBE), "1") | {CBF: "EFBF"},
    "EFBF": dict.fromkeys((C80, C90, CA0, CBE, CBF), ""),  # all but BD: that would be U+FFFD itself
    "F0": dict.fromkeys((C90, CA0, CBD, CBE, CBF), "2"),
    "F4": {C80: "2"},
}  # fmt: skip

# (out,): `out` is the state of the printed bytes. (out, "D"): a delete marker is pending. (whole, broken, raw): the
# marker deletes a character of which `raw` has been read; the output's state is `whole` if it proves well-formed, else
# `broken` (then only its first byte was deleted, and the others are printed; None if that makes U+FFFD).
State = tuple[str | None, ...]
START: State = ("",)
DEAD = 0  # index of "U+FFFD was printed" in the tables


class Machine:
    """The automaton for one capcode level.

    Attributes:
        classes: uint8 (256,), the class of each byte value.
        strict: int16 (states, classes), the next state; DEAD once the output is ill-formed.
        real: the same as nested lists, to follow what a decoder has actually read: it prints U+FFFD and continues.
        clean: bool (states,), whether a text may end here.
        start: index of the state at the beginning of a text.
    """

    def __init__(self, level: int):
        self.level = level
        self.classes = np.array([byte_class(value, level) for value in range(256)], np.uint8)
        self.start = DEAD + 1
        states: dict[State, int] = {START: self.start}
        known = {ASCII, *self.classes.tolist()}
        strict, self.real = [[DEAD] * (NOTHING + 1)], [[DEAD] * (NOTHING + 1)]
        for state in iter_growing(states):
            rows: list[list[int]] = []
            for forgiving in (False, True):
                row = []
                for kind in range(NOTHING):
                    after = self.step(state, kind, forgiving) if kind in known else None
                    row.append(DEAD if after is None else states.setdefault(after, len(states) + 1))
                rows.append([*row, states[state]])
            strict.append(rows[0])
            self.real.append(rows[1])
        self.strict = np.array(strict, np.int16)
        self.clean = np.array([False, *(len(state) < 3 and state[0] == "" for state in states)])

    def step(self, state: State, kind: int, forgiving: bool) -> State | None:
        """The state after one byte; None if U+FFFD was printed, which a forgiving machine never returns."""
        if len(state) == 1:
            if kind == DELETE:
                return (state[0], "D")
            return state if kind == SILENT else _some(printed(state[0], kind, forgiving))
        if len(state) == 2:
            out = state[0]
            if self.level == 1:
                return (out,)  # level 1 deletes one byte of any kind
            if kind in (DELETE, SILENT):
                return state  # markers of capitals leave the deletion pending
            raw = NEXT[""].get(kind)
            return (out, out, raw) if raw else (out,)
        whole, broken, raw = state
        assert raw is not None
        after = NEXT[raw].get(kind) if (raw, kind) != ("EFBF", CBD) else ""
        if after == "":
            return (whole,)
        if after is not None:
            return (whole, printed(broken, kind, False), after)  # not printed yet, but it would be U+FFFD
        if broken is None and not forgiving:
            return None
        return self.step((broken or "",), kind, forgiving)  # continuation bytes were printed: nothing is pending


def printed(out: str | None, kind: int, forgiving: bool) -> str | None:
    """The state of the output after one more byte is printed; None once it is ill-formed."""
    after = None if out is None else NEXT[out].get(kind)
    if after is not None or not forgiving:
        return after
    # U+FFFD replaced what came before; this byte begins a new character, or is replaced too.
    return NEXT[""].get(kind, "")


def byte_class(value: int, level: int) -> int:
    """The class of a byte value; markers are those of the capcode level."""
    if value < 0x80:
        if level == 1 and value == 0x7F or level == 2 and value == ord("D"):
            return DELETE
        return SILENT if level == 2 and value in b"CW" else ASCII
    if value < 0xC0:
        bounds = (0x80, 0x90, 0xA0, 0xBD, 0xBE, 0xBF)
        return C80 + sum(value >= bound for bound in bounds) - 1
    singles = {0xC0: NEVER, 0xC1: NEVER, 0xE0: E0, 0xED: ED, 0xEF: EF, 0xF0: F0, 0xF4: F4}
    ranges = TWO if value < 0xE0 else THREE if value < 0xF0 else FOUR if value < 0xF4 else NEVER
    return singles.get(value, ranges)


@functools.cache
def machine(level: int) -> Machine:
    """The automaton of a capcode level, built once."""
    return Machine(level)


class Masks:
    """The masks of one vocabulary, by the automaton's state.

    Args:
        pieces: for each id, the bytes it adds before capcode is undone; `b""` for ids that print nothing.
        specials: ids that print nothing but may be chosen between characters: the end of a text.
        capcode: TokenMonster's level; 0 for every other tokenizer.
    """

    def __init__(self, pieces: Sequence[bytes], specials: Collection[int] = (), capcode: int = 0):
        self.machine = machine(capcode)
        self.start = self.machine.start
        self._pieces = pieces
        self._specials = sorted(specials)
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        self._order = np.argsort(-lengths, kind="stable")
        lengths = lengths[self._order]
        flat = self.machine.classes[np.frombuffer(b"".join(pieces[i] for i in self._order), np.uint8)]
        begins = np.cumsum(lengths) - lengths
        # Column j: the class of byte j of every token that has one; with the longest first these are always a prefix.
        counts = [int((lengths > j).sum()) for j in range(int(lengths.max(initial=0)))]
        self._columns = [flat[begins[:count] + j] for j, count in enumerate(counts)]
        self._distance = np.where(self.machine.clean, 0, np.iinfo(np.int32).max).astype(np.int32)
        self._explored: set[int] = set()
        self._masks: dict[tuple[int, int | None], Mask] = {}

    def advance(self, state: int, token: int) -> int:
        """The state after a decoder in `state` has read this id."""
        real = self.machine.real
        if 0 <= token < len(self._pieces):
            for kind in self._pieces[token].translate(_classes(self.machine.level)):
                state = real[state][kind]
        return state

    def after_bytes(self, data: bytes) -> int:
        """The state after these bytes at the beginning of a text."""
        state = self.start
        for kind in data.translate(_classes(self.machine.level)):
            state = self.machine.real[state][kind]
        return state

    def mask(self, state: int, remaining: int | None = None) -> Mask:
        """The ids that may come next; bool (len(pieces),), read-only, and the same object at the next call.

        Args:
            state: of the decoder: `start`, or a result of `advance`.
            remaining: how many ids may follow the next one. If given, no character is begun that they cannot finish,
                so a text that ends by its length also ends in a whole character.

        If an unfinished character is pending that no token can finish (a prompt may end in one), U+FFFD cannot be
        avoided; the mask is then that of the beginning of a text.
        """
        key = (state, None if remaining is None or remaining > 3 else max(remaining, 0))
        if key not in self._masks:
            mask = self._compute(*key)
            if not mask.any() and key[1] is not None:
                mask = self.mask(state)
            if not mask.any() and state != self.start:
                mask = self.mask(self.start, remaining)
            mask.flags.writeable = False
            self._masks[key] = mask
        return self._masks[key]

    def _compute(self, state: int, remaining: int | None) -> Mask:
        after = self._after(state)
        self._explore(after)
        limit = np.iinfo(np.int32).max - 1 if remaining is None else remaining
        mask = self._distance[after] <= limit
        if self.machine.clean[state]:
            mask[self._specials] = True
        return mask

    def _after(self, state: int) -> NDArray[np.int16]:
        """The state after each id from `state`, int16 (len(pieces),); DEAD for ids that print nothing."""
        states = np.full(len(self._order), state, np.int16)
        alive = np.arange(len(self._columns[0]) if self._columns else 0)
        states[len(alive) :] = DEAD
        for column in self._columns:
            alive = alive[: np.searchsorted(alive, len(column))]
            states[alive] = self.machine.strict[states[alive], column[alive]]
            alive = alive[states[alive] != DEAD]  # inside a character few tokens survive their first byte
        result = np.empty_like(states)
        result[self._order] = states
        return result

    def _explore(self, after: NDArray[np.int16]) -> None:
        """Find, for each reachable state inside a character, the fewest ids that finish it."""
        reached: dict[int, NDArray[np.intp]] = {}
        waiting = [after]
        while waiting:
            for state in np.flatnonzero(np.bincount(waiting.pop())).tolist():
                if state == DEAD or self.machine.clean[state] or state in self._explored:
                    continue
                self._explored.add(state)
                after = self._after(state)
                waiting.append(after)
                reached[state] = np.flatnonzero(np.bincount(after))
        changed = True
        while changed:
            changed = False
            for state, successors in reached.items():
                best = int(self._distance[successors].min())
                if best + 1 < self._distance[state]:
                    self._distance[state], changed = best + 1, True


@functools.cache
def _classes(level: int) -> bytes:
    return machine(level).classes.tobytes()


def _some(out: str | None) -> State | None:
    return None if out is None else (out,)


def iter_growing(states: dict[State, int]) -> Iterator[State]:
    """The keys of a dict that grows during the iteration."""
    seen = 0
    while seen < len(states):
        for state in list(states)[seen:]:
            seen += 1
            yield state
