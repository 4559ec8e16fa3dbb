"""Which held-out films a run was trained on: on them it may neither be judged nor teach."""

from __future__ import annotations

from collections.abc import Collection

from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError

HELD_OUT = ("val", "test")


def leaked(trained: Collection[str], films: Films) -> dict[str, list[str]]:
    """The films of each held-out split that were trained on, sorted; none without such a split.

    Args:
      trained: ids of the films that were trained on.
      films: a data set, split for something else.
    """
    found = {
        split: sorted(set(trained).intersection(films.table["id"][films.splits[split]].tolist()))
        for split in HELD_OUT
    }
    return {split: ids for split, ids in found.items() if ids}


def check_not_trained_on(trained: Collection[str], films: Films, who: str, why: str) -> None:
    """Raises UserError where `leaked` finds a film.

    Args:
      trained: ids of the films that `who` was trained on.
      films: see `leaked`.
      who: begins the sentence, as 'the run in runs/a'.
      why: ends it: how this came about, or what it would spoil.
    """
    for split, ids in leaked(trained, films).items():
        raise UserError(
            f"{who} was trained on {len(ids)} films of the {split} split (first: {ids[0]}): {why}"
        )
