"""Reading what users have on disk: folders of films, tables, lists; errors name file and line."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrjax.data import films_on_disk
from cxrjax.data.sets.base import Account, WrongFolder, shortlist
from cxrjax.errors import UserError
from cxrjax.names import suggest

MAX_TEXT = 2**26  # bytes of a table that is read whole; ChestX-ray14's has 8 million


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One film to prepare.

    Attributes:
      id: name that is unique in the data set.
      film: the file, or its pixels u8[h, w] where a file holds many films.
      label: K numbers, NaN = unknown.
      columns: further columns of the table beside the films.
      masks: one file per structure, None where there is none.
    """

    id: str
    film: Path | np.ndarray
    label: tuple[float, ...]
    columns: Mapping[str, str]
    masks: tuple[Path | None, ...] = ()


@dataclasses.dataclass
class Scan:
    """What a raw folder holds: the films to prepare, and what the account knows so far.

    Attributes:
      rows: in the order in which they will be stored.
      account: with everything that was left out on the way to `rows`.
      resolved: storage options as they turned out (an 'auto' replaced by what was found).
      files: small files to keep beside the films, by the name they get there.
      labels, masks, task: where the labels are those of a table; None: as the module says.
      understood: lines that say how the raw folder was understood, printed before films are read.
    """

    rows: list[Row]
    account: Account
    resolved: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: dict[str, Path] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    masks: tuple[str, ...] = ()
    task: str = "multilabel"
    understood: list[str] = dataclasses.field(default_factory=list)


def folder_of(text: str | os.PathLike[str]) -> Path:
    """A path as users write it, with ~; UserError if there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no such user on this machine") from None


def raw_folder(options: Mapping[str, Any], may_be_file: bool = False) -> Path:
    """The raw folder of `options`; raises WrongFolder if it is not one."""
    name, raw_dir = options["name"], options.get("raw_dir")
    if not raw_dir:
        raise UserError(f"{name}: raw_dir is not set: give the folder that holds its raw films")
    path = folder_of(raw_dir)
    if may_be_file and path.is_file():
        return path
    if not path.exists():
        raise WrongFolder(f"{name}: raw_dir {path} does not exist")
    if not path.is_dir():
        raise WrongFolder(f"{name}: raw_dir {path} is a file, not a folder")
    return path


@dataclasses.dataclass
class Folders:
    """Films by file name in some folders.

    Attributes:
      films: path by file name; the first one where a name occurs in several folders.
      repeated: later files of a name that was already found.
      others: files that are not films, with the reason.
      inner: folders within, which are not looked into.
    """

    films: dict[str, Path]
    repeated: list[str]
    others: list[str]
    inner: list[str]

    def notes(self) -> list[str]:
        """Lines for the account."""
        lines = []
        if self.repeated:
            lines.append(
                f"{len(self.repeated):,} films lie in two folders, the first one was read: "
                + shortlist(self.repeated)
            )
        if self.others:
            lines.append(
                f"{len(self.others):,} files that are not films were passed over: "
                + shortlist(self.others)
            )
        if self.inner:
            lines.append(
                f"{len(self.inner):,} folders lie beside the films and were not looked into: "
                + shortlist(self.inner)
            )
        return lines


def is_film(name: str) -> bool:
    """Whether a file's name ends as films' names do."""
    return Path(name).suffix.lower() in films_on_disk.SUFFIXES


def list_films(folders: Sequence[Path]) -> Folders:
    """Films that lie directly in `folders`, sorted by name within each.

    What is not called a film is one if its first bytes say so. A link counts whether or not it
    leads anywhere: a film that is not there any more is to be missed, not forgotten.
    """
    found = Folders({}, [], [], [])
    for folder in folders:
        with os.scandir(folder) as entries:
            files = sorted((e.name, e.path, e.is_dir()) for e in entries)
        for name, path, is_folder in files:
            if is_folder:
                if not name.startswith("."):
                    found.inner.append(path)
            elif why := films_on_disk.why_no_film(Path(path)):
                if why != "hidden":  # .DS_Store, the ._* twins that macOS writes beside each film
                    found.others.append(f"{path} ({why})")
            elif name in found.films:
                found.repeated.append(path)
            else:
                found.films[name] = Path(path)
    return found


def by_stem(films: Mapping[str, Path], what: str) -> dict[str, Path]:
    """Files by their names without suffixes.

    Raises:
      UserError: two of them differ in nothing but the suffix; `what` says what they are.
    """
    found: dict[str, Path] = {}
    for path in films.values():
        if path.stem in found:
            raise UserError(
                f"{path} and {found[path.stem].name} beside it are both {what} {path.stem!r}: "
                "remove one of them"
            )
        found[path.stem] = path
    return found


def read_text(path: Path) -> str:
    """A text file, unpacked if its name ends in .gz; UserError if it is none, or too long a one."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read(MAX_TEXT + 1)  # a small .gz can unpack to any size
        if len(data) > MAX_TEXT:
            raise UserError(f"{path}: more than {MAX_TEXT >> 20} MB of text, which no such table "
                            "or list has; is it another file?")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); fetch it again") from None


def read_csv(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line number, {column: value}) of every row of a CSV file with a header.

    Raises:
      UserError: not readable, a required column missing, a row with too few or too many fields (its
        values would stand in the wrong columns), or no rows.
    """
    text = read_text(path)
    try:
        reader = csv.reader(text.splitlines())
        header = [name.strip() for name in next(reader, [])]
        for column in required:
            if column not in header:
                raise UserError(
                    f"{path}: no column {column!r} in its first line"
                    + suggest(column, [name for name in header if name] or ["an empty line"])
                )
        rows = []
        for fields in reader:
            if not fields:
                continue
            if len(fields) < len(header) - header.count(""):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has "
                    f"{len(header)}: the file is cut off or edited; fetch it again"
                )
            if len(fields) > len(header) and any(f.strip() for f in fields[len(header) :]):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, but the header has "
                    f"{len(header)}: a comma too many, or one that should stand in quotes"
                )
            rows.append((reader.line_num, dict(zip(header, map(str.strip, fields)))))
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None
    if not rows:
        raise UserError(f"{path}: has a header but no rows")
    return rows


def check_file_name(name: str, where: str) -> None:
    """Raises UserError if `name` is empty or could lead out of the folder of the films."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(
            f"{where}: {name!r} is not a plain file name; films are named without a folder, and "
            "nothing outside raw_dir is read"
        )


def read_list(path: Path) -> list[str]:
    """File names of a split list: the first word of every line that has one.

    Raises:
      UserError: unreadable, empty, a name that leaves the folder, or a name given twice.
    """
    names, seen = [], set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        check_file_name(words[0], f"{path}, line {number}")
        if words[0] in seen:
            raise UserError(f"{path}, line {number}: {words[0]} stands in the list twice")
        seen.add(words[0])
        names.append(words[0])
    if not names:
        raise UserError(f"{path}: the list is empty")
    return names
