"""Opening prepared films: the right directory for the options, its table, its records."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data.sets import _columns
from cxrjax.data.sets._preparation import (
    OPTIONS,
    RECORDS,
    TABLE,
    check_options,
    pixel_options,
    read_account,
    readings,
    record_sizes,
)
from cxrjax.data.sets._records import FilmBuilder, PreparedSource, file_sums
from cxrjax.data.sets.base import Account
from cxrjax.errors import UserError
from cxrjax.names import program


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Prepared films: all of them, before any split.

    Attributes:
      directory: where they lie.
      source: random access to the records.
      table: columns in record order: 'id', 'label' (f32[n, k]), 'has_mask' (bool), 'height',
        'width' (int64, of the raw film), 'phash', 'content' and the data set's own columns, in the
        form of `_columns.standard` where several sets have them, else as strings.
      labels, masks: of the records.
      task: 'multilabel' or 'multiclass'; '' where the data set's module says.
      account: of the preparation.
      stored: the options that decided what was stored, as they turned out.
    """

    directory: Path
    source: PreparedSource
    table: dict[str, np.ndarray]
    labels: tuple[str, ...]
    masks: tuple[str, ...]
    task: str
    account: Account
    stored: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """JSON-able: which preparation this is, for `Films.info`."""
        return {
            "prepared": self.directory.name,
            "fingerprint": self.stored["fingerprint"],
            "preprocessing": {
                **{key: self.stored[key] for key in ("size", "fit", "remove_artifacts")},
                "reading": self.stored.get("reading", 1),
            },
        }


def open_prepared(
    builder: type[FilmBuilder],
    options: Mapping[str, Any],
    prefer: Mapping[str, Any] | None = None,
) -> Prepared:
    """The films that were prepared with these options.

    Args:
      prefer: what tells one of several such preparations, as it is stored beside them.

    Raises:
      UserError: none were (gives the command), several were, or they are damaged.
    """
    directory, stored = _find(builder, options, prefer or {})
    account = read_account(directory)
    if record_sizes(directory) != stored.get("records"):
        raise UserError(
            f"{directory / RECORDS}: record files are missing or cut off: copy them again, or "
            f"delete {directory} and prepare again"
        )
    sums = file_sums(directory, RECORDS)
    for name, wanted in stored.get("files", {}).items():  # folders of before 0.2 have none
        if sums.get(name) != wanted:
            raise UserError(f"{directory / name} is missing, or not as it was prepared: copy it "
                            f"again, or delete {directory} and prepare again")
    labels = tuple(stored.get("label_names", builder.labels))
    masks = tuple(stored.get("mask_names", builder.masks))
    try:
        table = _columns.standard(_read_table(directory / TABLE, labels))
    except (OSError, ValueError, KeyError, IndexError, StopIteration, csv.Error) as error:
        raise UserError(
            f"{directory / TABLE} is missing or damaged ({type(error).__name__}: {error}): delete "
            f"{directory} and prepare again"
        ) from None
    try:
        source = PreparedSource(directory / RECORDS / builder.name / str(builder.VERSION))
    except Exception as error:
        raise UserError(
            f"{directory}: its records cannot be opened ({error}); delete it and prepare again"
        ) from None
    if not len(source) == len(table["id"]) == account.films_stored:
        raise UserError(
            f"{directory}: {len(source)} records, {len(table['id'])} rows in {TABLE}, "
            f"{account.films_stored} films in the account; delete it and prepare again"
        )
    return Prepared(
        directory, source, table, labels, masks, stored.get("task", ""), account, stored
    )


def _find(
    builder: type[FilmBuilder], options: Mapping[str, Any], prefer: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    data_dir, size = check_options(options)
    wanted = pixel_options(size, options)
    wanted |= {key: options[key] for key in builder.stored}
    there, fitting = [], []
    for file in sorted(data_dir.glob(f"{builder.name}-*/{OPTIONS}")):
        try:
            stored = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError):
            raise UserError(f"{file} is damaged: delete its folder and prepare again") from None
        there.append(file.parent.name)
        if options["prepared"] and file.parent.name != options["prepared"]:
            continue
        if not all(value == "auto" or stored.get(key) == value for key, value in wanted.items()):
            continue
        if "reading" in options and options["reading"] not in readings(file.parent, stored):
            continue
        fitting.append((file.parent, stored))
    if len(fitting) > 1 and options.get("raw_dir"):
        raw_dir = str(Path(options["raw_dir"]).expanduser().resolve())
        fitting = [f for f in fitting if f[1]["raw_dir"] == raw_dir] or fitting
    if len(fitting) > 1 and prefer:
        same = [f for f in fitting if all(f[1].get(k) == v for k, v in prefer.items())]
        fitting = same or fitting
    if len(fitting) > 1 and len({(f[1]["fingerprint"], f[1].get("strict")) for f in fitting}) == 1:
        # The same films, read in several ways that all fit.
        fitting = [max(fitting, key=lambda f: f[1].get("reading", 1))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(d.name for d, _ in fitting)
        raise UserError(
            f"{data_dir} holds several preparations of {builder.name} that fit: {names}; name one "
            "with the option 'prepared', or delete the others (each has an account.json)"
        )
    del wanted["format"]
    if "reading" in options:
        wanted["reading"] = options["reading"]
    if options["prepared"]:
        wanted["prepared"] = options["prepared"]
    what = ", ".join(f"{key}={value}" for key, value in wanted.items())
    other = f" (there is: {', '.join(there)})" if there else ""
    raise UserError(
        f"{builder.name} is not prepared in {data_dir} with {what}{other}: run "
        f"`{program()} --mode=prepare` with the same --config and its dataset.raw_dir"
        + " and --config.dataset.reading=1" * (wanted.get("reading") == 1)
    )


def _read_table(path: Path, labels: tuple[str, ...]) -> dict[str, np.ndarray]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader)
        columns = dict(zip(header, zip(*reader)))
    label = np.array(
        [[float(v) if v else np.nan for v in columns.pop(f"label:{name}")] for name in labels],
        np.float32,
    ).T
    table = {name: np.array(column) for name, column in columns.items()}
    table["label"] = np.ascontiguousarray(label)
    for name in ("height", "width"):
        table[name] = table[name].astype(np.int64)
    table["has_mask"] = table["has_mask"] == "1"
    return table
