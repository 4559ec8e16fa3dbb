"""Films in files and folders: found, read in order, prepared as a network was trained."""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from cxrjax.data import artifacts, preprocess, reading, signatures
from cxrjax.data.parallel import cores, ordered_map
from cxrjax.data.reading import RadiographFacts
from cxrjax.errors import UserError

# What is called so and is no film is a failure, not passed over.
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".dicom",
    ".dic",
}  # fmt: skip
Failures = list[tuple[pathlib.Path, str]]  # (file, why it could not be read)
Facts = dict[pathlib.Path, RadiographFacts]


def find_films(images: str | None, skipped: Failures | None = None) -> list[pathlib.Path]:
    """The films that FILE, FOLDER (with its subfolders) or a quoted PATTERN means, sorted.

    In a folder a film is known by its first bytes, whatever its name; a file that is called a film
    and is none is in the answer too, as is what cannot be read (a link to nowhere, a subfolder
    without permission), so that reading it names it as a failure. Links are followed.

    Args:
      skipped: to be filled with (file, why) of all other files there.

    Raises:
      UserError: nothing is there.
    """
    if not images:
        raise UserError("give --images=FILE, a folder, or a quoted pattern such as 'new/*.png'")
    path = pathlib.Path(images).expanduser()
    others: Failures = []
    if path.is_dir():
        found = sorted(_walk(path, others))
        what = f"no film in the folder {images} (looked for {signatures.FILMS}"
        if others:
            file, why = others[0]
            what += f"; passed over {len(others):,} files, as {file.name}: {why}"
        what += ")"
    elif path.exists():
        found, what = [path], ""
    else:
        found = sorted(pathlib.Path(p) for p in glob.glob(str(path), recursive=True))
        found = [p for p in found if not p.is_dir()]
        what = f"no file, folder or match for --images={images}"
    if not found:
        raise UserError(what)
    if skipped is not None:
        skipped += others
    return found


def _walk(folder: pathlib.Path, skipped: Failures) -> Iterator[pathlib.Path]:
    """The films in a folder and the folders below it, and those folders that cannot be read."""
    refused: list[pathlib.Path] = []
    visited = set()

    def refuse(error: OSError) -> None:
        refused.append(pathlib.Path(error.filename))

    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = pathlib.Path(where)
        real = os.path.realpath(where)
        if real in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(real)
        skipped += [(here / name, "hidden") for name in sorted(folders) if name.startswith(".")]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if why := why_no_film(here / name):
                skipped.append((here / name, why))
            else:
                yield here / name
    yield from refused


def why_no_film(path: pathlib.Path) -> str:
    """Why a file among films is to be passed over; '' where it is one, or is called one."""
    if path.name.startswith("."):
        return "hidden"
    if path.name.upper() == "DICOMDIR":
        return "the table of contents of a DICOM medium"
    if path.suffix.lower() in SUFFIXES:
        return ""
    try:
        if path.exists() and not path.is_file():
            return "a device or a pipe"  # opening it could wait for ever
        with path.open("rb") as file:
            head = file.read(signatures.HEAD)
    except OSError:
        return ""  # cannot be opened: it will be named as a failure
    return "" if signatures.kind_of(head) else signatures.name_other(head)


def as_prepared(
    film: UInt8[np.ndarray, "h w"], size: int, options: Mapping[str, Any]
) -> UInt8[np.ndarray, "_ _ 1"]:
    """A film as a data set prepares it, and so as a network takes it.

    Artefacts are taken out at the film's own size: after resizing, ribs are as narrow as they.

    Args:
      film: as read.
      size: side of the prepared film in pixels; 0: it stays as it is, for what prepares it itself.
      options: of the data set; `fit` and `remove_artifacts` count.
    """
    if not size:
        return film[..., None]
    if options.get("remove_artifacts", False):
        film = artifacts.remove_bright_artifacts(film)
    return preprocess.resize(film, size, options.get("fit", "stretch"))[..., None]


def read_all(
    paths: Sequence[pathlib.Path], size: int, options: Mapping[str, Any], failures: Failures,
    facts: Facts | None = None, strict: bool = False,
) -> Iterator[tuple[pathlib.Path, UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "s s 1"]]]:
    """(file, the film as it is, `as_prepared`) of the films that can be read, in order.

    Few films are held at a time, however many there are.

    Args:
      options: of the data set; `reading` says how (see `gray`), beside what `as_prepared` takes.
      failures: to be filled with (file, why) of the others.
      facts: to be filled with what each film was on disk, and what is unusual about it.
      strict: count unusual films as failures.
    """
    for read in read_each(paths, ((size, options),), strict):
        if read.error:
            failures.append((read.path, read.error))
        else:
            if facts is not None:
                facts[read.path] = read.facts[0]
            yield read.path, read.film, read.ready[0]


