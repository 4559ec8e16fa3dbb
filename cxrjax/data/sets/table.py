"""A table of one's own and a folder of films: CSV, TSV or ';' text, as spreadsheets write it.

Raw folder: the films, however deep. `table` is the file (in the raw folder, or anywhere); the other
options name its columns. What is left empty is looked for under its usual names, and said before
anything is read. A cell names its film by path within the raw folder, by file name, or by id
without a suffix ('_film_files'); nothing outside the raw folder is read.

Labels are one column for each label (1, 0, -1 or 'u' for uncertain, empty), or one column of names
('Effusion|Mass', 'Effusion, Mass'), or one column of classes. Uncertain and empty labels become
unknown, negative or positive by `uncertain` and `empty`, label by label.

Traps. Without a column of patients the split is by film, and films of one patient leak: the
protocol line says so. A table that never says 'no' (1 or empty) has its empty cells read as no,
which is said; `empty=ignore` reads them as unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cxrjax.data.sets import _columns, _raw, _table_labels, _tables, _tabular
from cxrjax.data.sets._film_files import FilmFiles
from cxrjax.data.sets._opening import Prepared, open_prepared
from cxrjax.data.sets._preparation import prepare as prepare_films
from cxrjax.data.sets._records import FilmBuilder
from cxrjax.data.sets.base import SPLITS, Account, Films, printable, shortlist
from cxrjax.errors import UserError

LABELS = ()  # those of the table: `head` knows them once it is prepared
TASK = "auto"
MASKS = ()
DEFAULTS = {
    **_tabular.DEFAULTS,
    "table": "",  # the file; empty: the only table in the raw folder
    "path": "",  # column of the films
    "labels": "",  # a column, or several as 'Edema,Mass'
    "classes": "",  # names to take out of a column of names, in order; all if empty
    "task": "auto",  # 'multilabel' or 'multiclass'
    "empty": "auto",
    "patient": "",
    "split": "",  # a column, or 'random'
    "sex": "",
    "age": "",
    "view": "",
    "site": "",
    "mask": "",  # a column, or one for each structure as 'lungs,heart'
}
COLUMNS = ("patient", "split", "sex", "age", "view", "site")


class OwnTable(FilmBuilder, skip_registration=True):
    """Films of a table of one's own, decoded to one size."""

    name = "table"
    stored = (
        "table", "path", "labels", "classes", "task", "patient", "split", "sex", "age",
        "view", "site", "mask",
    )  # fmt: skip


def prepare(options: Mapping[str, Any]) -> Account:
    """Decodes every film that the table names; see `sets.prepare`."""
    _tabular.check_choices(options)
    return prepare_films(OwnTable, options, scan)


def load(options: Mapping[str, Any]) -> Films:
    """Opens the prepared films, split by the table's column or by patient."""
    prepared = _open(options)
    facts = prepared.stored["understood"]
    return _tabular.opened(
        prepared, options, f"table {Path(facts['table']).name}", published_split=False,
        empty=facts["empty"], notes={"table": facts}, allow_flip=False,
    )  # fmt: skip


