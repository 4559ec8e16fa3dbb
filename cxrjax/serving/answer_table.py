"""The table of a prediction: rows written as they come, read back to be gone on with.

While it grows it is called `NAME.partial`; it gets its name when every film has its rows. Beside it
stands `NAME.about.json`: which run answered, how thresholds were chosen, whether it is calibrated.
A table is gone on with by the same source and options only, so that it is the table that an
undisturbed run would have written.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import io
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from cxrjax.errors import UserError
from cxrjax.training.workdir import write_text

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One film's answers by one network.

    Attributes:
      file: of the film.
      network: that answers.
      probabilities: f64[K]; None where the film could not be read.
      spread: f64[K], None where there is none.
      decisions: f64[K]: 1, 0 or NaN where a label has no threshold.
      warnings: what is unusual about the film.
      error: why it could not be read.
    """

    file: str
    network: str
    probabilities: np.ndarray | None = None
    spread: np.ndarray | None = None
    decisions: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the rows of a table look like.

    Attributes:
      kind: 'csv' or 'jsonl'.
      labels: names of the K labels.
      networks: number of networks, each with its row (or rows) of a film.
      long: a row per label; else one for all.
      spread, decisions: whether there are columns for them.
      thresholds: {network: f64[K]} for the long layout; may be empty.
    """

    kind: str
    labels: tuple[str, ...]
    networks: int
    long: bool = False
    spread: bool = False
    decisions: bool = False
    thresholds: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def rows_of_a_film(self) -> int:
        return self.networks * (len(self.labels) if self.long else 1)

    def header(self) -> list[str]:
        """The titles of the columns."""
        if self.long:
            more = ["spread"] * self.spread + ["threshold", "decision"] * self.decisions
            columns = ["label", "probability", *more]
        else:
            columns = [*self.labels, *(f"{k} spread" for k in self.labels if self.spread),
                       *(f"{k} decision" for k in self.labels if self.decisions)]
        return ["file", "network", *columns, "warnings", "error"]

    def head(self) -> str:
        """What stands before the first row."""
        return _csv([self.header()]) if self.kind == "csv" else ""

    def text(self, row: Row) -> str:
        """The row (or rows) of a network's answer to a film."""
        if self.kind == "jsonl":
            return json.dumps(self._object(row), allow_nan=False) + "\n"
        count = len(self.labels)
        values = [_numbers(row.probabilities, count), _numbers(row.spread, count),
                  _decisions(row.decisions, count)]
        begin, end = [row.file, row.network], ["; ".join(row.warnings), row.error]
        if not self.long:
            wanted = [values[0], values[1] * self.spread, values[2] * self.decisions]
            return _csv([[*begin, *(v for part in wanted for v in part), *end]])
        points = _numbers(self.thresholds.get(row.network), count)
        return _csv([
            [*begin, label, values[0][k], *[values[1][k]] * self.spread,
             *[points[k], values[2][k]] * self.decisions, *end]
            for k, label in enumerate(self.labels)
        ])

    def _object(self, row: Row) -> dict[str, Any]:
        def by_label(values: np.ndarray | None) -> dict[str, float] | None:
            return None if values is None else {
                label: round(float(v), 6) for label, v in zip(self.labels, values)}

        answer: dict[str, Any] = {"probabilities": by_label(row.probabilities)}
        if self.spread:
            answer["spread"] = by_label(row.spread)
        if self.decisions:
            answer["decisions"] = None if row.decisions is None else {
                label: None if math.isnan(d) else bool(d)
                for label, d in zip(self.labels, row.decisions)}
        return {"file": row.file, "network": row.network, **answer,
                "warnings": list(row.warnings), "error": row.error or None}


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _numbers(values: np.ndarray | None, count: int) -> list[str]:
    if values is None:
        return [""] * count
    return ["" if math.isnan(v) else f"{v:.6f}" for v in values.tolist()]


def _decisions(values: np.ndarray | None, count: int) -> list[str]:
    if values is None:
        return [""] * count
    return ["" if math.isnan(v) else str(int(v)) for v in values.tolist()]


@dataclasses.dataclass
class Done:
    """What a half-done table holds already.

    Attributes:
      files: of which every row is there.
      end: bytes up to the last of them.
      failed: how many of them could not be read, and the first of these, (file, why).
    """

    files: set[str]
    end: int
    failed: int = 0
    first: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def read_done(path: pathlib.Path, layout: Layout, most_named: int = 20) -> Done:
    """The films whose rows are whole in a table that was broken off anywhere, if need be in a row.

    Raises:
      UserError: it is another table: its columns are others, or its rows are no films' in turn.
    """
    done, rows, current = Done(set(), 0), 0, None
    head = layout.head().encode("utf-8", "surrogateescape")
    with path.open("rb") as file:
        begun = file.read(len(head))
        if begun != head:
            if head.startswith(begun):  # broken off in the header
                return done
            raise UserError(f"{path}: its columns are not those of this prediction: --overwrite "
                            "begins a new table")
        done.end = len(head)
        for end, (name, error) in _records(file, len(head), layout):
            if name != current:
                if rows % layout.rows_of_a_film or name in done.files:
                    raise UserError(f"{path}: the rows of {current or name} are not those of this "
                                    "prediction: --overwrite begins a new table")
                current, rows = name, 0
            rows += 1
            if rows == layout.rows_of_a_film:
                done.files.add(name)
                done.end = end
                done.failed += bool(error)
                if error and len(done.first) < most_named:
                    done.first.append((name, error))
    return done


