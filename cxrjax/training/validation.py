"""Judging states on the validation split while they train, and when they have converged."""

from __future__ import annotations

import functools
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float

from cxrjax.data import input_pipeline, npz, progress
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.metrics import _common, decisions, ranking, segmentation
from cxrjax.metrics.ranking import probabilities
from cxrjax.training import losses, processes, steps


class Validation:
    """Judges states on the validation split; keeps what the best ones predicted."""

    def __init__(self, config: Any, films: Films, mesh: jax.sharding.Mesh, predict: Callable):
        self._config, self._films, self._mesh = config, films, mesh
        self._positions = films.splits["val"]
        keep = ("logits", "mask_logits") if films.masks else ("logits",)
        self._predict = steps.jit_predict(predict, mesh, keep)
        self._labels = input_pipeline.labels_of(films, self._positions)

    def foresee(self, states: Any) -> dict[str, float]:
        """The figures of a call, all 0, without asking the networks; shapes of states will do."""
        image = jax.ShapeDtypeStruct((self._mesh.size, *self._config.image_shape), np.uint8)
        outputs = jax.eval_shape(self._predict, states, image)
        names = quick_scores(
            self._labels, np.zeros_like(self._labels), self._config.task
        )
        scores = {f"val/{name}/{k}": 0.0 for name in outputs for k in names}
        dice = {f"val/{name}/dice": 0.0 for name, out in outputs.items() if "mask_logits" in out}
        return {**scores, **dice}

    def __call__(self, states: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """({'val/<network>/<metric>': value}, {'ids': [N], '<network>': logits [N, K]})."""
        batches = input_pipeline.eval_batches(
            self._films, self._positions, self._config.eval_batch_size, self._config.threads
        )
        shown = progress.of(batches, f"validation, {len(self._positions):,} films",
                            -(-len(self._positions) // self._config.eval_batch_size), "batch",
                            silent=not processes.is_first(), leave=False)
        only_dice = functools.partial(segmentation.score_batch, figures=("dice",))
        ids, outputs = steps.predict_all(
            self._predict, states, shown, self._mesh, only_dice if self._films.masks else None
        )
        scores = {}
        for name, out in outputs.items():
            summary = quick_scores(self._labels, out["logits"], self._config.task)
            if "dice" in out:
                summary["dice"] = _common.mean_counted(out["dice"])[0]
            scores.update({f"val/{name}/{k}": v for k, v in summary.items()})
        return scores, {"ids": np.asarray(ids), **{n: o["logits"] for n, o in outputs.items()}}


def check_monitor(config: Any) -> None:
    """Raises UserError where no network can have the figure that `config.monitor` names.

    What the films and the task decide; whether a network has a decoder is seen later, when its
    outputs are.
    """
    multiclass = config.task == "multiclass"
    known = ["accuracy"] * multiclass + ["auroc"] + ["dice"] * bool(config.masks) + ["loss"]
    if config.monitor not in known:
        raise UserError(
            f"config.monitor = {config.monitor!r} is not measured (known: {', '.join(known)})"
        )


def monitored(scores: Mapping[str, float], monitor: str) -> float:
    """The figure that chooses the best checkpoint: the mean over the networks, larger is better.

    Raises:
      UserError: no network reports `monitor`.
    """
    found = [v for k, v in scores.items() if k.rpartition("/")[2] == monitor]
    if not found:
        known = sorted({k.rpartition("/")[2] for k in scores})
        raise UserError(f"config.monitor = {monitor!r} is not measured (known: {', '.join(known)})")
    value = float(np.mean(found))
    return -value if monitor == "loss" else value


def choose_monitor(config: Any, films: Films) -> tuple[str, str]:
    """(the figure that chooses the checkpoint, what is to be said of it; '' where nothing is).

    `config.monitor`, unless the validation films cannot give it: an AUROC needs a label of which
    some films have it and some have not, a Dice a film with a mask. Then it is the loss.
    """
    wanted, positions = config.monitor, films.splits["val"]
    why = ""
    if wanted == "auroc" and len(positions):
        labels = input_pipeline.labels_of(films, positions)
        judged = ((labels == 1).any(0) & (labels == 0).any(0)).sum()
        if not judged:
            why = "every label has one class only there"
    elif wanted == "dice" and len(positions) and "has_mask" in films.table:
        if not films.table["has_mask"][positions].any():
            why = "no film has a mask there"
    if not why:
        return wanted, ""
    return "loss", (
        f"config.monitor = {wanted!r} cannot be measured on these {len(positions):,} validation "
        f"films ({why}): the checkpoint is chosen by the loss"
    )


def forget_predictions_after(step: int, workdir: pathlib.Path) -> None:
    """Deletes the workdir's validation predictions that were made after `step`."""
    for path in workdir.glob("val_predictions_*.npz"):
        try:
            stale = int(npz.read(path)["step"]) > step
        # What numpy, zipfile and zlib raise on files that are damaged.
        except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, RuntimeError,
                MemoryError, zipfile.BadZipFile, zlib.error) as error:
            logging.warning("%s is damaged (%s): deleted, evaluation makes it anew", path, error)
            stale = True
        if stale:
            path.unlink()


def warn_of_idle_decoder(config: Any, scores: Mapping[str, float]) -> None:
    """Says so where a Dice will be reported of a decoder that no loss trains."""
    if config.loss.get("dice_weight", 1.0) == 0 and any(k.endswith("/dice") for k in scores):
        logging.warning(
            "config.loss.dice_weight is 0: the decoder of %s is NOT TRAINED and its Dice means "
            "nothing; set --config.loss.dice_weight=1", config.model.name,
        )


def quick_scores(
    labels: Float[np.ndarray, "n k"], logits: Float[np.ndarray, "n k"], task: str
) -> dict[str, float]:
    """What is watched in training: unweighted loss, macro AUROC, and accuracy for one-of-N."""
    scores = probabilities(logits, task)
    auroc = _common.mean_counted(ranking.auroc(labels, ranking.log_odds(logits, task)))[0]
    answers, truth = jnp.asarray(logits), jnp.asarray(labels)
    if task == "multilabel":
        # As in training: the mean over the films of each one's mean over its known labels.
        films = losses.masked_mean(losses.bce(answers, truth), ~jnp.isnan(truth), axis=-1)
        return {"loss": float(jnp.mean(films)), "auroc": auroc}
    accuracy = decisions.multiclass(labels, scores)["accuracy"]
    loss = float(jnp.mean(losses.softmax_ce(answers, truth)))
    return {"loss": loss, "auroc": auroc, "accuracy": accuracy}


def convergence(
    evaluations: Sequence[Mapping[str, Any]], steps_per_epoch: float | int
) -> dict[str, float]:
    """{network: the epoch after which its validation loss hardly ever falls below its best}.

    `metrics.convergence_epoch` over the evaluations, told in epochs. A network without any finite
    validation loss is left out.

    Args:
      evaluations: rows with `step` and 'val/<network>/loss'; other rows are passed over.
      steps_per_epoch: of the training.
    """
    found = {}
    names = dict.fromkeys(
        key.split("/")[1] for row in evaluations for key in row
        if key.startswith("val/") and key.endswith("/loss")
    )
    for name in names:
        rows = [row for row in evaluations if row.get(f"val/{name}/loss") is not None]
        curve = [row[f"val/{name}/loss"] for row in rows]
        if np.isfinite(curve).any():
            found[name] = rows[convergence_epoch(curve) - 1]["step"] / steps_per_epoch
    return found


def convergence_epoch(losses: Sequence[float] | Float[np.ndarray, " e"], share: float = 0.1) -> int:
    """The epoch after which the validation loss hardly ever falls below its best so far.

    Epochs count from 1; an epoch is a record if its loss is below all before it. The answer is the
    first record since which, at every later epoch, at most `share` of the epochs passed were
    records: with a tenth, the next record is at least 10 epochs away, the one after it 20. A
    network that is still learning when it is stopped gets its last record. NaN is no record.

    Raises:
      UserError: no epoch has a loss.
    """
    losses = np.asarray(losses, float)
    best = np.fmin.accumulate(np.concatenate([[np.inf], losses]))
    record = losses < best[:-1]
    if not record.any():
        raise UserError("no convergence epoch: the run has no validation loss")
    for epoch in np.flatnonzero(record):
        later = np.cumsum(record[epoch + 1 :])
        if np.all(later <= share * np.arange(1, len(later) + 1)):
            return int(epoch) + 1
    raise AssertionError("unreachable: the last record has no record after it")
