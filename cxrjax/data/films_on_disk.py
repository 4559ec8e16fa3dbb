"""Films in files and folders: found, read in order, prepared as a network was trained."""

from __future__ import annotations

import collections
import glob
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
) -> UInt8[np.ndarray, "{size} {size} 1"]:
    """A film as a data set prepares it, and so as a network takes it.

    Artefacts are taken out at the film's own size: after resizing, ribs are as narrow as they.

    Args:
      film: as read.
      size: side of the prepared film in pixels.
      options: of the data set; `fit` and `remove_artifacts` count.
    """
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
    version = reading.version_of(options)

    def read(path):
        try:
            film, found = reading.read_radiograph_with_facts(path, version, strict)
            return path, film, as_prepared(film, size, options), found, ""
        except UserError as error:
            return path, None, None, None, str(error)

    workers = min(8, cores())
    for path, film, ready, found, error in ordered_map(read, paths, workers):
        if error:
            failures.append((path, error.removeprefix(f"{path}: ")))
        else:
            if facts is not None:
                facts[path] = found
            yield path, film, ready


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


def report_failures(failures: Failures, number: int) -> int:
    """Names the files that could not be read on stderr; the exit status, 1 if there are any."""
    if not failures:
        return 0
    print(f"{len(failures):,} of {number:,} files could not be read:", file=sys.stderr)
    for path, why in failures:
        print(f"  {path}: {why}", file=sys.stderr)
    return 1


def report_skipped(skipped: Failures) -> None:
    """Names the files that are no films on stderr."""
    if skipped:
        print(f"{len(skipped):,} files are no films and were skipped:", file=sys.stderr)
    for path, why in skipped:
        print(f"  skipped {path}: {why}", file=sys.stderr)


def report_facts(facts: Facts, options: Mapping[str, Any]) -> None:
    """Says on stderr what is unusual about films, and how a range was guessed where it was."""
    warned = [(path, found.warnings) for path, found in facts.items() if found.warnings]
    if warned:
        print(f"{len(warned):,} of {len(facts):,} films were read with a warning (--strict refuses "
              "them):", file=sys.stderr)
    by_line: dict[str, list[pathlib.Path]] = {}
    for path, lines in warned:
        for line in lines:
            by_line.setdefault(line, []).append(path)
    for line, paths in by_line.items():
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        print(f"  {line}: {paths[0]}{more}", file=sys.stderr)
    guessed = [path for path, found in facts.items() if found.guessed]
    if not guessed:
        return
    version = reading.version_of(options)
    print(f"{len(guessed):,} of {len(facts):,} films state no range of gray, it was taken from "
          f"their values (first: {guessed[0]}: {facts[guessed[0]].gray})", file=sys.stderr)
    if version != reading.NEWEST:
        print(f"  in the way of the training (dataset.reading = {version}); the newest way is "
              f"{reading.NEWEST}", file=sys.stderr)
