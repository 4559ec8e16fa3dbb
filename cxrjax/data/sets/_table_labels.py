"""The labels of a user's table: several columns of yes and no, or one of names or classes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from jaxtyping import Float32

from cxrjax.data.sets import _columns
from cxrjax.data.sets._tables import Table
from cxrjax.data.sets._tabular import label_columns, one_hot
from cxrjax.data.sets.base import has_controls, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

NOTHING = ("no finding", "no findings", "nofinding")  # names of no label at all
MOST = 200  # different names in one column; more are sentences, not labels
TASKS = ("auto", "multilabel", "multiclass")


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a table says about labels.

    Attributes:
      names: of the labels or classes.
      task: 'multilabel' or 'multiclass'.
      values: f32[rows, k] of 0, 1, -1 (uncertain), NaN (empty); one-hot for classes.
      how: in words, for the account.
      empty: what empty labels mean where the option is 'auto': 'ignore' or 'zeros'.
      dropped: {row: why} of rows that cannot be used.
      notes: lines for the account.
    """

    names: tuple[str, ...]
    task: str
    values: Float32[np.ndarray, "n k"]
    how: str
    empty: str = "ignore"
    dropped: Mapping[int, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(table: Table, options: Mapping[str, Any], taken: Set[str]) -> Labels:
    """The labels by the options `labels`, `classes` and `task`.

    Args:
      taken: columns that say something else.

    Raises:
      UserError: no labels are found, or a cell that is none (with its line).
    """
    task = options["task"]
    if task not in TASKS:
        raise UserError(f"table: task={task!r} is not known" + suggest(str(task), TASKS))
    names, found = _wanted(table, options["labels"], taken)
    if len(names) > 1 or (task != "multiclass" and _is_yes_or_no(table.columns[names[0]])):
        return _columns_of_labels(table, names, task, found)
    return _column_of_names(table, names[0], options["classes"], task, found)


def _wanted(table: Table, given: str, taken: Set[str]) -> tuple[list[str], str]:
    """(the columns of labels, '' or ' (found)')."""
    if given:
        names = [given] if given in table.columns else [
            name.strip() for name in str(given).split(",") if name.strip()
        ]
        for name in names:
            try:
                table.column(name)
            except UserError as error:
                raise UserError(f"dataset.labels: {error}") from None
            if name in taken:
                raise UserError(f"dataset.labels: column {name!r} of {table.path} names the films "
                                "or what is known of them, not a label")
        if len(set(names)) < len(names) or not names:
            raise UserError(f"dataset.labels={given!r}: a column is named twice, or none is")
        return names, ""
    free = [name for name in table.header if name not in taken]
    usual = _columns.usual("labels", free)
    if usual:
        return [usual], " (found by its name)"
    names = [name for name in free if _is_yes_or_no(table.columns[name])]
    if not names:
        raise UserError(
            f"{table.path}: which column holds the labels? None has a usual name, and none holds "
            f"only 0, 1 and empty cells: set dataset.labels to one or more of {shortlist(free)}"
        )
    return names, " (found by what they hold)"


def _is_yes_or_no(cells: list[str]) -> bool:
    """Whether a column holds 1 or 0 and nothing that is no label."""
    values = {_columns.label_of(cell) for cell in set(cells)}
    return None not in values and bool(values & {0.0, 1.0})


def _columns_of_labels(table: Table, names: list[str], task: str, found: str) -> Labels:
    values = label_columns(table, names)
    how = f"{len(names)} columns{found}: {shortlist(names)}"
    if task == "multiclass":
        wrong = np.flatnonzero(((values == 1).sum(1) != 1) | (values == -1).any(1))
        if len(wrong):
            raise UserError(
                f"{table.where(int(wrong[0]))}: {int((values[wrong[0]] == 1).sum())} of "
                f"{', '.join(names)} are 1: a film has exactly one class (task=multiclass)"
            )
        return Labels(tuple(names), task, (values == 1).astype(np.float32), how)
    notes, empty = [], "ignore"
    if np.isnan(values).any() and not (values == 0).any():
        empty = "zeros"
        notes.append("no cell of the labels says 0: EMPTY CELLS ARE READ AS 0 (set dataset.empty)")
    return Labels(tuple(names), "multilabel", values, how, empty, notes=tuple(notes))


def _column_of_names(table: Table, name: str, classes: str, task: str, found: str) -> Labels:
    cells = table.columns[name]
    several = any("|" in cell for cell in cells)
    comma = re.compile(r"[|,;]") if not several else re.compile(r"\|")
    if task == "multiclass":
        comma = None
    parts = [[" ".join(p.split()) for p in (comma.split(cell) if comma else [cell]) if p.strip()]
             for cell in cells]  # fmt: skip
    said = {part.casefold() for row in parts for part in row}
    nothing = said & set(NOTHING)
    if task == "auto":
        one_each = all(len(row) == 1 for row in parts)
        task = "multiclass" if one_each and not nothing and len(said) > 1 else "multilabel"
    by_case: dict[str, str] = {}
    for row in parts:
        for part in row:
            by_case.setdefault(part.casefold(), part)
    wanted = [" ".join(c.split()) for c in classes.split(",") if c.strip()]
    for one in wanted:
        if one.casefold() not in by_case:
            raise UserError(f"{table.path}: no film of column {name!r} has {one!r}"
                            + suggest(one, list(by_case.values())[:MOST]))  # fmt: skip
    skip = () if task == "multiclass" else (*NOTHING, *_columns.EMPTY)
    names = wanted or sorted((by_case[n] for n in by_case if n not in skip), key=_in_order)
    if not names:
        raise UserError(f"{table.path}: column {name!r} holds no label")
    if len(names) > MOST or max(map(len, names)) > 100:
        raise UserError(
            f"{table.path}: column {name!r} has {len(names):,} different values, such as "
            f"{names[0][:60]!r}: these are no labels; set dataset.labels, or dataset.classes to "
            "those that are wanted"
        )
    for one in names:
        if has_controls(one):
            raise UserError(
                f"{table.path}: column {name!r} has a label {one!r}, with a control character: "
                "rename it, or set dataset.classes to those that are wanted"
            )
    place = {one.casefold(): k for k, one in enumerate(names)}
    how = f"column {name!r}{found}: {len(names)} {'classes' if task == 'multiclass' else 'names'}"
    how += f": {shortlist(names)}"
    if task == "multiclass":
        return _classes(table, name, parts, names, place, how)
    return _names(parts, names, place, how, bool(nothing))


def _in_order(name: str) -> tuple[float, str]:
    """Numbers by value, words by the alphabet."""
    value = _columns.number(name)
    return (math.inf if math.isnan(value) else value, name.casefold())


def _classes(
    table: Table, name: str, parts: list[list[str]], names: list[str], place: dict[str, int],
    how: str,
) -> Labels:  # fmt: skip
    if len(names) < 2:
        raise UserError(f"{table.path}: column {name!r} has one class only, {names[0]!r}")
    dropped, values = {}, np.zeros((len(parts), len(names)), np.float32)
    for row, cell in enumerate(parts):
        if not cell or cell[0].casefold() in _columns.EMPTY:
            dropped[row] = "its class is empty"
        elif cell[0].casefold() in place:
            values[row] = one_hot(place[cell[0].casefold()], len(names))
        elif cell[0].casefold() in _columns.UNCERTAIN or cell[0] == "-1":
            dropped[row] = "its class is uncertain"
        else:
            dropped[row] = "its class is none of dataset.classes"
    return Labels(tuple(names), "multiclass", values, how, dropped=dropped)


def _names(
    parts: list[list[str]], names: list[str], place: dict[str, int], how: str, says_nothing: bool
) -> Labels:
    values = np.zeros((len(parts), len(names)), np.float32)
    empties, others, beside = 0, set(), []
    for row, cell in enumerate(parts):
        small = [part.casefold() for part in cell]
        if not cell or all(part in _columns.EMPTY for part in small):
            values[row] = np.nan
            empties += 1
            continue
        nothing = [part for part in small if part in NOTHING]
        if nothing and len(nothing) < len(small):
            beside.append("|".join(cell))
        for part in small:
            if part in place:
                values[row, place[part]] = 1
            elif part not in NOTHING:
                others.add(part)
    notes = []
    empty = "ignore" if says_nothing else "zeros"
    if empties:
        read = "UNKNOWN, as others say 'No Finding'" if says_nothing else "NO FINDING"
        notes.append(f"{empties:,} films with an empty list of labels: {read} (dataset.empty)")
    if beside:
        notes.append(f"{len(beside):,} films have 'No Finding' beside a finding: {beside[0]}")
    if others:
        notes.append(f"names that are none of dataset.classes were passed over: "
                     f"{shortlist(sorted(others))}")  # fmt: skip
    return Labels(tuple(names), "multilabel", values, how, empty, notes=tuple(notes))
