"""VinDr-CXR (Nguyen et al., Sci. Data 2022): 15,000 training and 3,000 test films, in Vietnam.

Raw folder: `train/<image_id>.dicom`, `test/<image_id>.dicom`, `annotations/image_labels_train.csv`
(a row for each film and reader), `image_labels_test.csv`, and `annotations_train.csv`,
`annotations_test.csv` with the boxes.

Three of 17 radiologists read each training film. Their votes become one label: positive where more
than half of them say so (`votes=majority`, the default), where one does (`any`) or where all do
(`all`). Test films have one label by consensus of five.

Traps. The published version has no patient ids: validation is carved out of train by film, and
films of one patient may be on two sides. Films are 12 to 16 bit DICOM, some MONOCHROME1. The 22
local and 6 global labels are one list here; 'Other lesion' and 'Other diseases' say little.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data.sets import _columns, _raw, _synonyms, _tables, _tabular
from cxrjax.data.sets._boxes import Box, boxes_of
from cxrjax.data.sets._film_files import FilmFiles
from cxrjax.data.sets._opening import open_prepared
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, WrongFolder, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
    "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity",
    "Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion",
    "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion",
    "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
TASK = "multilabel"
MASKS = ()
DEFAULTS = {
    **_tabular.DEFAULTS,
    "votes": "majority",  # or 'any', 'all'
    "split": "official",  # or 'random' by film
}
VOTES = {"majority": lambda yes, n: yes > n / 2, "any": lambda yes, n: yes > 0,
         "all": lambda yes, n: yes == n}  # fmt: skip
ALSO = {"other disease": "Other diseases", "nodule mass": "Nodule/Mass"}  # as the files spell them


class VinDrCxr(FilmBuilder, skip_registration=True):
    """VinDr-CXR, decoded to one size."""

    name = "vindr_cxr"
    labels = LABELS
    headers = True
    stored = ("votes",)
    HOMEPAGE = "https://physionet.org/content/vindr-cxr"
    CITATION = "Nguyen et al., VinDr-CXR, Scientific Data 9 (2022)"


def _labels_file(raw_dir: Path, part: str) -> Path:
    name = f"image_labels_{part}.csv"
    inner = raw_dir / "annotations" / name
    return inner if inner.is_file() else raw_dir / name


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return _labels_file(folder, "train").is_file() and (folder / "train").is_dir()


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film of the raw folder; see `sets.prepare`."""
    _check(options)
    return prepare_films(VinDrCxr, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films with the official test, or a split by film."""
    _check(options)
    title = f"VinDr-CXR, training labels by {options['votes']} of the readers"
    wanted = _tabular.choose_labels("vindr_cxr", options["labels"], LABELS)
    prepared = open_prepared(VinDrCxr, options)
    return _tabular.opened(prepared, options, title, wanted, notes={"votes": options["votes"]})


def head(options: Mapping[str, Any]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """(labels, task, masks) with these options."""
    wanted = _tabular.choose_labels("vindr_cxr", options["labels"], LABELS)
    return tuple(wanted), TASK, MASKS


def _check(options: Mapping[str, Any]) -> None:
    _tabular.check_choices(options)
    _tabular.choose_labels("vindr_cxr", options["labels"], LABELS)
    for key, known in (("votes", VOTES), ("split", ("official", "random"))):
        if options[key] not in known:
            raise UserError(f"vindr_cxr: {key}={options[key]!r} is not known"
                            + suggest(str(options[key]), known))  # fmt: skip


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: the readers' votes of each film, and the films that are there."""
    raw_dir = _raw.raw_folder(options)
    if not looks_like(raw_dir):
        raise WrongFolder(f"vindr_cxr: {raw_dir} has no folder train with "
                          "annotations/image_labels_train.csv beside it")  # fmt: skip
    account = Account("vindr_cxr", raw_dir=str(raw_dir.resolve()))
    cells, labels, splits, readers, places, names = [], [], [], [], [], []
    lines, kept = [], {}
    for part in ("train", "test"):
        path = _labels_file(raw_dir, part)
        if not path.is_file():
            account.notes.append(f"there is no {path.name}")
            continue
        table = _tables.read(path, ("image_id",))
        films, votes, first = _votes(table)
        decide = VOTES[options["votes"]]
        for name, of in votes.items():
            array = np.array(of, np.float32)
            labels.append([float(decide(yes, len(array))) for yes in array.sum(0).tolist()])
            cells.append(f"{part}/{name}.dicom")
            splits.append(part)
            readers.append(str(len(array)))
            places.append((table, first[name]))
            names.append(name)
        counts = sorted({len(of) for of in votes.values()})
        said = f"{' or '.join(map(str, counts))} {'readers' if counts != [1] else 'label'} each"
        lines.append((part, f"{path.name}: {len(table):,} rows, {films:,} films, {said}"))
        boxes_file = path.with_name(f"annotations_{part}.csv")
        if boxes_file.is_file():
            kept[boxes_file.name] = boxes_file
    account.rows_read = len(cells)
    account.notes.append(f"labels of several readers: positive by {options['votes']}")
    account.notes.append("NO PATIENTS in this set: films of one patient may be on two sides")

    def where(at: int) -> str:
        return places[at][0].where(places[at][1])

    columns = {"split": splits, "readers": readers} | {
        key: [""] * len(cells) for key in ("sex", "age", "view")
    }
    files = FilmFiles(raw_dir, where=where)
    listed = _tabular.Listed(cells, np.array(labels, np.float32), columns, where)
    rows = _tabular.rows_of(listed, files, account, names)
    lines += [
        ("films", f"{len(rows):,} there, {len(account.missing):,} missing"),
        ("votes", f"positive by {options['votes']} of a film's readers"),
        ("patients", "NOT KNOWN: the split is by film"),
        ("sex, age", "by the headers of the films"),
    ]  # fmt: skip
    policies = _tabular.policies_of(options, LABELS)
    understood = _tabular.understood(lines, rows, LABELS, policies)
    return _raw.Scan(rows, account, files=kept, understood=understood)


def _votes(table: _tables.Table) -> tuple[int, dict[str, list[list[float]]], dict[str, int]]:
    """(films, {film: [reader][label]}, {film: its first row})."""
    named = {_synonyms.plain(name): name for name in LABELS} | ALSO
    there = {named[_synonyms.plain(column)]: column for column in table.header
             if _synonyms.plain(column) in named}  # fmt: skip
    lacking = [label for label in LABELS if label not in there]
    if lacking:
        raise UserError(f"{table.path}: no column of {shortlist(lacking)}")
    votes: dict[str, list[list[float]]] = {}
    first: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    readers = table.optional("rad_id")
    columns = [table.columns[there[label]] for label in LABELS]
    for row, name in enumerate(table.columns["image_id"]):
        if (name, readers[row]) in seen:
            who = f" by {readers[row]}" if readers[row] else ""
            raise UserError(f"{table.where(row)}: {name}{who} stands there twice")
        seen.add((name, readers[row]))
        values = [_columns.number(column[row] or "0") for column in columns]
        for label, value in zip(LABELS, values):
            if value not in (0, 1):
                raise UserError(f"{table.where(row)}: {label} is neither 0 nor 1")
        votes.setdefault(name, []).append(values)
        first.setdefault(name, row)
    return len(votes), votes, first


def boxes(options: Mapping[str, Any]) -> list[Box]:
    """(film id, finding, (x0, y0, x1, y1)) of the test films, as fractions of width and height.

    Raises:
      UserError: annotations_test.csv was not beside the labels when films were prepared.
    """
    prepared = open_prepared(VinDrCxr, options)
    path = prepared.directory / "annotations_test.csv"
    if not path.is_file():
        raise UserError(f"vindr_cxr: there are no boxes: {path.name} was not in the raw folder")
    sizes = {name: (int(w), int(h)) for name, w, h in zip(
        *(prepared.table[key].tolist() for key in ("id", "width", "height")))}  # fmt: skip
    keys = ("x_min", "y_min", "x_max", "y_max")
    table = _tables.read(path, ("image_id", "class_name", *keys))
    named = {_synonyms.plain(name): name for name in LABELS} | ALSO

    def finding(row: int) -> str:
        return named.get(_synonyms.plain(table.columns["class_name"][row]), "")

    return boxes_of(table, "image_id", keys, sizes, finding, corners=True)