def _records(
    file: BinaryIO, start: int, layout: Layout
) -> Iterator[tuple[int, tuple[str, str]]]:
    """(where it ends, (file, error)) of each whole record after `start`; the first broken one ends
    it."""
    if layout.kind == "jsonl":
        for line in file:
            start += len(line)
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                yield start, (record["file"], record["error"] or "")
            except (ValueError, KeyError, TypeError):
                return
        return
    columns, read = len(layout.header()), start
    whole = True

    def lines() -> Iterator[str]:
        nonlocal read, whole
        for line in file:
            read += len(line)
            whole = line.endswith(b"\n")
            yield line.decode("utf-8", "surrogateescape")

    try:
        # Only the file's name may hold a line break, and it comes first: what has all columns and
        # ends a line is whole.
        for record in csv.reader(lines()):
            if len(record) != columns or not whole:
                return
            yield read, (record[0], record[-1])
    except csv.Error:
        return


class Table:
    """A table that grows; use it as a context, and `finish` it when all rows are there."""

    def __init__(self, target: pathlib.Path, layout: Layout, about: Mapping[str, Any],
                 resume: bool = False, overwrite: bool = False):
        """Opens it; what is there already is neither lost nor gone on with unless asked for.

        Args:
          target: its name when it is whole.
          about: what it is by, JSON; what is gone on with must be by the same.
          resume: go on with a half-done table, or with a whole one whose folder has grown.
          overwrite: begin a new one; an old whole one stays until the new one is whole.

        Raises:
          UserError: one line that says which of the two to ask for, or what cannot be written.
        """
        self.target, self.layout, self._about = target, layout, dict(about)
        self.partial = target.with_name(target.name + ".partial")
        self._about_of = {path: path.with_name(path.name + ".about.json")
                          for path in (target, self.partial)}
        self.done = Done(set(), 0)
        half, whole = self.partial.exists(), target.exists()
        if not resume and not overwrite:
            if half:
                raise UserError(f"{self.partial} is a half-done table: --resume goes on with it, "
                                "--overwrite begins anew")
            if whole:
                raise UserError(f"{target} is there already: --overwrite replaces it, --resume "
                                "adds the films that it lacks, or give another --output")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            go_on = resume and (half or whole)
            if go_on:
                begun = self.partial if half else target
                self._check_about(begun)
                self.done = read_done(begun, layout)
                if not half:
                    os.replace(target, self.partial)
            self._file = self.partial.open("r+b" if go_on else "ab")
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"{self.partial} is being written by another prediction: wait for it, "
                            "or give another --output") from None
        self._file.seek(self.done.end)
        self._file.truncate()
        if not self.done.end:
            self._write(layout.head())
        self._write_about(self.partial)

    def _write_about(self, path: pathlib.Path) -> None:
        write_text(self._about_of[path], json.dumps(self._about, indent=1) + "\n")

    def _check_about(self, begun: pathlib.Path) -> None:
        try:
            before = json.loads(self._about_of[begun].read_text())
        except (OSError, ValueError):
            raise UserError(f"{self._about_of[begun]} is missing or damaged, so that it is not "
                            f"known what {begun.name} was made by: --overwrite begins anew"
                            ) from None
        now = json.loads(json.dumps(self._about))
        for key in now:
            if key not in ("cxrjax", "films") and before.get(key) != now[key]:
                raise UserError(
                    f"{begun.name} was begun with another {key} ({_cut(before.get(key))}, "
                    f"now {_cut(now[key])}): --overwrite begins anew"
                )

    def _write(self, text: str) -> None:
        # File names may hold bytes that are no text: they are written as they are.
        self._file.write(text.encode("utf-8", "surrogateescape"))

    def write(self, rows: Sequence[Row]) -> None:
        """Adds rows, all of a film together; they are there if the process ends after this."""
        try:
            self._write("".join(map(self.layout.text, rows)))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.partial}: cannot be written ({error.strerror or error}): "
                            "--resume goes on with it") from None

    def finish(self) -> None:
        """Gives the table its name."""
        os.fsync(self._file.fileno())
        self._write_about(self.target)
        os.replace(self.partial, self.target)
        self._about_of[self.partial].unlink(missing_ok=True)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def format_of(target: pathlib.Path, layout: str) -> str:
    """'csv' or 'jsonl', by the suffix.

    Raises:
      UserError: another suffix, or a layout asked for that JSON lines do not have.
    """
    kind = FORMATS.get(target.suffix.lower())
    if kind is None:
        raise UserError(f"--output={target}: a table ends in {', '.join(FORMATS)} (CSV or JSON "
                        "lines); a folder has to be there, or to end in /")
    if kind == "jsonl" and layout != "wide":
        raise UserError("--layout=long is of CSV tables: JSON lines have one line per film and "
                        "network")
    return kind
