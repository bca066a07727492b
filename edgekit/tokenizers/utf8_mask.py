"""Which ids may come next so that U+FFFD is never printed: what `ban_replacement` masks with.

A token is bytes, and one token may end inside a character that the next one finishes. An id is allowed if the text
stays well-formed UTF-8 after it and any unfinished character can still be finished by tokens that exist. That is
a walk through a small state machine over classes of bytes: the UTF-8 automaton of the Unicode Standard's table
3-7, extended by the delete markers of TokenMonster's capcode, which can take bytes out of a character or join
what stood on both sides of them. All tokens walk at once, one numpy step per byte position; a mask is computed once per
state of the decoder and kept. A token that spells U+FFFD itself (EF BF BD) is banned as well.
"""

import functools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

# Classes of byte values. ASCII is 0; 1 and 2 are the markers, for levels that have them.
ASCII, DELETE, SILENT = range(3)
C80, C90, CA0, CBD, CBE, CBF = range(3, 9)  # continuation bytes, from this value on
TWO, E0, THREE, ED, EF, F0, FOUR, F4, NEVER, NOTHING = range(9, 19)  # lead bytes; bytes never legal; no byte at all
CONTINUATION = range(C80, CBF + 1)

# What may follow: state -> class -> state. "" is between characters; a digit, that many continuation bytes to come.
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

# (out,): `out` is what the printed bytes end in. (out, "D"): a delete marker waits. (whole, broken, raw): the marker
# deletes a character of which `raw` has come; the output is in `whole` if it proves well-formed, else in `broken`
# (then only its first byte was deleted, and the others are printed; None if that makes U+FFFD).
State = tuple[str | None, ...]
START: State = ("",)
DEAD = 0  # index of "U+FFFD was printed" in the tables


class Machine:
    """The automaton for one capcode level.

    Attributes:
        classes: uint8 (256,), the class of each byte value.
        strict: int16 (states, classes), the next state; DEAD once the output is ill-formed.
        real: the same as nested lists, for following what a decoder has really read: it prints U+FFFD and goes on.
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
        """The state after one byte; None if U+FFFD was printed, which a forgiving machine survives."""
        if len(state) == 1:
            if kind == DELETE:
                return (state[0], "D")
            return state if kind == SILENT else _some(printed(state[0], kind, forgiving))
        if len(state) == 2:
            out = state[0]
            if self.level == 1:
                return (out,)  # level 1 deletes one byte, whatever it is
            if kind in (DELETE, SILENT):
                return state  # capitals' markers leave the deletion waiting
            raw = NEXT[""].get(kind)
            return (out, out, raw) if raw else (out,)
        whole, broken, raw = state
        assert raw is not None
        after = NEXT[raw].get(kind) if (raw, kind) != ("EFBF", CBD) else ""
        if after == "":
            return (whole,)
        if after is not None:
            return (whole, printed(broken, kind, False), after)  # not printed yet: remember that it would be U+FFFD
        if broken is None and not forgiving:
            return None
        return self.step((broken or "",), kind, forgiving)  # continuation bytes were printed: nothing is pending


def printed(out: str | None, kind: int, forgiving: bool) -> str | None:
    """What the output ends in after one more byte is printed; None once it is ill-formed."""
    after = None if out is None else NEXT[out].get(kind)
    if after is not None or not forgiving:
        return after
    # U+FFFD took the place of what came before; this byte begins a new character, or is replaced as well.
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
    """The automaton of a capcode level, made once."""
    return Machine(level)


class Masks:
    """The masks of one vocabulary, by the machine's state.

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
        # Column j: the class of byte j of every token that has one; longest first, so these are always a prefix.
        counts = [int((lengths > j).sum()) for j in range(int(lengths.max(initial=0)))]
        self._columns = [flat[begins[:count] + j] for j, count in enumerate(counts)]
        self._distance = np.where(self.machine.clean, 0, np.iinfo(np.int32).max).astype(np.int32)
        self._explored: set[int] = set()
        self._masks: dict[tuple[int, int | None], Mask] = {}

    def advance(self, state: int, token: int) -> int:
        """The state after a decoder in `state` read this id."""
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
            state: where the decoder is: `start`, or what `advance` gave.
            remaining: how many ids may follow the next one. Given, no character is begun that they cannot
                finish, so that a text cut off by its length ends whole as well.

        If half a character is pending that no token can finish (a prompt may end so), U+FFFD cannot be avoided;
        the mask is then that of the beginning of a text.
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
            alive = alive[states[alive] != DEAD]  # inside a character few tokens live past their first byte
        result = np.empty_like(states)
        result[self._order] = states
        return result

    def _explore(self, after: NDArray[np.int16]) -> None:
        """Learn, for each unclean state that can be reached, the fewest ids that finish the character."""
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


def iter_growing(states: dict[State, int]):
    """The keys of a dict that grows while they are walked."""
    seen = 0
    while seen < len(states):
        for state in list(states)[seen:]:
            seen += 1
            yield state