def head(options: Mapping[str, Any]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """(labels, task, masks) of the prepared table."""
    prepared = _open(options)
    return prepared.labels, prepared.task, prepared.masks


def _open(options: Mapping[str, Any]) -> Prepared:
    """The films that were prepared of the table as it is now, else those that there are, and said.

    Without the table, which prepared films do not need, there is nothing to compare.
    """
    try:
        raw_dir = _raw.folder_of(options["raw_dir"] or ".")
        now = _digest(_table_file(raw_dir, options["table"]))
    except (UserError, OSError):
        return open_prepared(OwnTable, options)
    prepared = open_prepared(OwnTable, options, {"table_sha256": now})
    if prepared.stored["table_sha256"] != now:
        logging.warning(
            "%s is not as it was when these films were prepared (%s): to use it as it is now, run "
            "--mode=prepare", prepared.stored["understood"]["table"], prepared.directory.name,
        )
    return prepared


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan(options: Mapping[str, Any]) -> _raw.Scan:
    """What the table and the folder hold, and how the table was understood."""
    raw_dir = _raw.raw_folder(options)
    path = _table_file(raw_dir, options["table"])
    table = _tables.read(path)
    account = Account("table", raw_dir=str(raw_dir.resolve()), rows_read=len(table))
    chosen = _choose_columns(table, options)
    masks = [name.strip() for name in options["mask"].split(",") if name.strip()]
    masks = [_column(table, name, "mask") for name in masks]
    if not masks and (found := _columns.usual("mask", table.header)):
        masks = [found]
    labels = _table_labels.read(table, options, {*chosen.values(), *masks})
    policies = None
    if labels.task == "multilabel":
        policies = _tabular.policies_of(options, labels.names, labels.empty)

    columns = {key: table.columns[name] for key, name in chosen.items() if key != "path"}
    if "split" in columns:
        columns["split"] = _sides(table, chosen["split"])
    cells = table.columns[chosen["path"]]
    keep = [row for row in range(len(table)) if row not in labels.dropped]
    for why in dict.fromkeys(labels.dropped.values()):
        account.dropped[why] = sum(other == why for other in labels.dropped.values())
    listed = _tabular.Listed(
        [cells[row] for row in keep], labels.values[keep],
        {key: [column[row] for row in keep] for key, column in columns.items()},
        lambda row: table.where(keep[row]),
        [[table.columns[name][row] for row in keep] for name in masks],
    )  # fmt: skip
    files = FilmFiles(raw_dir, listed.cells, listed.where)
    rows = _tabular.rows_of(listed, files, account)
    own = _own_files(raw_dir, path)
    account.extra_films = [film for film in account.extra_films if film not in own]
    account.notes = [*labels.notes, *account.notes, *_notes(rows, chosen)]
    lines = [
        ("table", f"{path.name}: {len(table):,} rows, {table.how}"),
        ("films", f"column {chosen['path']!r}: {len(rows):,} there, "
                  f"{len(account.missing):,} missing, {len(account.duplicate_rows):,} rows twice, "
                  f"{len(account.extra_films):,} films that no row names"),
        ("labels", labels.how),
        ("task", labels.task),
        *((key, _said(key, chosen, rows, options)) for key in COLUMNS),
    ]  # fmt: skip
    lines += [("mask", f"column {', '.join(masks)!r}")] if masks else []
    names = tuple(_mask_name(name) for name in masks)
    understood = _tabular.understood(lines, rows, labels.names, policies)
    facts = {"table": str(path), "columns": chosen, "labels": labels.how, "empty": labels.empty}
    return _raw.Scan(
        rows, account, {"understood": facts, "table_sha256": _digest(path)}, labels=labels.names,
        masks=names, task=labels.task, understood=understood,
    )  # fmt: skip


def _table_file(raw_dir: Path, given: str) -> Path:
    """The table: as given, within the raw folder or from here; else the only one that there is."""
    if given:
        path = _raw.folder_of(given)
        tries = [path] if path.is_absolute() else [raw_dir / path, path]
        for one in tries:
            if one.is_file():
                return one
        where = " nor ".join(str(one) for one in tries)
        raise UserError(f"table: there is no file {where}: set dataset.table to the table of films")
    there = sorted(p for p in raw_dir.iterdir()
                   if p.name.lower().endswith(_tables.SUFFIXES) and p.is_file()
                   and not p.name.startswith("."))  # fmt: skip
    likely = [p for p in there if not p.name.lower().endswith((".txt", ".txt.gz"))] or there
    if len(likely) == 1:
        return likely[0]
    what = f"several tables ({shortlist([p.name for p in likely])})" if likely else "no table"
    raise UserError(f"table: raw_dir {raw_dir} holds {what}: set dataset.table to the file")


def _own_files(raw_dir: Path, table: Path) -> set[str]:
    return {table.name} if table.parent == raw_dir else set()


def _column(table: _tables.Table, name: str, option: str) -> str:
    try:
        table.column(name)
    except UserError as error:
        raise UserError(f"dataset.{option}: {error}") from None
    return name


def _choose_columns(table: _tables.Table, options: Mapping[str, Any]) -> dict[str, str]:
    """{'path': column, 'patient': column, ...}: as named, else by the usual names."""
    chosen = {}
    for key in ("path", *COLUMNS):
        given = options[key]
        if key == "split" and given == "random":
            continue
        name = _column(table, given, key) if given else _columns.usual(key, table.header)
        if name and (given or name not in chosen.values()):
            chosen[key] = name
    if "path" not in chosen:
        usual = ", ".join(_columns.USUAL["path"][:6])
        raise UserError(
            f"{table.path}: which column names the films? None has a usual name ({usual}, ...): "
            f"set dataset.path to one of {shortlist(table.header)}"
        )
    return chosen


def _sides(table: _tables.Table, name: str) -> list[str]:
    sides = []
    for row, cell in enumerate(table.columns[name]):
        side = _columns.split_of(cell)
        if side is None:
            raise UserError(
                f"{table.where(row)}: {cell[:80]!r} in column {printable(name)!r} is no "
                "part of a split: write train, val or test (or leave it empty), or set "
                "dataset.split=random"
            )
        sides.append(side)
    return sides


def _mask_name(column: str) -> str:
    words = [w for w in column.replace("_", " ").split()
             if w.casefold() not in ("mask", "path", "file")]  # fmt: skip
    return " ".join(words) or "mask"


def _said(
    key: str, chosen: Mapping[str, str], rows: Sequence[_raw.Row], options: Mapping[str, Any]
) -> str:
    """How a column was understood, with the values that it has."""
    if key not in chosen:
        if key == "patient":
            return "NO PATIENTS: split by film, films of one patient may be on two sides"
        if key == "split":
            return f"made here, {options['shares']}, seed {options['seed']}"
        return "-"
    values = [row.columns[key] for row in rows]
    if key == "patient":
        known = {value for value in values if value}
        unknown = sum(not value for value in values)
        return (f"column {chosen[key]!r}: {len(known):,} patients"
                + (f", {unknown:,} films of unknown ones" if unknown else ""))  # fmt: skip
    if key == "age":
        ages = [_columns.age_of(value) for value in values]
        known = [age for age in ages if age == age]
        shown = f"{min(known):g} to {max(known):g} years" if known else "no age"
        return f"column {chosen[key]!r}: {shown}, {len(ages) - len(known):,} unknown"
    read = {"sex": _columns.sex_of, "view": _columns.view_of}.get(key, str)
    counts: dict[str, int] = {}
    for value in values:
        counts[read(value)] = counts.get(read(value), 0) + 1
    order = list(SPLITS) if key == "split" else []
    shown = sorted(counts, key=lambda v: (order.index(v) if v in order else 9, -counts[v], v))
    parts = [f"{counts[v]:,} {v or 'unknown'}" for v in shown]
    return f"column {chosen[key]!r}: {shortlist(parts)}"


def _notes(rows: Sequence[_raw.Row], chosen: Mapping[str, str]) -> list[str]:
    notes = []
    if "patient" not in chosen:
        notes.append("NO PATIENTS in the table: the split is by film, and figures may be too good")
    elif "split" in chosen:
        sides: dict[str, set[str]] = {}
        for row in rows:
            if row.columns["patient"] and row.columns["split"]:
                sides.setdefault(row.columns["patient"], set()).add(row.columns["split"])
        crossing = [patient for patient, on in sides.items() if len(on) > 1]
        if crossing:
            notes.append(
                f"{len(crossing):,} patients are on two sides of the split: {shortlist(crossing)}"
            )
    if "split" in chosen:
        none = [row.id for row in rows if not row.columns["split"]]
        if none:
            notes.append(f"{len(none):,} films are in no part of the split: {shortlist(none)}")
    if "age" in chosen:
        odd = [row.columns["age"] for row in rows
               if row.columns["age"] and np.isnan(_columns.age_of(row.columns["age"]))]  # fmt: skip
        if odd:
            notes.append(f"{len(odd):,} ages are no age and count as unknown: {shortlist(odd)}")
    if "sex" in chosen:
        odd = [row.columns["sex"] for row in rows
               if row.columns["sex"] and not _columns.sex_of(row.columns["sex"])]  # fmt: skip
        if odd:
            notes.append(f"{len(odd):,} films have no known sex: {shortlist(sorted(set(odd)))}")
    return notes
