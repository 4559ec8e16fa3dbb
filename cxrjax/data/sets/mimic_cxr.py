"""MIMIC-CXR-JPG (Johnson et al., 2019): 377,110 films of 65,379 patients, CheXpert's 14 labels.

Raw folder: `files/p10/p10000032/s50414267/<dicom_id>.jpg` and the tables
`mimic-cxr-2.0.0-metadata.csv.gz`, `...-split.csv.gz` and `...-chexpert.csv.gz` (or `-negbio`), of
this version or another, packed or not. With MIMIC-IV's `patients.csv(.gz)` beside them sex and age
are known too (age from the anchor year).

Labels belong to studies: every film of a study has them. They are 1, 0, -1 (uncertain) or empty
(not mentioned); `uncertain` and `empty` as for CheXpert.

Traps. A third of the films are lateral and some 15,769 have no view: unknown is not frontal, and
both are counted (`views=frontal`, the default; rarities such as 'AP AXIAL' and 'PA LLD' are
frontal). Some studies have no labels: their films are dropped and counted. Films that differ only
in brightness occur twice, in one study, so that they stay on one side of the split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrjax.data.sets import _columns, _raw, _tables, _tabular, chexpert
from cxrjax.data.sets._film_files import FilmFiles
from cxrjax.data.sets._opening import open_prepared
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import Account, Films, WrongFolder
from cxrjax.errors import UserError
from cxrjax.names import suggest

LABELS = chexpert.LABELS
TASK = "multilabel"
MASKS = ()
DEFAULTS = {
    **_tabular.DEFAULTS,
    "labeler": "chexpert",  # or 'negbio'
    "labels": "",  # all 14; 'competition' for CheXpert's five; or names
    "empty": "zeros",
    "split": "official",  # or 'random' by patient
    "views": "frontal",
}
LABELERS = ("chexpert", "negbio")


class MimicCxr(FilmBuilder, skip_registration=True):
    """MIMIC-CXR-JPG, decoded to one size."""

    name = "mimic_cxr"
    labels = LABELS
    stored = ("labeler",)
    HOMEPAGE = "https://physionet.org/content/mimic-cxr-jpg"
    CITATION = "Johnson et al., MIMIC-CXR-JPG, arXiv 1901.07042"


def looks_like(folder: Path) -> bool:
    """Whether `folder` is a raw folder of this data set."""
    return any(folder.glob("mimic-cxr-*-metadata.csv*"))


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film of the raw folder; see `sets.prepare`."""
    _check(options)
    return prepare_films(MimicCxr, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films with the official split, or one by patient."""
    _check(options)
    labels = chexpert.chosen(options, LABELS)
    title = f"MIMIC-CXR-JPG, labels of {options['labeler']}"
    return _tabular.opened(open_prepared(MimicCxr, options), options, title, labels)


def head(options: Mapping[str, Any]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """(labels, task, masks) with these options."""
    return tuple(chexpert.chosen(options, LABELS)), TASK, MASKS


def _check(options: Mapping[str, Any]) -> None:
    chexpert.check_options(options)
    if options["labeler"] not in LABELERS:
        raise UserError(f"mimic_cxr: labeler={options['labeler']!r} is not known"
                        + suggest(str(options["labeler"]), LABELERS))  # fmt: skip


def _find(raw_dir: Path, kind: str) -> Path:
    found = sorted(raw_dir.glob(f"mimic-cxr-*-{kind}.csv*"))
    if not found:
        raise WrongFolder(f"mimic_cxr: {raw_dir} has no mimic-cxr-2.0.0-{kind}.csv.gz")
    return found[0]


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What a raw folder holds: films by the metadata, labels by study, the official split."""
    raw_dir = _raw.raw_folder(options)
    account = Account("mimic_cxr", raw_dir=str(raw_dir.resolve()))
    meta = _tables.read(
        _find(raw_dir, "metadata"), ("dicom_id", "subject_id", "study_id"),
        ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"),
    )  # fmt: skip
    table = _tables.read(_find(raw_dir, options["labeler"]), ("subject_id", "study_id", *LABELS))
    label = _tabular.label_columns(table, LABELS)
    of_study = {study: row for row, study in enumerate(table.columns["study_id"])}
    if len(of_study) < len(table):
        raise UserError(f"{table.path}: {len(table) - len(of_study):,} studies stand there twice")
    lists = _tables.read(_find(raw_dir, "split"), ("dicom_id", "split"), ("dicom_id", "split"))
    sides = {}
    for row, (name, cell) in enumerate(zip(lists.columns["dicom_id"], lists.columns["split"])):
        sides[name] = _columns.split_of(cell)
        if not sides[name]:
            raise UserError(f"{lists.where(row)}: {cell!r} is no part of a split")
    people, notes = _people(raw_dir)
    account.notes += notes

    keep, cells = [], []
    columns: dict[str, list[str]] = {
        key: [] for key in ("patient", "study", "split", "sex", "age", "view")
    }
    dates = meta.optional("StudyDate")
    for row, (name, subject, study) in enumerate(
        zip(*(meta.columns[key] for key in ("dicom_id", "subject_id", "study_id")))
    ):
        if study not in of_study:
            continue
        keep.append(row)
        cells.append(f"files/p{subject[:2]}/p{subject}/s{study}/{name}.jpg")
        sex, age = people.get(subject, ("", None))
        years = "" if age is None or not dates[row][:4].isdigit() else str(
            max(0, age + int(dates[row][:4]))
        )
        for key, value in zip(columns, (subject, study, sides.get(name, ""), sex, years,
                                        meta.optional("ViewPosition")[row])):  # fmt: skip
            columns[key].append(value)
    account.rows_read = len(meta)
    if len(keep) < len(meta):
        account.dropped["its study has no labels"] = len(meta) - len(keep)
    if not keep:
        raise UserError(f"{meta.path} and {table.path.name} have no study in common")
    none = sum(not side for side in columns["split"])
    if none > len(keep) / 2:
        raise UserError(f"{lists.path}: names only {len(keep) - none:,} of {len(keep):,} films: "
                        "split and metadata do not belong together")  # fmt: skip
    unknown = sum(not _columns.view_of(view) for view in columns["view"])
    if unknown:
        account.notes.append(f"{unknown:,} films have no view: they are not taken as frontal")
    values = label[[of_study[meta.columns["study_id"][row]] for row in keep]]

    def where(row: int) -> str:
        return meta.where(keep[row])

    files = FilmFiles(raw_dir, where=where)
    ids = [meta.columns["dicom_id"][row] for row in keep]
    listed = _tabular.Listed(cells, values, columns, where)
    rows = _tabular.rows_of(listed, files, account, ids)
    lines = [
        ("films", f"{meta.path.name}: {len(meta):,} rows, {len(rows):,} films there, "
                  f"{len(account.missing):,} missing"),
        ("labels", f"{table.path.name}: {len(table):,} studies"),
        ("split", lists.path.name),
        ("patients", f"{len(set(columns['patient'])):,}"),
        ("sex and age", "of MIMIC-IV's patients table" if people else "-"),
        ("labels wanted", ", ".join(chexpert.chosen(options, LABELS))),
    ]  # fmt: skip
    policies = _tabular.policies_of(options, LABELS)
    return _raw.Scan(rows, account, understood=_tabular.understood(lines, rows, LABELS, policies))


def _people(raw_dir: Path) -> tuple[dict[str, tuple[str, int | None]], list[str]]:
    """{patient: (sex, age minus the year it was that)} of MIMIC-IV's table, and lines to say."""
    found = [p for p in (raw_dir / "patients.csv.gz", raw_dir / "patients.csv") if p.is_file()]
    if not found:
        return {}, ["no patients.csv of MIMIC-IV beside the tables: sex and age are not known"]
    table = _tables.read(found[0], ("subject_id", "gender", "anchor_age", "anchor_year"))
    people = {}
    for name, sex, age, year in zip(*(table.columns[key] for key in (
            "subject_id", "gender", "anchor_age", "anchor_year"))):  # fmt: skip
        years = int(age) - int(year) if age.isdigit() and year.isdigit() else None
        people[name] = (sex, years)
    return people, []
