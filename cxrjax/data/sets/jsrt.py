"""JSRT (Shiraishi et al., AJR 2000): 247 films, 154 with a lung nodule; lung and heart masks.

Raw folder: `images/JPCLN*.png` (nodule) and `images/JPCNN*.png` (none), `masks/` with the lungs and
`masks_heart/` with the heart, one file of the film's name in each.

There is no official split. `fifth` holds out every fifth film in the order of the names (nodule
films come first, so both kinds are in each part), and every eighth of the rest for validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data.sets import _raw
from cxrjax.data.sets._opening import open_prepared
from cxrjax.data.sets._preparation import DEFAULTS as COMMON_DEFAULTS
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, WrongFolder, describe, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = ("Nodule",)
TASK = "multilabel"
MASKS = ("lungs", "heart")
DEFAULTS = {**COMMON_DEFAULTS, "split": "fifth"}

MASK_FOLDERS = {"lungs": "masks", "heart": "masks_heart"}
NODULE, NO_NODULE = "JPCLN", "JPCNN"


class Jsrt(FilmBuilder, skip_registration=True):
    """JSRT, decoded to one size, with lung and heart masks."""

    name = "jsrt"
    labels = LABELS
    masks = MASKS
    HOMEPAGE = "http://db.jsrt.or.jp/eng.php"
    CITATION = "Shiraishi et al., AJR 174 (2000)"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return any((folder / "images").glob("JPC[LN]N*"))


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film and mask of the raw folder; see `sets.prepare`."""
    return prepare_films(Jsrt, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films, every fifth one held out."""
    if options["split"] != "fifth":
        raise UserError(
            f"jsrt: split={options['split']!r} is not known" + suggest(options["split"], ["fifth"])
        )
    prepared = open_prepared(Jsrt, options)
    table = dict(prepared.table)
    position = np.arange(len(table["id"]))
    rest = position[position % 5 != 4]
    inner = np.arange(len(rest))
    splits = {
        "train": rest[inner % 8 != 7], "val": rest[inner % 8 == 7], "test": position[4::5],
    }  # fmt: skip
    size = f"{options['image_size']}x{options['image_size']}"
    info = describe(
        f"JSRT, every fifth film held out, {size}", "fifth", LABELS, table["label"], splits,
        films_with_mask=int(table["has_mask"].sum()), **prepared.facts(),
    )  # fmt: skip
    # Mirrored, the heart would lie on the right: not what the heart mask should learn.
    return Films(prepared.source, table, splits, LABELS, TASK, MASKS, info, allow_flip=False)


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: films in the order of their names, each with its masks."""
    raw_dir = _raw.raw_folder(options)
    if not (raw_dir / "images").is_dir():
        raise WrongFolder(f"jsrt: {raw_dir} has no folder images")
    account = Account("jsrt", raw_dir=str(raw_dir.resolve()))
    found = _raw.list_films([raw_dir / "images"])
    account.films_found = len(found.films)
    account.notes += found.notes()
    films = {n: p for n, p in found.films.items() if n.startswith((NODULE, NO_NODULE))}
    if not films:
        raise WrongFolder(
            f"jsrt: none of the {len(found.films):,} films in {raw_dir / 'images'} is named "
            f"{NODULE}* or {NO_NODULE}*"
        )
    account.extra_films = [name for name in found.films if name not in films]
    _raw.by_stem(films, "the film")
    masks: dict[str, dict[str, Path]] = {}
    for structure, name in MASK_FOLDERS.items():
        folder = raw_dir / name
        there = _raw.list_films([folder]).films if folder.is_dir() else {}
        masks[structure] = _raw.by_stem(there, f"the mask of the {structure} of")
        if not there:
            account.notes.append(f"no masks of the {structure}: {folder} has none")
    rows = []
    for name, path in films.items():
        label = (float(name.startswith(NODULE)),)
        own = tuple(masks[structure].pop(path.stem, None) for structure in MASKS)
        if any(own) and not all(own):
            lacking = [s for s, mask in zip(MASKS, own) if mask is None]
            account.notes.append(
                f"{name} has no mask of the {shortlist(lacking)}: counted as without masks"
            )
        rows.append(_raw.Row(path.stem, path, label, {}, own))
    for left in masks.values():
        account.masks_without_film += [str(path) for path in left.values()]
    account.rows_read = len(rows)
    return _raw.Scan(rows, account)
