"""The scale of the films that weights were trained on: it comes with the weights."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cxrjax.models.weights import recognise
from cxrjax.models.weights.files import find, load_state_dict

LARGEST_JSON = 2**20


class Scale(NamedTuple):
    """Gray films in [0, 1] enter as (film - mean) / std; `whose` says where that is from.

    Colours' means and deviations are averaged, as gray films have the same value in all of them.
    """

    mean: float
    std: float
    whose: str


def scale_of(path: str | pathlib.Path, tensors: Mapping[str, Any] | None = None) -> Scale | None:
    """The scale of a weights file: as a config beside it says, else its layout's; None if neither.

    Read are timm's `config.json` (pretrained_cfg) and transformers' `preprocessor_config.json`.

    Args:
      tensors: the file's, where they are at hand.

    Raises:
      UserError: there is no such file, or it cannot be read.
    """
    file = find(path)
    if file is not None:
        for name in ("config.json", "preprocessor_config.json"):
            if said := _from_json(file.parent / name):
                return said
    found = recognise.recognise(load_state_dict(path) if tensors is None else tensors)
    if found is None or found.layout.scale is None:
        return None
    mean, std = found.layout.scale
    return Scale(mean, std, found.layout.library)


def _from_json(path: pathlib.Path) -> Scale | None:
    try:
        if path.stat().st_size > LARGEST_JSON:
            return None
        said = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(said, Mapping):
        return None
    inner = said.get("pretrained_cfg")
    said = inner if isinstance(inner, Mapping) else said
    if said.get("do_normalize") is False:
        return Scale(0.0, 1.0, path.name)
    mean, std = (_averaged(said.get(f"image_{k}", said.get(k))) for k in ("mean", "std"))
    if mean is None or std is None or std <= 0:
        return None
    return Scale(round(mean, 6), round(std, 6), path.name)


def _averaged(values: Any) -> float | None:
    values = values if isinstance(values, list) else [values]
    if not values or not all(isinstance(v, int | float) for v in values):
        return None
    return float(np.mean(values))
