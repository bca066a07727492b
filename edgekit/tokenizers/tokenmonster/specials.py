"""A vocabulary that does not match its special tokens in text.

TokenMonster keeps specials in its dictionary, so a text that spells one is sometimes encoded to it (unless a token that
overlaps its beginning wins), which is neither safe nor reliable. This file is copied next to exported checkpoints.
"""

from collections.abc import Collection

from edgekit.tokenizers.tokenmonster.vocab_file import NONE
from edgekit.tokenizers.tokenmonster.vocabulary import Vocabulary


def without_specials(vocabulary: Vocabulary, reserved: Collection[int] = ()) -> Vocabulary:
    """The same vocabulary with the same ids, without the records of its special tokens and of the `reserved` ids.

    The vocabulary itself if there are none.
    """
    removed = vocabulary.special_ids | {id for id in reserved if id < vocabulary.table_size}
    if not removed:
        return vocabulary
    kept = [i for i, record in enumerate(vocabulary.records) if record.id not in removed]
    place = {old: new for new, old in enumerate(kept)}
    records = []
    for i in kept:
        # Alternatives are record indexes. If the first is removed, the second takes its place.
        alts = [place[a] for a in vocabulary.records[i][3:5] if a in place]
        alt1, alt2 = [*alts, NONE, NONE][:2]
        records.append(vocabulary.records[i]._replace(alt1=alt1, alt2=alt2))
    ids = [record.id for record in records] + [token.id for token in vocabulary.deleted if token.id != NONE]
    ids += [vocabulary.unk] if vocabulary.unk != NONE else []
    return Vocabulary(
        capcode=vocabulary.capcode,
        charset=vocabulary.charset,
        normalization=vocabulary.normalization,
        mode=vocabulary.mode,
        reserve=vocabulary.reserve,
        unk=vocabulary.unk,
        table_size=max(ids, default=-1) + 1,
        delete_token=vocabulary.delete_token,
        records=records,
        follow=vocabulary.follow,
        deleted=vocabulary.deleted,
        name=vocabulary.name,
    )
