"""Probabilities for films on disk, with a network restored from its workdir."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from cxrjax.data import artifacts, input_pipeline
from cxrjax.data.films_on_disk import (
    Facts,
    Failures,
    find_films,
    picture_names,
    read_all,
    report_facts,
    report_failures,
    report_skipped,
)
from cxrjax.errors import UserError
from cxrjax.explanation import drawing
from cxrjax.metrics import ranking
from cxrjax.training import devices, published, steps
from cxrjax.training.restored import Run, restore


def predict_paths(
    run: Run, paths: Sequence[pathlib.Path], cleaned: pathlib.Path | None = None,
    facts: Facts | None = None, strict: bool = False,
) -> tuple[list[str], dict[str, Float[np.ndarray, "n k"]], Failures]:
    """Probabilities of every film that can be read.

    Args:
      cleaned: folder for before/after pictures of `remove_bright_artifacts`, None for no pictures.
      facts: to be filled with what each film was on disk, and what is unusual about it.
      strict: count films that are unusual for a chest radiograph as failures.

    Returns:
      The files, {network: probabilities f64[N,K]}, and (file, reason) of those not read.
    """
    failures: Failures = []
    mesh, size = steps.make_mesh(), run.config.eval_batch_size
    # One film need not wait for a batch of many.
    size = min(size, -(-len(paths) // mesh.size) * mesh.size)
    predict = steps.jit_predict(run.predict, mesh)
    names = picture_names(paths)

    def films():
        side, options = run.config.image_shape[0], run.config.dataset.to_dict()
        read = read_all(paths, side, options, failures, facts, strict)
        for path, film, ready in tqdm(read, "reading", len(paths), unit="film", disable=None):
            if cleaned is not None:
                after = artifacts.remove_bright_artifacts(film)
                drawing.before_and_after(film, after).save(cleaned / f"{names[path]}.png")
            yield str(path), ready

    batches = input_pipeline.batches(films(), size)
    files, outputs = steps.predict_all(predict, run.states, batches, mesh)
    task = run.meta["task"]
    answers = {n: ranking.probabilities(o["logits"], task) for n, o in outputs.items()}
    return files, answers, failures


def write_csv(
    path: pathlib.Path, files: Sequence[str], names: Sequence[str],
    probabilities: Mapping[str, np.ndarray], layout: str, facts: Facts | None = None,
) -> None:
    """Writes a row per file ('wide') or per file and label ('long'); its warnings stand last."""
    said = {str(path): "; ".join(found.warnings) for path, found in (facts or {}).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # File names may hold bytes that are no text: they are written as they are.
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            out = csv.writer(file)
            columns = names if layout == "wide" else ["label", "probability"]
            out.writerow(["file", "network", *columns, "warnings"])
            for network, probs in probabilities.items():
                for name, row in zip(files, probs):
                    values, last = [f"{p:.6f}" for p in row], said.get(name, "")
                    if layout == "wide":
                        out.writerow([name, network, *values, last])
                    else:
                        out.writerows(
                            [name, network, label, v, last] for label, v in zip(names, values)
                        )
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
    strict: bool = False,
) -> int:
    """`--mode=predict`: probabilities of new films as CSV; status 1 if a film could not be read."""
    skipped: Failures = []
    facts: Facts = {}
    paths = find_films(images, skipped)
    workdir = published.located(workdir)
    target = published.output(workdir, output)
    run = restore(workdir, checkpoint, tta)
    if target.is_dir():
        target = target / "predictions.csv"
    _check_writable(target)
    devices.announce()
    cleaned = None
    if show_cleaned:
        cleaned = target.parent / "cleaned"
        cleaned.mkdir(parents=True, exist_ok=True)
    files, probabilities, failures = predict_paths(run, paths, cleaned, facts, strict)
    write_csv(target, files, run.meta["labels"], probabilities, layout, facts)
    if len(files) == 1:
        _print_one(run, files[0], probabilities)
    print(f"{len(files):,} films predicted: {target}")
    if cleaned is not None:
        print(f"before and after the removal of bright artefacts: {cleaned}")
        if not run.config.dataset.get("remove_artifacts", False):
            print("(the network was trained on films as they are, and read them so)")
    report_skipped(skipped)
    report_facts(facts, run.config.dataset.to_dict())
    return report_failures(failures, len(paths))


def _print_one(run: Run, file: str, probabilities: Mapping[str, Any]) -> None:
    print(file)
    for network, probs in probabilities.items():
        print(f"  {network}")
        for label, p in sorted(zip(run.meta["labels"], probs[0]), key=lambda item: -item[1]):
            print(f"    {p:6.1%}  {label}")
