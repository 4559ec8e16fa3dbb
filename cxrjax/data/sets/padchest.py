"""PadChest (Bustos et al., Med. Image Anal. 2020): 160,868 films of 67,625 patients, in Spain.

Raw folder: `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` (or `.csv.gz`, or another
PADCHEST*.csv) and the 16-bit PNGs, in folders by `ImageDir` or not. Labels are a printed Python
list, sometimes with blanks inside the quotes: ['normal'], [' pleural effusion', 'nodule '].

LABELS are findings that the set names and that other sets have too; the option `labels` takes any
of the set's own names instead. A film without the name is negative.

Traps. A quarter of the labels were read by physicians, the rest by a network from the reports
(`method=Physician` keeps the former). Lateral and rib views (COSTAL) are in the set
(`views=frontal` is the default). Films whose labels are empty, or only 'unchanged', 'exclude' or
'suboptimal study', say nothing of what is seen: dropped and counted. Some PNGs are truncated. There
is no official split: it is by patient, with the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data.sets import _raw, _synonyms, _tables, _tabular
from cxrjax.data.sets._film_files import FilmFiles
from cxrjax.data.sets._opening import open_prepared
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, WrongFolder, most_common, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = (
    "normal", "atelectasis", "cardiomegaly", "pleural effusion", "infiltrates", "pulmonary mass",
    "nodule", "pneumonia", "pneumothorax", "consolidation", "pulmonary edema", "emphysema",
    "pulmonary fibrosis", "pleural thickening", "hiatal hernia", "fracture", "COPD signs",
    "interstitial pattern", "alveolar pattern", "tuberculosis", "aortic elongation", "scoliosis",
)  # fmt: skip
TASK = "multilabel"
MASKS = ()
DEFAULTS = {
    **_tabular.DEFAULTS,
    "labels": "",  # names of the set, as 'cardiomegaly,nodule'; LABELS if empty
    "method": "",  # 'Physician' or 'RNN_model' leaves the other films out when films are prepared
    "split": "random",
    "views": "frontal",
}
SAYS_NOTHING = ("unchanged", "exclude", "suboptimal study")
METHODS = ("", "Physician", "RNN_model")


class PadChest(FilmBuilder, skip_registration=True):
    """PadChest, decoded to one size."""

    name = "padchest"
    stored = ("labels", "method")
    HOMEPAGE = "https://bimcv.cipf.es/bimcv-projects/padchest/"
    CITATION = "Bustos et al., PadChest, Medical Image Analysis 66 (2020)"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return any(folder.glob("PADCHEST*.csv*"))


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film of the raw folder; see `sets.prepare`."""
    _check(options)
    return prepare_films(PadChest, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films, split by patient."""
    _check(options)
    title = "PadChest" + (f", labels by {options['method']}" if options["method"] else "")
    return _tabular.opened(open_prepared(PadChest, options), options, title)


def head(options: Mapping[str, Any]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """(labels, task, masks) with these options."""
    return tuple(_wanted(options)), TASK, MASKS


def _wanted(options: Mapping[str, Any]) -> list[str]:
    return [n.strip() for n in options["labels"].split(",") if n.strip()] or list(LABELS)


def _check(options: Mapping[str, Any]) -> None:
    _tabular.check_choices(options)
    for key, known in (("method", METHODS), ("split", ("random",))):
        if options[key] not in known:
            shown = [k or "'' (all)" for k in known]
            raise UserError(f"padchest: {key}={options[key]!r} is not known"
                            + suggest(str(options[key]), shown))  # fmt: skip


def names_of(cell: str) -> list[str]:
    """The names in a printed list, tidied: "[' nodule ', 'pleural  effusion']" gives two."""
    inner = cell.strip().removeprefix("[").removesuffix("]")
    names = (" ".join(part.strip(" '\"\t").split()) for part in inner.split(","))
    return [name for name in names if name and name.casefold() != "nan"]


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: the rows of its table, joined with the films that are there."""
    raw_dir = _raw.raw_folder(options)
    found = sorted(raw_dir.glob("PADCHEST*.csv*"))
    if not found:
        raise WrongFolder(f"padchest: {raw_dir} has no PADCHEST_..._160K_01.02.19.csv")
    account = Account("padchest", raw_dir=str(raw_dir.resolve()))
    keep = ("ImageID", "ImageDir", "StudyID", "PatientID", "PatientSex_DICOM", "PatientBirth",
            "StudyDate_DICOM", "Projection", "MethodLabel", "Labels")  # fmt: skip
    table = _tables.read(found[0], ("ImageID", "PatientID", "Projection", "Labels"), keep)
    account.rows_read = len(table)

    names, known = [], {}
    for row, cell in enumerate(table.columns["Labels"]):
        if cell and not (cell.startswith("[") and cell.endswith("]")) and cell.casefold() != "nan":
            raise UserError(f"{table.where(row)}: Labels {cell[:80]!r} is not a printed list")
        names.append([name.casefold() for name in names_of(cell)])
        for name in names[-1]:
            known[name] = known.get(name, 0) + 1
    labels = _wanted(options)
    small = {_synonyms.plain(name): name for name in known}
    lacking = [label for label in labels if _synonyms.plain(label) not in small]
    if options["labels"] and lacking:
        raise UserError(f"{table.path}: no film has the label {lacking[0]!r}"
                        + suggest(lacking[0], sorted(known)[:300]))  # fmt: skip
    place = {_synonyms.plain(label): k for k, label in enumerate(labels)}

    rows, values, dropped = [], [], {}
    methods = table.optional("MethodLabel")
    for row, own in enumerate(names):
        useful = [name for name in own if name not in SAYS_NOTHING]
        why = ""
        if options["method"] and methods[row] != options["method"]:
            why = f"its labels are not by {options['method']}"
        elif "exclude" in own:
            why = "it is labelled 'exclude'"
        elif not useful:
            why = "its labels are empty, or say nothing of what is seen"
        if why:
            dropped[why] = dropped.get(why, 0) + 1
            continue
        value = np.zeros(len(labels), np.float32)
        value[[place[n] for n in map(_synonyms.plain, useful) if n in place]] = 1
        rows.append(row)
        values.append(value)
    account.dropped = dropped
    if not rows:
        raise UserError(f"{table.path}: no row has labels that can be used ({dropped})")

    def column(name: str) -> list[str]:
        cells = table.optional(name)
        return [cells[row] for row in rows]

    cells = [f"{folder}/{name}" if folder else name
             for folder, name in zip(column("ImageDir"), column("ImageID"))]  # fmt: skip
    columns = {
        "patient": column("PatientID"), "study": column("StudyID"), "method": column("MethodLabel"),
        "sex": column("PatientSex_DICOM"), "view": column("Projection"),
        "age": [_age(b, d) for b, d in zip(column("PatientBirth"), column("StudyDate_DICOM"))],
    }  # fmt: skip

    def where(at: int) -> str:
        return table.where(rows[at])

    files = _Folders(raw_dir, where=where)
    listed = _tabular.Listed(cells, np.stack(values), columns, where)
    films = _tabular.rows_of(listed, files, account)
    rest = [(name, count) for name, count in most_common(known)
            if _synonyms.plain(name) not in place and name not in SAYS_NOTHING]  # fmt: skip
    lines = [
        ("table", f"{table.path.name}: {len(table):,} rows, {table.how}"),
        ("films", f"{len(films):,} there, {len(account.missing):,} missing, "
                  f"{sum(dropped.values()):,} left out by their labels"),
        ("patients", f"{len(set(columns['patient'])):,}"),
        ("split", "none is published: by patient, stratified, with the seed"),
        ("other names", shortlist([f"{name} ({count:,})" for name, count in rest]) or "-"),
    ]  # fmt: skip
    if lacking:
        account.notes.append(f"no film has the label {shortlist(lacking)}")
    policies = _tabular.policies_of(options, labels)
    return _raw.Scan(
        films, account, labels=tuple(labels), task=TASK,
        understood=_tabular.understood(lines, films, labels, policies),
    )  # fmt: skip


class _Folders(FilmFiles):
    """Films by ImageDir/ImageID, or by ImageID wherever they were unpacked to."""

    def find(self, cell: str, row: int) -> str | None:
        return super().find(cell, row) or super().find(cell.rpartition("/")[2], row)


def _age(birth: str, date: str) -> str:
    """Years from the year of birth and the date of the study (20140915)."""
    birth, date = birth.partition(".")[0], date.partition(".")[0]
    return str(int(date[:4]) - int(birth)) if birth.isdigit() and date[:4].isdigit() else ""
