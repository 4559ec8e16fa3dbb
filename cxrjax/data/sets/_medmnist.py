"""Data sets in MedMNIST's layout: one .npz with {train,val,test}_images and _labels."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cxrjax.data import npz
from cxrjax.data.sets import _raw, _splits
from cxrjax.data.sets._duplicates import same_value_pairs
from cxrjax.data.sets._opening import Prepared, open_prepared
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import SPLITS, Account, Splits, WrongFolder
from cxrjax.errors import UserError

# From the file's labels [n, ?] to ours [n, k]; raises ValueError if they are not this data set's.
ReadLabels = Callable[[np.ndarray], np.ndarray]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz in MedMNIST's layout, checked.

    Raises:
      UserError: not an .npz, an array missing, or arrays of the wrong shape, kind or length.
    """
    try:
        arrays = npz.read(path)
    # What numpy, zipfile and zlib raise on files that are something else, or damaged.
    except (OSError, ValueError, EOFError, TypeError, AttributeError, NotImplementedError,
            RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable .npz ({error}); fetch it again") from None
    for split in SPLITS:
        for kind in ("images", "labels"):
            if f"{split}_{kind}" not in arrays:
                raise UserError(
                    f"{path}: no array {split}_{kind} (there is: {', '.join(sorted(arrays))})"
                )
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.ndim != 3:
            raise UserError(
                f"{path}: {split}_images is {images.dtype}{list(images.shape)}, but should be "
                "uint8[films, height, width]: this is not a set of gray films"
            )
        if labels.ndim != 2 or len(labels) != len(images):
            raise UserError(
                f"{path}: {split}_labels is {list(labels.shape)} for {len(images)} films"
            )
    return arrays


def find_file(options: Mapping[str, Any], name: str) -> Path:
    """The .npz: `raw_dir` itself, or the file called `name` in it."""
    raw_dir = _raw.raw_folder(options, may_be_file=True)
    path = raw_dir if raw_dir.is_file() else raw_dir / name
    if not path.is_file():
        raise WrongFolder(f"{options['name']}: {raw_dir} has no {name}")
    return path


def prepare(
    builder: type[FilmBuilder], options: Mapping[str, Any], file: str, read: ReadLabels
) -> Account:
    """Stores the films of all three splits, in the order of the file."""

    def scan(options: Mapping[str, Any]) -> _raw.Scan:
        path = find_file(options, file)
        arrays = read_arrays(path)
        account = Account(builder.name, raw_dir=str(path.resolve()))
        rows = []
        # Each split may count its films from 0.
        every = [name for split in SPLITS for name in _names(arrays, split, path)]
        several = len(set(every)) < len(every)
        for split in SPLITS:
            try:
                labels = read(arrays[f"{split}_labels"])
            except ValueError as error:
                raise UserError(f"{path}: {split}_labels: {error}") from None
            names = _names(arrays, split, path)
            if several:
                names = [f"{split}-{name}" for name in names]
            for name, film, label in zip(names, arrays[f"{split}_images"], labels):
                columns = {"split": split}
                rows.append(_raw.Row(name, film, tuple(label.tolist()), columns))
        if not rows:
            raise UserError(f"{path}: holds no film")
        account.rows_read = account.films_found = len(rows)
        return _raw.Scan(rows, account)

    return prepare_films(builder, options, scan)


def _names(arrays: Mapping[str, np.ndarray], split: str, path: Path) -> list[str]:
    """Ids of a split: the file's own index where it has one."""
    count = len(arrays[f"{split}_images"])
    if f"{split}_index" not in arrays:
        return [f"{split}-{i:05d}" for i in range(count)]
    names = arrays[f"{split}_index"].astype(str).tolist()
    if len(names) != count or len(set(names)) != count:
        raise UserError(f"{path}: {split}_index does not name each of {count} films once")
    return names


def open_films(
    builder: type[FilmBuilder], options: Mapping[str, Any]
) -> tuple[Prepared, dict[str, np.ndarray], Splits]:
    """(prepared films, table, the file's own splits)."""
    if options["split"] != "official":
        raise UserError(
            f"{builder.name}: split={options['split']!r} is not known (known: official, the split "
            "of the file)"
        )
    prepared = open_prepared(builder, options)
    side = prepared.table["split"]
    splits = {split: np.flatnonzero(side == split).astype(np.int64) for split in SPLITS}
    return prepared, dict(prepared.table), splits


def repeats(phash: Shaped[np.ndarray, " n"], splits: Splits) -> dict[str, int]:
    """Films of one split whose perceptual hash occurs in another: the file's own duplicates."""
    pairs: Sequence[tuple[int, int]] = same_value_pairs(phash)
    if not pairs:
        return dict.fromkeys(("train/val", "train/test", "val/test"), 0)
    return {pair: len(names) for pair, names in _splits.crossing(phash, splits).items()}
