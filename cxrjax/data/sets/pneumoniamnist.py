"""PneumoniaMNIST (MedMNIST; Kermany's films of children): 4,708 / 524 / 624 films at 28x28.

Raw folder: one that holds `pneumoniamnist.npz` (or the file itself). Films are kept at 28x28 with
image_size=28 and enlarged otherwise. A few films occur in train and again in validation: a property
of the benchmark, kept as it is and counted in `Films.info['repeats']`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from cxrjax.data.sets import _medmnist, _published
from cxrjax.data.sets._preparation import DEFAULTS as COMMON_DEFAULTS
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, describe

LABELS = ("Normal", "Pneumonia")
TASK = "multiclass"
MASKS = ()
DEFAULTS = {**COMMON_DEFAULTS, "split": "official"}
PUBLISHED = _published.PNEUMONIAMNIST

FILE = "pneumoniamnist.npz"


class PneumoniaMnist(FilmBuilder, skip_registration=True):
    """PneumoniaMNIST of the MedMNIST collection."""

    name = "pneumoniamnist"
    labels = LABELS
    hashes = True
    HOMEPAGE = "https://medmnist.com"
    CITATION = "Yang et al., MedMNIST v2, Scientific Data 2023; Kermany et al., Cell 2018"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return (folder / FILE).is_file()


def prepare(options: Mapping[str, Any]) -> Account:
    """Stores the films of the file; see `sets.prepare`."""
    return _medmnist.prepare(PneumoniaMnist, options, FILE, _one_hot)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films with the benchmark's own split."""
    prepared, table, splits = _medmnist.open_films(PneumoniaMnist, options)
    repeats = _medmnist.repeats(table["phash"], splits)
    size = f"{options['image_size']}x{options['image_size']}"
    info = describe(
        f"PneumoniaMNIST, official split, {size}", "official", LABELS, table["label"], splits,
        repeats=repeats, **prepared.facts(),
    )  # fmt: skip
    return Films(prepared.source, table, splits, LABELS, TASK, MASKS, info, allow_flip=True)


def _one_hot(labels: Shaped[np.ndarray, "n c"]) -> Float32[np.ndarray, "n 2"]:
    if labels.shape[1] != 1 or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"{list(labels.shape)} labels up to {labels.max(initial=0)}, but PneumoniaMNIST has "
            "one column of 0 (Normal) and 1 (Pneumonia): labels of another data set"
        )
    return np.eye(2, dtype=np.float32)[labels[:, 0]]
