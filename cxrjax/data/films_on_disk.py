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

from cxrjax.data import artifacts, preprocess, reading
from cxrjax.data.parallel import cores, ordered_map
from cxrjax.errors import UserError

# Pictures of kinds that cannot be read count as films too: they are named as failures.
SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".bmp", ".tif", ".tiff"}
Failures = list[tuple[pathlib.Path, str]]  # (file, why it could not be read)


def find_films(images: str | None) -> list[pathlib.Path]:
    """The films that FILE, FOLDER (with its subfolders) or a quoted PATTERN means, sorted.

    In a folder, files with the suffixes of films count, and DICOM files without any suffix; hidden
    files do not. Links are followed. What is there but cannot be read (a link to nowhere, a
    subfolder without permission) is in the answer too, so that reading it names it as a failure.

    Raises:
      UserError: nothing is there.
    """
    if not images:
        raise UserError("give --images=FILE, a folder, or a quoted pattern such as 'new/*.png'")
    path = pathlib.Path(images).expanduser()
    if path.is_dir():
        found = sorted(_walk(path))
        what = f"no film in the folder {images} (looked for {', '.join(sorted(SUFFIXES))})"
    elif path.is_file():
        found, what = [path], ""
    else:
        found = sorted(pathlib.Path(p) for p in glob.glob(str(path), recursive=True))
        found = [p for p in found if p.is_file()]
        what = f"no file, folder or match for --images={images}"
    if not found:
        raise UserError(what)
    return found


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The films in a folder and the folders below it, and those folders that cannot be read."""
    refused: list[pathlib.Path] = []
    visited = set()

    def refuse(error: OSError) -> None:
        refused.append(pathlib.Path(error.filename))

    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(where)
        if real in visited:  # a link to a folder above
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for path in map(pathlib.Path(where).joinpath, files) if _is_film(path))
    yield from refused


def _is_film(path: pathlib.Path) -> bool:
    if path.name.startswith(".") or path.name == "DICOMDIR":  # the table of contents of a CD
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    # DICOM exports name their files IM0001, or 1.2.840.113619.
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return True  # cannot be opened: it will be named as a failure


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
    paths: Sequence[pathlib.Path], size: int, options: Mapping[str, Any], failures: Failures
) -> Iterator[tuple[pathlib.Path, UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "s s 1"]]]:
    """(file, the film as it is, `as_prepared`) of the films that can be read, in order.

    The others are added to `failures`. Few films are held at a time, however many there are.
    """

    def read(path):
        try:
            film = reading.read_radiograph(path)
            return path, film, as_prepared(film, size, options), ""
        except UserError as error:
            return path, None, None, str(error)

    for path, film, ready, error in ordered_map(read, paths, min(8, cores())):
        if error:
            failures.append((path, error.removeprefix(f"{path}: ")))
        else:
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
