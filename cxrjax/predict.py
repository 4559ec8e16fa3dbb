"""Probabilities for films on disk, with a network restored from its workdir."""

from __future__ import annotations

import collections
import csv
import glob
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from cxrjax import pictures, preprocess, report, steps
from cxrjax.errors import UserError
from cxrjax.trained import Run, restore

# Pictures of kinds that cannot be read count as films too: they are named as failures.
SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".bmp", ".tif", ".tiff"}
Failures = list[tuple[pathlib.Path, str]]


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


def as_trained(run: Run, film: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "s s 1"]:
    """A film as the run's network takes it, prepared as those that it was trained on.

    Artefacts are taken out at the film's own size: after resizing, ribs are as narrow as they.
    """
    options = run.config.dataset
    if options.get("remove_artifacts", False):
        film = preprocess.remove_bright_artifacts(film)
    size, fit = run.config.image_shape[0], options.get("fit", "stretch")
    return preprocess.resize(film, size, fit)[..., None]


def read_all(
    run: Run, paths: Sequence[pathlib.Path], failures: Failures
) -> Iterator[tuple[pathlib.Path, UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "s s 1"]]]:
    """(file, the film as it is, `as_trained`) of the films that can be read, in order.

    The others are added to `failures`. Few films are held at a time, however many there are.
    """

    def read(path):
        try:
            film = preprocess.read_radiograph(path)
            return path, film, as_trained(run, film), ""
        except UserError as error:
            return path, None, None, str(error)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), 64):
            for path, film, ready, error in pool.map(read, paths[start : start + 64]):
                if error:
                    failures.append((path, error.removeprefix(f"{path}: ")))
                else:
                    yield path, film, ready


def predict_paths(
    run: Run, paths: Sequence[pathlib.Path], cleaned: pathlib.Path | None = None
) -> tuple[list[str], dict[str, Float[np.ndarray, "n k"]], Failures]:
    """Probabilities of every film that can be read.

    Args:
      cleaned: folder for before/after pictures of `remove_bright_artifacts`, None for no pictures.

    Returns:
      The files, {network: probabilities f64[N,K]}, and (file, reason) of those not read.
    """
    failures: Failures = []
    mesh, size = steps.make_mesh(), run.config.eval_batch_size
    # One film need not wait for a batch of many.
    size = min(size, -(-len(paths) // mesh.size) * mesh.size)
    predict = steps.jit_predict(run.predict, mesh)
    names = picture_names(paths)

    def batches():
        waiting = []
        films = tqdm(read_all(run, paths, failures), "reading", len(paths), unit="film")
        for path, film, ready in films:
            if cleaned is not None:
                after = preprocess.remove_bright_artifacts(film)
                pictures.before_and_after(film, after).save(cleaned / f"{names[path]}.png")
            waiting.append((str(path), ready))
            if len(waiting) == size:
                yield make_batch(waiting, size)
                waiting = []
        if waiting:
            yield make_batch(waiting, size)

    files, outputs = steps.predict_all(predict, run.states, batches(), mesh)
    task = run.meta["task"]
    return files, {n: report.probabilities(o["logits"], task) for n, o in outputs.items()}, failures


def make_batch(
    films: Sequence[tuple[str, UInt8[np.ndarray, "s s 1"]]], size: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """A batch of `size` films {image, weight} and the names of the real ones; weight 0 pads."""
    image = np.stack([film for _, film in films])
    image = np.concatenate([image, np.repeat(image[:1], size - len(image), axis=0)])
    weight = (np.arange(size) < len(films)).astype(np.float32)
    return {"image": image, "weight": weight}, [name for name, _ in films]


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


def write_csv(
    path: pathlib.Path, files: Sequence[str], names: Sequence[str],
    probabilities: Mapping[str, np.ndarray], layout: str,
) -> None:
    """Writes a row per file ('wide') or per file and label ('long')."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # File names may hold bytes that are no text: they are written as they are.
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            out = csv.writer(file)
            out.writerow(["file", "network", *names] if layout == "wide"
                         else ["file", "network", "label", "probability"])
            for network, probs in probabilities.items():
                for name, row in zip(files, probs):
                    values = [f"{p:.6f}" for p in row]
                    if layout == "wide":
                        out.writerow([name, network, *values])
                    else:
                        out.writerows([name, network, label, v] for label, v in zip(names, values))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def _check_writable(path: pathlib.Path) -> None:
    """Raises UserError before hours of work rather than after them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written (no permission)")


def main(
    workdir: str | None, images: str | None, checkpoint: str = "best", output: str | None = None,
    layout: str = "wide", show_cleaned: bool = False, tta: bool = False,
) -> int:
    """`--mode=predict`: probabilities of new films as CSV; status 1 if a film could not be read."""
    paths = find_films(images)
    run = restore(workdir, checkpoint, tta)
    target = pathlib.Path(output).expanduser() if output else pathlib.Path(workdir)
    if target.is_dir():
        target = target / "predictions.csv"
    _check_writable(target)
    cleaned = None
    if show_cleaned:
        cleaned = target.parent / "cleaned"
        cleaned.mkdir(parents=True, exist_ok=True)
    files, probabilities, failures = predict_paths(run, paths, cleaned)
    write_csv(target, files, run.meta["labels"], probabilities, layout)
    if len(files) == 1:
        _print_one(run, files[0], probabilities)
    print(f"{len(files):,} films predicted: {target}")
    if cleaned is not None:
        print(f"before and after the removal of bright artefacts: {cleaned}")
        if not run.config.dataset.get("remove_artifacts", False):
            print("(the network was trained on films as they are, and read them so)")
    return report_failures(failures, len(paths))


def report_failures(failures: Failures, number: int) -> int:
    """Names the files that could not be read on stderr; the exit status, 1 if there are any."""
    if not failures:
        return 0
    print(f"{len(failures):,} of {number:,} files could not be read:", file=sys.stderr)
    for path, why in failures:
        print(f"  {path}: {why}", file=sys.stderr)
    return 1


def _print_one(run: Run, file: str, probabilities: Mapping[str, Any]) -> None:
    print(file)
    for network, probs in probabilities.items():
        print(f"  {network}")
        for label, p in sorted(zip(run.meta["labels"], probs[0]), key=lambda item: -item[1]):
            print(f"    {p:6.1%}  {label}")
