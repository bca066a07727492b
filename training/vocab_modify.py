"""Changes to a finished vocabulary: special tokens, its size, single tokens, the unknown token, ids.

Existing tokens keep their ids, whatever is added or removed, unless `reset_ids` is called: models are trained with
them. Removed tokens are recorded with their ids in the file's last section; added again, they get these ids back. New
tokens take the lowest ids that no token has or had. Every function returns a new `Vocabulary` with its flags,
alternatives and the rest computed again. The rules are those of the reference library
(github.com/alasdairforsythe/tokenmonster).
"""

from collections.abc import Iterable
from typing import Any

from edgekit.errors import SettingError, VocabularyError
from edgekit.tokenizers.tokenmonster import vocabulary as tm
from edgekit.tokenizers.tokenmonster.vocab_file import LONGEST, NONE, Deleted
from edgekit.training.vocab_build import Token, build, take_apart

__all__ = ["add", "add_special", "delete", "disable_unk", "enable_unk", "reset_ids", "resize"]

MOST_SINGLES = (256, 256, 233)
"""With this many single bytes (by capcode level) nothing can be unknown."""


def add_special(vocabulary: tm.Vocabulary, texts: Iterable[str]) -> tm.Vocabulary:
    """Add special tokens; each text is normalized and capcoded as usual (`<eos>` is stored as `<`, 7F 20, `eos>` at
    level 1). Regular tokens that contain one are removed, so that a special token always matches.

    Raises:
        SettingError: a text that is empty, special already, or longer than 40 bytes in the stored form.
    """
    tokens, settings, gone = _open(vocabulary)
    present = {token.token for token in tokens if token.special}
    stored = []
    for text in texts:
        form = vocabulary.normalize(text)
        if not 0 < len(form) <= LONGEST:
            raise SettingError(f"special token {text!r} takes {len(form)} bytes (1 to {LONGEST})")
        if form in present:
            raise SettingError(f"{text!r} is a special token already")
        present.add(form)
        stored.append(form)
    remaining = []
    for token in tokens:
        if token.special or not any(form in token.token for form in stored):
            remaining.append(token)
        else:
            gone[token.token] = Deleted(token.token, _id(token), token.score)
    new = [Token(form, special=True) for form in stored]
    return _with_new(remaining, new, settings, gone)


def add(vocabulary: tm.Vocabulary, stored: Iterable[bytes]) -> tm.Vocabulary:
    """Add regular tokens, given in their stored (normalized, capcoded) form. Existing ones are unchanged.

    Raises:
        SettingError: a token that is not 1 to 40 bytes long, or the delete marker, a space and a letter or number:
            these records are made automatically.
    """
    tokens, settings, gone = _open(vocabulary)
    present = {token.token for token in tokens}
    lead = {1: b"\x7f ", 2: b"D "}.get(vocabulary.capcode)
    new = []
    for form in dict.fromkeys(stored):
        if not 0 < len(form) <= LONGEST:
            raise SettingError(f"token {form!r} is {len(form)} bytes long (1 to {LONGEST})")
        if lead and form.startswith(lead):
            raise SettingError(f"token {form!r} begins with the delete marker and a space: add {form[2:]!r}")
        if form not in present:
            new.append(Token(form, score=gone[form].score if form in gone else 0.0))
    return _with_new(tokens, new, settings, gone)


def delete(vocabulary: tm.Vocabulary, stored: Iterable[bytes]) -> tm.Vocabulary:
    """Remove tokens, given in their stored form; single bytes stay.

    Raises:
        SettingError: a token that does not exist, or a single byte.
    """
    tokens, settings, gone = _open(vocabulary)
    by_form = {token.token: token for token in tokens}
    for form in dict.fromkeys(stored):
        if form not in by_form:
            raise SettingError(f"{vocabulary.name} has no token {form!r}")
        token = by_form[form]
        if len(form) == 1 and not token.special:
            raise SettingError(f"{form!r} is a single byte, which cannot be deleted")
        del by_form[form]
        if not token.special:
            gone[form] = Deleted(form, _id(token), token.score)
    return build(by_form.values(), **settings | {"deleted": gone.values()})


