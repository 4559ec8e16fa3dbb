"""CheXpert (Stanford; Irvin et al., AAAI 2019): 223,414 training films of 64,540 patients.

Raw folder: `train.csv` and `valid.csv` (and `test.csv` where it is at hand), and the films that
their `Path` names. `Path` begins with the set's own folder (`CheXpert-v1.0/`,
`CheXpert-v1.0-small/`), which may be the raw folder, lie in it, or not be there at all. Patient and
study are in the path: `patient00001/study1/view1_frontal.jpg`.

Labels are 1, 0, -1 (uncertain) or empty (not mentioned). `uncertain` and `empty` say, label by
label, whether such a label is unknown ('ignore': out of the loss and of the figures), 'zeros' or
'ones'. The paper takes empty as negative, and so does the default here.

Traps. The 234 validation films were read by three radiologists and the training labels come from a
report labeller: their prevalence differs much. Lateral films are in the set (`views=frontal` leaves
them out, `views=''` keeps them). Without `test.csv` the official split here takes valid.csv as its
test and carves validation out of train by patient; the protocol line says which it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data.sets import _raw, _tables, _tabular
from cxrjax.data.sets._film_files import FilmFiles
from cxrjax.data.sets._opening import open_prepared
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, WrongFolder
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion",
    "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
    "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
TASK = "multilabel"
MASKS = ()
DEFAULTS = {
    **_tabular.DEFAULTS,
    "labels": "",  # all 14; 'competition' for its five; or names as 'Edema,Fracture'
    "empty": "zeros",
    "split": "official",  # or 'random' by patient
    "views": "frontal",
}
FILES = {"train": "train.csv", "val": "valid.csv", "test": "test.csv"}


class CheXpert(FilmBuilder, skip_registration=True):
    """CheXpert, decoded to one size."""

    name = "chexpert"
    labels = LABELS
    HOMEPAGE = "https://stanfordmlgroup.github.io/competitions/chexpert"
    CITATION = "Irvin et al., CheXpert, AAAI 2019"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    path = folder / FILES["train"]
    if not path.is_file():
        return False
    with open(path, errors="replace") as file:
        return "Frontal/Lateral" in file.readline(2000)


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film that the tables name; see `sets.prepare`."""
    check_options(options)
    return prepare_films(CheXpert, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films with the official split, or one by patient."""
    check_options(options)
    prepared = open_prepared(CheXpert, options)
    return _tabular.opened(prepared, options, "CheXpert", chosen(options, LABELS))


def head(options: Mapping[str, Any]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """(labels, task, masks) with these options."""
    return tuple(chosen(options, LABELS)), TASK, MASKS


def chosen(options: Mapping[str, Any], every: tuple[str, ...]) -> list[str]:
    """The labels that the option `labels` wants."""
    wanted = options["labels"]
    return _tabular.choose_labels(
        options["name"], COMPETITION if wanted == "competition" else wanted, every
    )


def check_options(options: Mapping[str, Any]) -> None:
    """Raises UserError at an option that is none of its values."""
    _tabular.check_choices(options)
    known = ("official", "random")
    if options["split"] not in known:
        raise UserError(f"{options['name']}: split={options['split']!r} is not known"
                        + suggest(str(options["split"]), known))  # fmt: skip
    chosen(options, LABELS)
    _tabular.policies_of(options, LABELS)


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: the rows of its tables, joined with the films that are there."""
    raw_dir = _raw.raw_folder(options)
    if not looks_like(raw_dir):
        raise WrongFolder(f"chexpert: {raw_dir} has no {FILES['train']} with CheXpert's columns")
    account = Account("chexpert", raw_dir=str(raw_dir.resolve()))
    tables, listed, sizes = [], [], {}
    columns: dict[str, list[str]] = {
        key: [] for key in ("patient", "study", "split", "sex", "age", "view")
    }
    labels, places = [], []
    for split, name in FILES.items():
        if not (raw_dir / name).is_file():
            account.notes.append(f"there is no {name}")
            continue
        table = _tables.read(raw_dir / name, ("Path", *LABELS))
        tables.append(table)
        sizes[split] = len(table)
        places += [(table, row) for row in range(len(table))]
        listed += table.columns["Path"]
        labels.append(_tabular.label_columns(table, LABELS))
        columns["split"] += [split] * len(table)
        columns["sex"] += table.optional("Sex")
        columns["age"] += table.optional("Age")
        columns["view"] += _views(table)
    for row, path in enumerate(listed):
        patient = re.search(r"(patient\d+)[/\\](study\d+)", path)
        if not patient:
            table, at = places[row]
            raise UserError(f"{table.where(at)}: {path!r} names no patientNNNNN/studyN")
        columns["patient"].append(patient[1])
        columns["study"].append(f"{patient[1]}/{patient[2]}")
    if "val" not in sizes and "test" not in sizes:
        account.notes.append("no valid.csv and no test.csv: only split=random can be made")
    elif "test" not in sizes:
        account.notes.append("no test.csv: valid.csv is the test split, validation is carved out "
                             "of train.csv by patient")  # fmt: skip
        columns["split"] = ["test" if split == "val" else split for split in columns["split"]]
    account.rows_read = len(listed)

    def where(row: int) -> str:
        return places[row][0].where(places[row][1])

    label = np.concatenate(labels)
    files = FilmFiles(raw_dir, listed, where)
    rows = _tabular.rows_of(_tabular.Listed(listed, label, columns, where), files, account)
    lines = [
        ("tables", "; ".join(f"{t.path.name}: {len(t):,} rows, {t.how}" for t in tables)),
        ("films", f"{len(rows):,} there, {len(account.missing):,} missing"),
        ("patients", f"{len(set(columns['patient'])):,}, by the paths"),
        ("labels wanted", ", ".join(chosen(options, LABELS))),
    ]  # fmt: skip
    policies = _tabular.policies_of(options, LABELS)
    return _raw.Scan(rows, account, understood=_tabular.understood(lines, rows, LABELS, policies))


def _views(table: _tables.Table) -> list[str]:
    """AP or PA of frontal films, LATERAL of the others; by the file's name where no column says.

    The table of test films has no such columns: these are FRONTAL.
    """
    side = table.optional("Frontal/Lateral")
    view = table.optional("AP/PA")
    found = []
    for path, one, position in zip(table.columns["Path"], side, view):
        which = (one or path.rpartition("_")[2].partition(".")[0]).upper()
        found.append(position if which == "FRONTAL" and position else which)
    return found
