"""Films that another set published first: RSNA's and SIIM's are films of ChestX-ray14.

Their identity is kept with each film as `origin_id`, 'chestxray14/00000013_005.png', and what asks
whether a network has seen a film compares `identities` (and, for films whose origin is not known,
`content` and `phash`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from cxrjax.errors import UserError

RSNA_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
NIH = "chestxray14"


def rsna_mapping(raw_dir: Path) -> tuple[dict[str, str], str]:
    """({RSNA's image: ChestX-ray14's file name}, what was read) by the published mapping.

    It is looked for in the raw folder and beside it; ({}, '') where it is not.

    Raises:
      UserError: it is no such mapping.
    """
    places = [raw_dir, *sorted(p for p in raw_dir.iterdir() if p.is_dir()), raw_dir.parent]
    path = next((p / RSNA_MAPPING for p in places if (p / RSNA_MAPPING).is_file()), None)
    if path is None:
        return {}, ""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
        mapping = {str(row["subset_img_id"]): str(row["img_id"]) for row in rows}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not RSNA's mapping, a list of objects with subset_img_id and img_id "
            f"({type(error).__name__}: {error}); fetch it again or take it away"
        ) from None
    names = {key: name if name.endswith(".png") else f"{name}.png" for key, name in mapping.items()}
    return names, f"{path.name}: {len(names):,} films of ChestX-ray14"


def nih_patient(name: str) -> str:
    """The patient in a file name of ChestX-ray14, '13' of '00000013_005.png'; '' if none."""
    return str(int(name[:8])) if name[:8].isdigit() and name[8:9] == "_" else ""


def identities(
    table: Mapping[str, Shaped[np.ndarray, " n ..."]], name: str
) -> Shaped[np.ndarray, " n"]:
    """What each film is, whichever set it is read from: 'chestxray14/00000013_005.png'.

    Args:
      table: of `Films`.
      name: of the data set, as in the config.
    """
    own = np.char.add(f"{name}/", np.asarray(table["id"]).astype(str))
    origin = table.get("origin_id")
    return own if origin is None else np.where(origin == "", own, origin)