def resize(vocabulary: tm.Vocabulary, size: int) -> tm.Vocabulary:
    """Remove the tokens with the lowest scores, or add removed ones again, until there are `size` (UNK counts as one).
    Single bytes, special tokens and tokens without a score stay. With equal scores, longer tokens are removed first.

    Raises:
        SettingError: there are not enough removable tokens, or not enough removed ones to add again.
    """
    tokens, settings, gone = _open(vocabulary)
    surplus = vocabulary.size - size
    if surplus < 0:
        present = {token.token for token in tokens}
        back = sorted((each for each in gone.values() if each.token not in present), key=_worth, reverse=True)
        if len(back) < -surplus:
            raise SettingError(
                f"{vocabulary.name} can grow to {vocabulary.size + len(back)} tokens by adding removed ones again, not "
                f"to {size}"
            )
        new = [Token(each.token, score=each.score) for each in back[:-surplus]]
        return _with_new(tokens, new, settings, gone)
    removable = [token for token in tokens if len(token.token) > 1 and not token.special and token.score > 0]
    if len(removable) < surplus:
        raise SettingError(
            f"{vocabulary.name} can shrink to {vocabulary.size - len(removable)} tokens (the others are single bytes, "
            f"special or without a score), not to {size}"
        )
    leaving = {token.token for token in sorted(removable, key=_worth)[:surplus]}
    gone |= {token.token: Deleted(token.token, _id(token), token.score) for token in removable
             if token.token in leaving}  # fmt: skip
    remaining = [token for token in tokens if token.token not in leaving]
    return build(remaining, **settings | {"deleted": gone.values()})


def enable_unk(vocabulary: tm.Vocabulary) -> tm.Vocabulary:
    """Give bytes that no token covers an id: the lowest that no token has (perhaps that of a removed token).

    Raises:
        SettingError: every byte has a token.
    """
    tokens, settings, gone = _open(vocabulary)
    if vocabulary.unk != NONE:
        return vocabulary
    if sum(len(token.token) == 1 for token in tokens) >= MOST_SINGLES[vocabulary.capcode]:
        raise SettingError(f"in {vocabulary.name} every byte has a token: nothing can be unknown")
    taken = {token.id for token in tokens}
    unk = next(id for id in range(NONE) if id not in taken)
    return build(tokens, **settings | {"unk": unk, "deleted": gone.values()})


def disable_unk(vocabulary: tm.Vocabulary) -> tm.Vocabulary:
    """Remove the unknown token; bytes that no token covers are dropped from then on."""
    tokens, settings, gone = _open(vocabulary)
    return build(tokens, **settings | {"unk": NONE, "deleted": gone.values()})


def reset_ids(vocabulary: tm.Vocabulary) -> tm.Vocabulary:
    """Renumber the tokens 0, 1, 2, ... in the order of (length, bytes), UNK last. Removed tokens lose their ids."""
    tokens, settings, gone = _open(vocabulary)
    without_ids = [token._replace(id=None) for token in tokens]
    settings["unk"] = NONE if vocabulary.unk == NONE else "new"
    return build(without_ids, **settings | {"deleted": [each._replace(id=NONE) for each in gone.values()]})


def _open(vocabulary: tm.Vocabulary) -> tuple[list[Token], dict[str, Any], dict[bytes, Deleted]]:
    """Tokens, settings for `build`, and the removed tokens by their bytes."""
    tokens, settings = take_apart(vocabulary)
    return tokens, settings, {each.token: each for each in settings.pop("deleted")}


def _with_new(
    tokens: list[Token], new: list[Token], settings: dict[str, Any], gone: dict[bytes, Deleted]
) -> tm.Vocabulary:
    """Build with more tokens: one that was removed earlier gets its id back, if no other token has it."""
    taken = {token.id for token in tokens} | {settings["unk"]}
    back = []
    for token in new:
        old = gone[token.token].id if token.token in gone else NONE
        back.append(token._replace(id=None if old == NONE or old in taken else old))
    return build([*tokens, *back], **settings | {"deleted": gone.values()})


def _id(token: Token) -> int:
    if token.id is None:
        raise VocabularyError(f"token {token.token!r} has no id")
    return token.id


def _worth(token: Token | Deleted) -> tuple[float, int, bytes]:
    """Sort key: first the tokens to remove first, those with the lowest score, then the longest."""
    return token.score, -len(token.token), token.token
