"""What a run answers on films of a data set, and what a report says of the run."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cxrjax.data import input_pipeline, progress
from cxrjax.data.sets.base import Films
from cxrjax.evaluation import circumstances
from cxrjax.evaluation.answers import Answers
from cxrjax.metrics import segmentation
from cxrjax.training import steps, validation, writers
from cxrjax.training.restored import Run


def predict_split(
    run: Run, films: Films, split: str, predict: Any, mesh: jax.sharding.Mesh,
    clock: circumstances.Clock | None = None,
) -> tuple[list[str], dict[str, dict[str, np.ndarray]]]:
    """Ids and {network: {output: [N, ...]}} of one split; `predict` from `steps.jit_predict`.

    Masks come as their scores, see `segmentation.score_batch`. A `clock` is told how long the
    networks took.
    """
    positions, size = films.splits[split], run.config.eval_batch_size
    batches = input_pipeline.eval_batches(films, positions, size, run.config.threads)
    total = -(-len(positions) // size)
    words = f"answers to the {split} split, {len(positions):,} films"
    reduce = segmentation.score_batch if films.masks else None
    begun, waited = time.monotonic(), 0.0

    def arriving() -> Iterator[Any]:
        nonlocal waited
        since = time.monotonic()
        for batch in batches:
            waited += time.monotonic() - since
            yield batch
            since = time.monotonic()
        waited += time.monotonic() - since

    shown = progress.of(arriving(), words, total, "batch")
    found = steps.predict_all(predict, run.states, shown, mesh, reduce)
    if clock is not None:
        clock.of_networks(begun, waited)
    return found


def run_facts(
    run: Run, workdir: str | pathlib.Path, which: str, answers: Answers, weights: str, seen: str,
    changed: str = "",
) -> dict[str, Any]:
    """The part of a report that is about the run.

    Args:
      run: restored from the workdir.
      workdir: of the run.
      which: of its checkpoints.
      answers: that make its probabilities.
      weights: from `answers.weights_of`.
      seen: from `provenance.refuse_seen`.
      changed: from `provenance.changed`.
    """
    epochs = run.meta["steps_per_epoch"]
    return {
        "workdir": str(workdir), "checkpoint": which, "step": run.step, "tta": run.tta,
        "weights": weights, "calibrated": answers.fitted, "not used": list(answers.said),
        "epoch": run.step / epochs, "trained_with": run.meta["versions"],
        "seed": run.config.seed, "image_size": run.config.image_shape[0],
        "init_from": run.config.init_from, "config": run.config.to_dict(),
        "convergence": validation.convergence(writers.read(workdir), epochs),
        "trained_for": run.config.total_steps / epochs,
        "changed": changed, "recalibrated": run.meta.get("recalibrated", ""), "seen": seen,
    }
