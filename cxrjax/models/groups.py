"""Label groups: several classifiers, each for its own labels, merged into one answer.

A grouping is written with names, `(("Mass", "Nodule"), ("Hernia",))`, and used with positions:
`positions` turns one into the other and checks that every label is in exactly one group.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from cxrjax import names
from cxrjax.errors import UserError

Groups = Sequence[Sequence[str]]
Positions = tuple[tuple[int, ...], ...]

# The grouping of report B, made by hand.
CHESTXRAY14 = (
    ("Atelectasis", "Effusion", "Infiltration", "Pneumothorax", "Edema", "Pleural_Thickening"),
    ("Mass", "Nodule", "Consolidation", "Hernia"),
    ("Cardiomegaly", "Emphysema"),
    ("Pneumonia", "Fibrosis"),
)


def positions(groups: Groups, labels: Sequence[str]) -> Positions:
    """The place of each group's labels in `labels`, in the order of the group.

    Raises:
      UserError: the groups do not partition the labels: an unknown name (with a suggestion), a
        label in two groups or in none, a group without labels.
    """
    places = {label: i for i, label in enumerate(labels)}
    seen: set[str] = set()
    for number, group in enumerate(groups):
        if not group:
            raise UserError(f"label group {number} is empty: remove it")
        for label in group:
            if label not in places:
                raise UserError(
                    f"label group {number} names {label!r}, which the data set does not have"
                    + names.suggest(label, labels)
                )
            if label in seen:
                raise UserError(f"label {label!r} is in two groups: leave it in one")
            seen.add(label)
    missing = [label for label in labels if label not in seen]
    if missing:
        raise UserError(f"labels in no group: {', '.join(missing)}")
    return tuple(tuple(places[label] for label in group) for group in groups)


def merge(group_logits: Sequence[Float[Array, "*b _"]], places: Positions) -> Float[Array, "*b k"]:
    """The groups' logits put side by side in the order of the labels, whatever the grouping.

    Args:
      group_logits: one array per group, its columns in the order of the group.

    Raises:
      ValueError: as many groups or labels as `places` has are not given.
    """
    widths = [logits.shape[-1] for logits in group_logits]
    if widths != [len(group) for group in places]:
        raise ValueError(f"logits for groups of {widths} labels, groups are {places}")
    order = np.concatenate([np.asarray(group) for group in places])
    return jnp.concatenate(list(group_logits), axis=-1)[..., np.argsort(order)]


def by_cooccurrence(
    labels: Real[np.ndarray, "n k"], label_names: Sequence[str], number: int, seed: int = 0
) -> tuple[tuple[str, ...], ...]:
    """`number` groups of labels that tend to stand on the same films.

    Similarity of two labels: n_ij / sqrt(n_i n_j), the films with both over the geometric mean of
    the films with each (Ochiai 1957), among the films on which both are known.

    Args:
      labels: of the TRAINING films; 0, 1 or NaN (unknown).
    """
    positive, known = (labels == 1).astype(float), (~np.isnan(labels)).astype(float)
    both, one = positive.T @ positive, positive.T @ known
    similarity = both / np.maximum(np.sqrt(one * one.T), 1)
    return _cluster(similarity, label_names, number, seed)


def by_features(
    vectors: Real[np.ndarray, "k d"], label_names: Sequence[str], number: int, seed: int = 0
) -> tuple[tuple[str, ...], ...]:
    """`number` groups of labels whose classifiers look for the same features.

    Similarity of two labels: (1 + cosine) / 2 of their vectors.

    Args:
      vectors: one per label from a trained network: the columns of its last layer's kernel [D, K],
        transposed, or the mean features of each label's films.
    """
    centred = vectors - vectors.mean(axis=0)  # what all labels share says nothing about groups
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(length, np.finfo(float).tiny)
    return _cluster((1 + unit @ unit.T) / 2, label_names, number, seed)


def _cluster(
    similarity: np.ndarray, label_names: Sequence[str], number: int, seed: int
) -> tuple[tuple[str, ...], ...]:
    """Spectral clustering, the groups ordered by their first label.

    Raises:
      UserError: more groups are wanted than there are labels, or can be told apart.
    """
    count = len(label_names)
    if len(similarity) != count:
        raise ValueError(f"{len(similarity)} rows for {count} labels")
    if not 1 <= number <= count:
        raise UserError(f"{number} groups of {count} labels: choose 1 to {count}")
    if number == 1 or number == count:
        group_of = np.arange(count) if number == count else np.zeros(count, int)
    else:
        from sklearn.cluster import SpectralClustering  # a second to import, for few

        # A small share for every pair keeps the graph in one piece (a label that occurs nowhere).
        affinity = np.clip(similarity, 0, 1) + 1e-3
        np.fill_diagonal(affinity, 1.0)
        model = SpectralClustering(
            number, affinity="precomputed", n_init=50, random_state=seed, eigen_solver="arpack"
        )
        group_of = model.fit_predict(affinity)
    found = [np.flatnonzero(group_of == g) for g in np.unique(group_of)]
    if len(found) < number:
        raise UserError(f"only {len(found)} groups can be told apart: ask for at most so many")
    return tuple(
        tuple(label_names[i] for i in group) for group in sorted(found, key=lambda g: g[0])
    )