class Read(NamedTuple):
    """What became of one file.

    Attributes:
      path: of the file.
      film: u8[h, w] as it is, in the first way; None where it could not be read.
      ready: `as_prepared` in each way, u8[s, s, 1].
      facts: what it was on disk, in each way.
      error: why it could not be read, without the file's name; '' where it could.
    """

    path: pathlib.Path
    film: np.ndarray | None = None
    ready: tuple[np.ndarray, ...] = ()
    facts: tuple[RadiographFacts, ...] = ()
    error: str = ""


def read_each(
    paths: Sequence[pathlib.Path], ways: Sequence[tuple[int, Mapping[str, Any]]],
    strict: bool = False,
) -> Iterator[Read]:
    """Every file in order, read by threads ahead of whoever takes it; few are held at a time.

    Args:
      ways: (size, options of the data set) that each film is prepared for; several networks may
        want several. A film is read once in each way of `options['reading']`.
      strict: count unusual films as failures.
    """
    versions = [reading.version_of(options) for _, options in ways]

    def read(path: pathlib.Path) -> Read:
        try:
            films = {v: reading.read_radiograph_with_facts(path, v, strict)
                     for v in dict.fromkeys(versions)}
            ready = tuple(as_prepared(films[v][0], size, options)
                          for v, (size, options) in zip(versions, ways))
        except UserError as error:
            return Read(path, error=str(error).removeprefix(f"{path}: "))
        return Read(path, films[versions[0]][0], ready, tuple(films[v][1] for v in versions))

    return ordered_map(read, paths, min(8, cores()))


def picture_names(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """A name for the pictures of each film: its stem, with folders where two stems are the same."""
    shared = collections.Counter(p.stem for p in paths)
    names: dict[pathlib.Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = path.stem if shared[path.stem] == 1 else "__".join(path.parts[-3:])
        name = name.replace("/", "").replace("\\", "")
        while name in taken:
            name += "_"
        taken.add(name)
        names[path] = name
    return names


def report_failures(
    failures: Failures, number: int, failed: int | None = None, where: str = ""
) -> int:
    """Names the files that could not be read on stderr; the exit status, 1 if there are any.

    Args:
      failures: (file, why) of them, or of the first of them.
      number: of files in all.
      failed: how many could not be read, if not all are in `failures`.
      where: what names the others.
    """
    failed = len(failures) if failed is None else failed
    if not failed:
        return 0
    print(f"{failed:,} of {number:,} files could not be read:", file=sys.stderr)
    for path, why in failures:
        print(f"  {path}: {why}", file=sys.stderr)
    if failed > len(failures):
        print(f"  and {failed - len(failures):,} more: {where}", file=sys.stderr)
    return 1


def report_skipped(skipped: Failures) -> None:
    """Names the files that are no films on stderr."""
    if skipped:
        print(f"{len(skipped):,} files are no films and were skipped:", file=sys.stderr)
    for path, why in skipped:
        print(f"  skipped {path}: {why}", file=sys.stderr)


@dataclasses.dataclass
class Unusual:
    """What is to be said of films that were read, in bounded memory however many they are.

    Attributes:
      films: how many were read.
      warned: how many of them with a warning.
      by_line: {warning: [films, the first one]}.
      guessed: how many state no range of gray; `first`, and how it was taken.
    """

    films: int = 0
    warned: int = 0
    by_line: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    guessed: int = 0
    first: str = ""

    def add(self, path: pathlib.Path, found: RadiographFacts) -> None:
        """Counts a film in."""
        self.films += 1
        self.warned += bool(found.warnings)
        for line in found.warnings:
            if line not in self.by_line and len(self.by_line) >= _MOST_LINES:
                line = "another warning"
            self.by_line.setdefault(line, [0, path])[0] += 1
        if found.guessed:
            self.first = self.first or f"{path}: {found.gray}"
            self.guessed += 1


_MOST_LINES = 200  # of different warnings: sizes in them may all differ


def report_facts(facts: Facts | Unusual, options: Mapping[str, Any]) -> None:
    """Says on stderr what is unusual about films, and how a range was guessed where it was."""
    if not isinstance(facts, Unusual):
        counted = Unusual()
        for path, found in facts.items():
            counted.add(path, found)
        facts = counted
    if facts.warned:
        print(f"{facts.warned:,} of {facts.films:,} films were read with a warning (--strict "
              "refuses them):", file=sys.stderr)
    for line, (number, path) in facts.by_line.items():
        more = f" and {number - 1:,} more" if number > 1 else ""
        print(f"  {line}: {path}{more}", file=sys.stderr)
    if not facts.guessed:
        return
    version = reading.version_of(options)
    print(f"{facts.guessed:,} of {facts.films:,} films state no range of gray, it was taken from "
          f"their values (first: {facts.first})", file=sys.stderr)
    if version != reading.NEWEST:
        print(f"  in the way of the training (dataset.reading = {version}); the newest way is "
              f"{reading.NEWEST}", file=sys.stderr)
