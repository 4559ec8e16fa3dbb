"""Splits as index lists: seeded by hash, whole groups on one side, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from cxrjax.data.sets.base import SPLITS, Splits
from cxrjax.errors import UserError


def rank(keys: Sequence[str], seed: int) -> list[str]:
    """The distinct keys in a random order that depends on `seed` and each key alone.

    A key keeps its place relative to the others when keys are added: a split of more films of the
    same patients moves hardly anyone.
    """
    return sorted(set(keys), key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest())


def check_shares(shares: Sequence[Any], where: str) -> tuple[float, ...]:
    """Train, val and test shares as numbers; UserError unless they are >= 0 and sum to 1."""
    try:
        shares = tuple(float(s) for s in shares)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {shares!r} are not three numbers") from None
    if len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"{where}: train, val and test shares must sum to 1, not {shares}")
    return shares


def by_group(
    group: Shaped[np.ndarray, " n"], shares: Sequence[float], seed: int
) -> Splits:
    """A seeded random split of whole groups (patients); shares are of groups, not of films."""
    names = group.astype(str)
    order = rank(names.tolist(), seed)
    cuts = np.rint(np.cumsum(shares)[:2] * len(order)).astype(int)
    side = {}
    for split, members in zip(SPLITS, np.split(np.array(order), cuts)):
        side.update(dict.fromkeys(members.tolist(), split))
    chosen = np.array([side[n] for n in names.tolist()], dtype="U5")
    return {split: np.flatnonzero(chosen == split).astype(np.int64) for split in SPLITS}


def by_group_stratified(
    group: Shaped[np.ndarray, " n"],
    classes: Float[np.ndarray, "n k"],
    shares: Sequence[float],
    seed: int,
) -> Splits:
    """A seeded split of whole groups that keeps the share of every class as far as groups allow.

    Greedy: the largest groups first (they leave the least choice), among equals in seeded order;
    each goes where its classes are furthest from their target.

    scikit-learn's StratifiedGroupKFold keeps the classes as well (21,165 films of four classes in
    16,448 groups, split 70/10/20: each class within 0.04 to 0.07 percent of its share, ours 0.04)
    but cuts into equal folds alone, knows one class a film, took 30 s where this takes 2, and would
    move the films of every split that figures were published on.
    """
    names = group.astype(str).tolist()
    members: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        members.setdefault(name, []).append(position)
    counts = np.nan_to_num(classes)
    open_splits = [i for i, share in enumerate(shares) if share > 0]
    wanted = np.outer(shares, counts.sum(0))  # [split, class]
    have = np.zeros_like(wanted)
    chosen = np.zeros(len(names), np.int64)
    for name in sorted(rank(names, seed), key=lambda n: -len(members[n])):
        size = counts[members[name]].sum(0)
        lack = (wanted - have) / np.maximum(wanted, 1e-9)  # 1 = still empty, 0 = full
        score = lack @ size
        best = max(open_splits, key=lambda i: (score[i], shares[i]))
        have[best] += size
        chosen[members[name]] = best
    return {s: np.flatnonzero(chosen == i).astype(np.int64) for i, s in enumerate(SPLITS)}


def crossing(
    group: Shaped[np.ndarray, " n"], splits: Splits
) -> dict[str, list[str]]:
    """Groups that lie in two splits: {'train/test': [...], ...}, each list sorted."""
    names = {s: set(group[p].astype(str).tolist()) for s, p in splits.items()}
    pairs = [("train", "val"), ("train", "test"), ("val", "test")]
    return {f"{a}/{b}": sorted(names[a] & names[b]) for a, b in pairs}


def check_disjoint(
    group: Shaped[np.ndarray, " n"],
    splits: Splits,
    what: str,
    source: str,
) -> None:
    """Raises UserError if a `what` ('patient') is in two splits; `source` names the lists."""
    for pair, names in crossing(group, splits).items():
        if names:
            raise UserError(
                f"{source}: {len(names)} {what}s are in both {pair.replace('/', ' and ')}, for "
                f"example {what} {names[0]}: a split must keep a {what} on one side; mend the lists"
            )
