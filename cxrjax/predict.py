"""Probabilities for films on disk, with a network restored from its workdir."""

from __future__ import annotations

import csv
import glob
import pathlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from cxrjax import preprocess, report, steps
from cxrjax.errors import UserError
from cxrjax.evaluate import Run, restore

SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".bmp", ".tif", ".tiff"}


def find_films(images: str | None) -> list[pathlib.Path]:
    """The films that FILE, FOLDER (with its subfolders) or a quoted PATTERN means, sorted.

    In a folder, files with the suffixes of films and files without any suffix (DICOM) count.

    Raises:
      UserError: nothing is there.
    """
    if not images:
        raise UserError("give --images=FILE, a folder, or a quoted pattern such as 'new/*.png'")
    path = pathlib.Path(images)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*")
                       if p.is_file() and (p.suffix.lower() in SUFFIXES or not p.suffix))
        what = f"no film in the folder {images} (looked for {', '.join(sorted(SUFFIXES))})"
    elif path.is_file():
        found, what = [path], ""
    else:
        found = sorted(pathlib.Path(p) for p in glob.glob(images, recursive=True))
        found = [p for p in found if p.is_file()]
        what = f"no file, folder or match for --images={images}"
    if not found:
        raise UserError(what)
    return found


def read_as_trained(run: Run, path: pathlib.Path) -> np.ndarray:
    """A film u8[H,W,1] prepared as those that the run was trained on."""
    options = run.config.dataset
    film = preprocess.read_radiograph(path)
    film = preprocess.resize(film, run.config.image_shape[0], options.get("fit", "stretch"))
    if options.get("remove_artifacts", False):
        film = preprocess.remove_bright_artifacts(film)
    return film[..., None]


def read_all(
    run: Run, paths: Sequence[pathlib.Path], failures: list[tuple[pathlib.Path, str]]
) -> Iterator[tuple[pathlib.Path, np.ndarray]]:
    """The films that can be read, in order; the others are added to `failures`."""

    def read(path):
        try:
            return path, read_as_trained(run, path), ""
        except UserError as error:
            return path, None, str(error)

    with ThreadPoolExecutor() as pool:
        for path, film, error in pool.map(read, paths):
            if film is None:
                failures.append((path, error))
            else:
                yield path, film


def predict_paths(
    run: Run, paths: Sequence[pathlib.Path]
) -> tuple[list[str], dict[str, np.ndarray], list[tuple[pathlib.Path, str]]]:
    """Probabilities of every film that can be read.

    Returns:
      The files, {network: probabilities f64[N,K]}, and (file, reason) of those not read.
    """
    failures: list[tuple[pathlib.Path, str]] = []
    mesh, size = steps.make_mesh(), run.config.eval_batch_size
    predict = steps.jit_predict(run.predict, mesh)

    def batches():
        waiting: list[tuple[pathlib.Path, np.ndarray]] = []
        films = tqdm(read_all(run, paths, failures), total=len(paths), unit="film")
        for item in films:
            waiting.append(item)
            if len(waiting) == size:
                yield _batch(waiting, size)
                waiting = []
        if waiting:
            yield _batch(waiting, size)

    files, outputs = steps.predict_all(predict, run.states, batches(), mesh)
    task = run.meta["task"]
    return files, {n: report.probabilities(o["logits"], task) for n, o in outputs.items()}, failures


def _batch(films: Sequence[tuple[pathlib.Path, np.ndarray]], size: int) -> tuple[dict, list[str]]:
    image = np.stack([film for _, film in films])
    image = np.concatenate([image, np.repeat(image[:1], size - len(image), axis=0)])
    weight = (np.arange(size) < len(films)).astype(np.float32)
    return {"image": image, "weight": weight}, [str(path) for path, _ in films]


def write_csv(
    path: pathlib.Path, files: Sequence[str], names: Sequence[str],
    probabilities: dict[str, np.ndarray], layout: str,
) -> None:
    """Writes a row per file ('wide') or per file and label ('long')."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
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


def main(
    workdir: str | None, images: str | None, checkpoint: str = "best", output: str | None = None,
    layout: str = "wide",
) -> int:
    """`--mode=predict`: probabilities of new films as CSV; status 1 if a film could not be read."""
    paths = find_films(images)
    run = restore(workdir, checkpoint)
    files, probabilities, failures = predict_paths(run, paths)
    target = pathlib.Path(output) if output else pathlib.Path(workdir) / "predictions.csv"
    write_csv(target, files, run.meta["labels"], probabilities, layout)
    if len(files) == 1:
        _print_one(run, files[0], probabilities)
    print(f"{len(files)} films predicted: {target}")
    if failures:
        print(f"{len(failures)} of {len(paths)} files could not be read:", file=sys.stderr)
        for path, why in failures:
            print(f"  {path}: {why}", file=sys.stderr)
        return 1
    return 0


def _print_one(run: Run, file: str, probabilities: dict[str, Any]) -> None:
    print(file)
    for network, probs in probabilities.items():
        print(f"  {network}")
        for label, p in sorted(zip(run.meta["labels"], probs[0]), key=lambda item: -item[1]):
            print(f"    {p:6.1%}  {label}")
