"""RSNA Pneumonia Detection Challenge (Shih et al., 2019): 26,684 films of ChestX-ray14, read anew.

Raw folder: `stage_2_train_images/<patientId>.dcm`, `stage_2_train_labels.csv` (a row for each box:
patientId, x, y, width, height, Target) and, where it is at hand, `stage_2_detailed_class_info.csv`.
RSNA's mapping to ChestX-ray14, `pneumonia-challenge-dataset-mappings_2018.json`, is read where it
lies beside them.

Traps. These ARE films of ChestX-ray14: a network trained there has seen them. With the mapping each
film's `origin_id` says which one it is, and the patient is the NIH's; without it neither is known
(`patientId` is a film's number, not a patient's), the split is by film, and only `content` and
`phash` can tell. 'Pneumonia' is an opacity that readers thought to be one, without clinical facts;
films with other abnormalities are among the negatives (column `class`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data.sets import _columns, _origins, _raw, _tables, _tabular
from cxrjax.data.sets._boxes import Box, boxes_of
from cxrjax.data.sets._film_files import FilmFiles
from cxrjax.data.sets._opening import open_prepared
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, WrongFolder
from cxrjax.errors import UserError

LABELS = ("Pneumonia",)
TASK = "multilabel"
MASKS = ()
DEFAULTS = {**_tabular.DEFAULTS, "split": "random"}
TABLE, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
FOLDER = "stage_2_train_images"


class RsnaPneumonia(FilmBuilder, skip_registration=True):
    """RSNA's pneumonia films, decoded to one size."""

    name = "rsna_pneumonia"
    labels = LABELS
    hashes = True  # without the mapping the hash is all that can tell the film
    headers = True
    HOMEPAGE = "https://www.rsna.org/rsnai/ai-image-challenge/rsna-pneumonia-detection-challenge-2018"
    CITATION = "Shih et al., Radiology: Artificial Intelligence 1 (2019)"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return (folder / TABLE).is_file()


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film of the raw folder; see `sets.prepare`."""
    _check(options)
    return prepare_films(RsnaPneumonia, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films, split by the NIH's patients where they are known."""
    _check(options)
    return _tabular.opened(
        open_prepared(RsnaPneumonia, options), options, "RSNA Pneumonia (films of ChestX-ray14)",
        LABELS, notes={"origin": _origins.NIH},
    )  # fmt: skip


def _check(options: Mapping[str, Any]) -> None:
    _tabular.check_choices(options)
    _tabular.choose_labels("rsna_pneumonia", options["labels"], LABELS)
    if options["split"] != "random":
        raise UserError(f"rsna_pneumonia: split={options['split']!r} is not known (known: random; "
                        "none is published with labels)")  # fmt: skip


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: a film for all its boxes, and which film of the NIH it is."""
    raw_dir = _raw.raw_folder(options)
    if not (raw_dir / TABLE).is_file():
        raise WrongFolder(f"rsna_pneumonia: {raw_dir} has no {TABLE}")
    account = Account("rsna_pneumonia", raw_dir=str(raw_dir.resolve()))
    table = _tables.read(raw_dir / TABLE, ("patientId", "Target"))
    targets: dict[str, tuple[float, int]] = {}
    for row, (name, cell) in enumerate(zip(table.columns["patientId"], table.columns["Target"])):
        value = _columns.number(cell)
        if value not in (0, 1):
            raise UserError(f"{table.where(row)}: Target {cell!r} is neither 0 nor 1")
        if targets.setdefault(name, (value, row))[0] != value:
            line = table.lines[targets[name][1]]
            raise UserError(f"{table.where(row)}: {name} has another Target in line {line}")
    classes = _classes(raw_dir)
    mapping, said = _origins.rsna_mapping(raw_dir)
    account.rows_read = len(targets)
    account.notes.append(f"{len(table):,} rows of {TABLE} (one for each box) are of "
                         f"{len(targets):,} films")  # fmt: skip
    names = list(targets)
    origins = [mapping.get(name, "") for name in names]
    known = sum(map(bool, origins))
    if mapping:
        account.notes.append(f"{known:,} of {len(names):,} films are named by the mapping")
        if known < len(names) / 2:
            raise UserError(f"{_origins.RSNA_MAPPING} names only {known:,} of the {len(names):,} "
                            f"films of {TABLE}: they do not belong together")  # fmt: skip
    else:
        account.notes.append(
            f"NO PATIENTS: {_origins.RSNA_MAPPING} does not lie beside the films, so which films "
            "of ChestX-ray14 they are is not known; the split is by film"
        )
    columns = {
        "patient": [_origins.nih_patient(name) for name in origins],
        "origin_id": [f"{_origins.NIH}/{name}" if name else "" for name in origins],
        "class": [classes.get(name, "") for name in names],
        "sex": [""] * len(names), "age": [""] * len(names), "view": [""] * len(names),
    }  # fmt: skip

    def where(at: int) -> str:
        return table.where(targets[names[at]][1])

    files = FilmFiles(raw_dir, where=where)
    folder = f"{FOLDER}/" if (raw_dir / FOLDER).is_dir() else ""
    label = np.array([[value] for value, _ in targets.values()], np.float32)
    listed = _tabular.Listed([f"{folder}{name}.dcm" for name in names], label, columns, where)
    rows = _tabular.rows_of(listed, files, account, names)
    lines = [
        ("table", f"{TABLE}: {len(table):,} boxes and films without, {len(names):,} films"),
        ("films", f"{len(rows):,} there, {len(account.missing):,} missing"),
        ("origin", said or "NOT KNOWN: RSNA's mapping is not beside the films"),
        ("patients", f"{len(set(columns['patient'])):,}, the NIH's" if known else "NOT KNOWN"),
        ("sex, age, view", "by the headers of the films"),
    ]  # fmt: skip
    understood = _tabular.understood(lines, rows, LABELS, _tabular.policies_of(options, LABELS))
    kept = {TABLE: raw_dir / TABLE}
    return _raw.Scan(rows, account, files=kept, understood=understood)


def _classes(raw_dir: Path) -> dict[str, str]:
    """{film: class} of the detailed table, where it is at hand."""
    if not (raw_dir / CLASSES).is_file():
        return {}
    table = _tables.read(raw_dir / CLASSES, ("patientId", "class"))
    return dict(zip(table.columns["patientId"], table.columns["class"]))


def boxes(options: Mapping[str, Any]) -> list[Box]:
    """(film id, 'Pneumonia', (x0, y0, x1, y1)) of every box, as fractions of width and height."""
    prepared = open_prepared(RsnaPneumonia, options)
    sizes = {name: (int(w), int(h)) for name, w, h in zip(
        *(prepared.table[key].tolist() for key in ("id", "width", "height")))}  # fmt: skip
    table = _tables.read(prepared.directory / TABLE, ("patientId", "x", "y", "width", "height"))
    return boxes_of(table, "patientId", ("x", "y", "width", "height"), sizes, lambda _: LABELS[0])
