"""ChestX-ray14 in MedMNIST's layout (ChestMNIST, or a subset of it): 28x28, 14 findings.

Raw folder: one that holds the .npz named by the option `file` (or the file itself). The split is
that of the file, which for ChestMNIST is the CheXNet split, not the official one: 17,920 official
test films are in its training part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from cxrjax.data.sets import _medmnist, _splits
from cxrjax.data.sets._preparation import DEFAULTS as COMMON_DEFAULTS
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, describe
from cxrjax.data.sets.chestxray14 import LABELS

TASK = "multilabel"
MASKS = ()
DEFAULTS = {**COMMON_DEFAULTS, "split": "official", "file": "chestmnist.npz"}


class ChestMnist(FilmBuilder, skip_registration=True):
    """ChestX-ray14 at 28x28 in MedMNIST's layout."""

    name = "chestmnist"
    labels = LABELS
    stored = ("file",)
    HOMEPAGE = "https://medmnist.com"
    CITATION = "Yang et al., MedMNIST v2, Scientific Data 2023; Wang et al., CVPR 2017"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return (folder / DEFAULTS["file"]).is_file()


def prepare(options: Mapping[str, Any]) -> Account:
    """Stores the films of the file; see `sets.prepare`."""
    return _medmnist.prepare(ChestMnist, options, options["file"], _findings)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films with the split of the file."""
    prepared, table, splits = _medmnist.open_films(ChestMnist, options)
    file = Path(prepared.account.raw_dir).name  # what was read: raw_dir may name a file itself
    names = table["id"].tolist()
    if all(len(name) > 9 and name[:8].isdigit() and name[8] == "_" for name in names):
        table["patient"] = np.array([int(name[:8]) for name in names], np.int64)
        source = f"chestmnist, {file}"
        _splits.check_disjoint(table["patient"], splits, "patient", source)
    size = f"{options['image_size']}x{options['image_size']}"
    info = describe(
        f"ChestX-ray14 as {file}, CheXNet split (ChestMNIST's), {size}",
        "chexnet", LABELS, table["label"], splits, **prepared.facts(),
    )  # fmt: skip
    return Films(prepared.source, table, splits, LABELS, TASK, MASKS, info, allow_flip=True)


def _findings(labels: Shaped[np.ndarray, "n c"]) -> Float32[np.ndarray, "n 14"]:
    if labels.shape[1] != len(LABELS) or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"{list(labels.shape)} labels, but ChestX-ray14 has {len(LABELS)} columns of 0 and 1: "
            "labels of another data set"
        )
    return labels.astype(np.float32)
