"""Labels as they must be, film by film, before anything is trained on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from cxrjax.data import progress
from cxrjax.data.sets._records import Relabelled
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError

SAMPLE = 64  # records of one's own data set that are held against its table


def checked(films: Films, name: str) -> Films:
    """The films, once every label is known to be one; their table then has the column `label`.

    The labels are those of the table's column `label`, which is then held against some of the
    records; without such a column every record is read once. Classes given as numbers 0..K-1
    become one-hot.

    Args:
      films: as a data set's `load` gives them.
      name: of the data set, for messages.

    Raises:
      UserError: a label that is not 0, 1 or NaN (multilabel), or not one class (multiclass).
    """
    ids = films.table["id"]
    stored = "label" in films.table
    if stored:
        label = np.asarray(films.table["label"])
    else:
        bar = progress.of(range(len(films.source)), f"reading the labels of {name}",
                          len(films.source), delay=3)
        label = _stack([films.source[i]["label"] for i in bar], ids, films, name)
    fixed = check_labels(label, films.labels, films.task, ids, name)
    if stored and ":" in name and len(ids):
        places = np.unique(np.linspace(0, len(ids) - 1, SAMPLE).astype(int))
        records = [films.source[int(i)]["label"] for i in places]
        records = _stack(records, ids[places], films, name)
        found = check_labels(records, films.labels, films.task, ids[places], name)
        same = (found == fixed[places]) | (np.isnan(found) & np.isnan(fixed[places]))
        differ = np.flatnonzero(~same.all(1))
        if len(differ):
            at = int(places[differ[0]])
            raise UserError(
                f"data set {name}: film {ids[at]}: its record has the label "
                f"{found[differ[0]].tolist()}, the table's column 'label' {fixed[at].tolist()}"
            )
    source = films.source
    if label.ndim == 1:
        source = Relabelled(source, fixed)
    return dataclasses.replace(films, source=source, table={**films.table, "label": fixed})


def _stack(
    labels: Sequence, ids: Shaped[np.ndarray, " n"], films: Films, name: str
) -> Shaped[np.ndarray, "n ..."]:
    """One array of the records' labels; all must have the shape of the first."""
    arrays = [np.asarray(label) for label in labels]
    for film, array in zip(ids, arrays):
        if array.shape != arrays[0].shape:
            raise UserError(
                f"data set {name}: film {film}: a label of shape {list(array.shape)}, but "
                f"{ids[0]} has {list(arrays[0].shape)}"
            )
    if not arrays:
        return np.zeros((0, len(films.labels)), np.float32)
    return np.stack(arrays)


def check_labels(
    label: Shaped[np.ndarray, "n ..."],
    labels: Sequence[str],
    task: str,
    ids: Shaped[np.ndarray, " n"],
    name: str,
) -> Shaped[np.ndarray, "n k"]:
    """Labels f32[n, k]: multilabel 0, 1 or NaN (unknown), multiclass one-hot.

    Raises:
      UserError: names the first film whose label is none, the label and its value.
    """
    count = len(labels)
    where = f"data set {name}: film"
    if label.dtype.kind not in "fiub":
        raise UserError(f"data set {name}: labels are {label.dtype}, and should be numbers")
    label = label.astype(np.float32)
    if label.ndim == 1 and task == "multiclass":
        wrong = np.flatnonzero(~np.isin(label, np.arange(count)))
        if len(wrong):
            raise UserError(
                f"{where} {ids[wrong[0]]}: class {label[wrong[0]]:g} is none of 0 to {count - 1} "
                f"({', '.join(labels)}); {len(wrong):,} films have such labels"
            )
        return np.eye(count, dtype=np.float32)[label.astype(int)]
    if label.ndim != 2 or label.shape[1] != count:
        raise UserError(
            f"{where} {ids[0] if len(ids) else '(none)'}: a label of shape "
            f"{list(label.shape[1:])}, but there are {count} labels ({', '.join(labels)})"
        )
    if task == "multilabel":
        bad = ~((label == 0) | (label == 1) | np.isnan(label))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise UserError(
                f"{where} {ids[row]}: label {labels[column]!r} is {label[row, column]:g}, and must "
                f"be 0, 1 or NaN (unknown); {int(bad.any(1).sum()):,} films have such labels"
            )
        return label
    bad = ((label != 0) & (label != 1)).any(1) | (label.sum(1) != 1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        strange = np.flatnonzero((label[row] != 0) & (label[row] != 1))
        at = f"label {labels[strange[0]]!r} is {label[row, strange[0]]:g}" if len(strange) else (
            f"{int(label[row].sum())} of {', '.join(labels)} are 1"
        )
        raise UserError(
            f"{where} {ids[row]}: {at}, and one of N labels must be one 1 and else 0; "
            f"{int(bad.sum()):,} films have such labels"
        )
    return label
