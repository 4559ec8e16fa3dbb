"""Judging a trained network from its workdir alone: everything else is in the checkpoint."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float
from tqdm import tqdm

from cxrjax.data import input_pipeline, sets
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.evaluation import judge, masks, report
from cxrjax.evaluation import probe as probing
from cxrjax.evaluation.provenance import changed, open_films, refuse_seen
from cxrjax.metrics import bootstrap, decisions, segmentation, subgroups
from cxrjax.names import suggest
from cxrjax.tables import finite
from cxrjax.training import devices, processes, steps, validation, writers
from cxrjax.training.restored import Run, restore
from cxrjax.training.workdir import write_text


def predict_split(
    run: Run, films: Films, split: str, predict: Any, mesh: jax.sharding.Mesh
) -> tuple[list[str], dict[str, dict[str, np.ndarray]]]:
    """Ids and {network: {output: [N, ...]}} of one split; `predict` from `steps.jit_predict`.

    Masks come as their scores, see `segmentation.score_batch`.
    """
    positions, size = films.splits[split], run.config.eval_batch_size
    batches = input_pipeline.eval_batches(films, positions, size, run.config.threads)
    total = -(-len(positions) // size)
    bar = tqdm(batches, total=total, desc=split, unit="batch", disable=None)
    reduce = segmentation.score_batch if films.masks else None
    return steps.predict_all(predict, run.states, iter(bar), mesh, reduce)


def plot_worst(
    path: pathlib.Path, run: Run, films: Films, positions: np.ndarray, network: str,
    dice: Float[np.ndarray, "n m"], predict: Any, mesh: jax.sharding.Mesh, shown: int = 12,
) -> None:
    """Film, truth and predicted masks of the films that a network segments worst, worst first.

    Args:
      path: of the picture.
      run: as `films` and `predict`, see `predict_split`.
      positions: of the films in the data set.
      network: whose masks.
      dice: of these films, NaN where a film has no mask.
      shown: how many films.
    """
    worst = masks.worst_first(dice)[:shown]
    batches = input_pipeline.eval_batches(
        films, positions[worst], run.config.eval_batch_size, run.config.threads
    )
    truth, images = [], []

    def keep(batch, out):
        truth.append(batch["mask"] > 0.5)
        images.append(batch["image"])
        return out

    def only(states, image):
        return {network: predict(states, image)[network]}

    ids, outputs = steps.predict_all(only, run.states, batches, mesh, keep)
    masks.plot(
        path, masks.captions(ids, films.masks, dice[worst]), np.concatenate(images),
        np.concatenate(truth), outputs[network]["mask_logits"] > 0, films.masks,
        f"{network}: Dice of the {len(worst)} worst of {np.isfinite(dice).all(1).sum():,} films "
        "with a mask, worst first",
    )


def main(
    workdir: str | None, checkpoint: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | None = None, probe: bool = False,
    masks_from: str | None = None, tta: bool = False, operating_point: str | None = None,
    prevalence: float | None = None, allow_seen: bool = False, coordinator: str | None = None,
    num_processes: int | None = None, process_id: int | None = None,
) -> None:
    """`--mode=evaluate`: the report of a workdir's run on one split, with `--probe` the probe too.

    `--masks_from` names the workdir of a run whose decoder finds the lungs of films without masks.
    Of several processes every one does all of it, so that they meet in each batch, and keeps
    nothing of it if it is not the first.
    """
    processes.join(coordinator, num_processes, process_id)
    if masks_from and not probe:
        raise UserError("--masks_from is for --probe")
    if operating_point:
        decisions.parse_rule(operating_point)
    try:
        masker = restore(masks_from) if masks_from else None
    except UserError as error:
        raise UserError(f"--masks_from: {error}") from None
    run = restore(workdir, checkpoint, tta)
    films = _open(run, split, data_dir)
    if probe:
        probing.check(run, films, split, masker or run)
    seen = refuse_seen(run, films, split, allow_seen)
    folder = processes.scratch() or report_folder(workdir, split, output)
    processes.check_same({"the step": run.step, "the split": split, "--tta": tta,
                          "--probe": probe, "the number of films": len(films.table["id"])})
    devices.announce()
    _evaluate(run, films, workdir, checkpoint, split, folder, tta, operating_point, prevalence,
              seen)
    if probe:
        result = probing.probe(run, films, split, folder, masker, tta)
        print(probing.summary(result))
        print(f"probe: {folder / 'probe.md'}")


def report_folder(
    workdir: str | pathlib.Path, split: str, output: str | pathlib.Path | None
) -> pathlib.Path:
    """Where the evaluation of a split is written to."""
    return pathlib.Path(output) if output else pathlib.Path(workdir) / "evaluation" / split


def evaluate(
    workdir: str | pathlib.Path | None, which: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | pathlib.Path | None = None, tta: bool = False,
    operating_point: str | None = None, prevalence: float | None = None, allow_seen: bool = False,
) -> dict[str, Any]:
    """Evaluates every network of a run, and writes report, curves and predictions.

    Decision thresholds are chosen on the validation split, applied as they are, and kept in the
    workdir's thresholds.json.

    Args:
      workdir: of the training.
      which: checkpoint, 'best' or 'latest'.
      split: 'train', 'val' or 'test'.
      data_dir: where the prepared films are now, if not where they were.
      output: folder of the report; default workdir/evaluation/<split>.
      tta: average over each film and its mirror image.
      operating_point: how thresholds are chosen: 'youden', 'f1', 'sensitivity=0.95' or
        'specificity=0.9' (of at least so much); None: f1, for labels that are not one of N.
      prevalence: PPV and NPV are given where this share of films is positive, too.
      allow_seen: judge it on films that it, or what it came from, was trained or tuned on; the
        report says so.

    Returns:
      The report as written to report.json.
    """
    run = restore(workdir, which, tta)
    films = _open(run, split, data_dir)
    folder = report_folder(workdir, split, output)
    if operating_point:
        decisions.parse_rule(operating_point)
    seen = refuse_seen(run, films, split, allow_seen)
    return _evaluate(run, films, workdir, which, split, folder, tta, operating_point, prevalence,
                     seen)


def keep_thresholds(workdir: str | pathlib.Path, result: Mapping[str, Any]) -> None:
    """Writes the run's thresholds.json: what validation chose, for `predict` to use.

    {'rule', 'checkpoint', 'step', 'tta', 'networks': {name: {label: threshold or null}}}.
    """
    if not processes.is_first():
        return
    points = {name: own["operating point"] for name, own in result["networks"].items()}
    kept = {
        "rule": next(iter(points.values()))["rule"],
        **{key: result["run"][key] for key in ("checkpoint", "step", "tta")},
        "networks": {name: {label: own["threshold"] for label, own in point["labels"].items()}
                     for name, point in points.items()},
    }
    path = pathlib.Path(workdir) / "thresholds.json"
    try:
        write_text(path, json.dumps(finite(kept), indent=1) + "\n")
    except OSError as error:  # a run on a disk that is only read: the report has them too
        logging.warning("%s could not be written (%s)", path, error.strerror)


def _open(run: Run, split: str, data_dir: str | None) -> Films:
    """The films of the run; raises UserError where there is nothing to evaluate."""
    films = open_films(run, data_dir)
    if split not in films.splits:
        raise UserError(f"unknown split {split!r}" + suggest(split, films.splits))
    if not len(films.splits[split]):
        raise UserError(f"the {split} split has no films: {films.info.get('protocol', '')}")
    return films


def _evaluate(
    run: Run, films: Films, workdir: str | pathlib.Path, which: str, split: str,
    folder: pathlib.Path, tta: bool, operating_point: str | None, prevalence: float | None,
    seen: str,
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is known before the work
    mesh = steps.make_mesh()
    # The same program as in training: the same predictions, bit for bit.
    keep = ("logits", "mask_logits") if films.masks else ("logits",)
    predict = steps.jit_predict(run.predict, mesh, keep)
    val_ids, val_outputs = predict_split(run, films, "val", predict, mesh)
    if split == "val":
        ids, outputs = val_ids, val_outputs
    else:
        ids, outputs = predict_split(run, films, split, predict, mesh)
    labels = input_pipeline.labels_of(films, films.splits[split])
    val_labels = input_pipeline.labels_of(films, films.splits["val"])
    unit, clusters = films.clusters(films.splits[split])
    own = {c: films.table[c][films.splits[split]] for c in subgroups.COLUMNS if c in films.table}
    groups = subgroups.groups(own)
    result = {
        "run": {
            "workdir": str(workdir), "checkpoint": which, "step": run.step, "tta": tta,
            "epoch": run.step / run.meta["steps_per_epoch"], "trained_with": run.meta["versions"],
            "seed": run.config.seed, "image_size": run.config.image_shape[0],
            "init_from": run.config.init_from, "config": run.config.to_dict(),
            "convergence": validation.convergence(
                writers.read(workdir), run.meta["steps_per_epoch"]
            ),
            "trained_for": run.config.total_steps / run.meta["steps_per_epoch"],
            "changed": changed(run, films), "recalibrated": run.meta.get("recalibrated", ""),
            "seen": seen,
        },
        "labels": list(films.labels), "task": films.task, "split": split,
        "labels_version": films.info.get("labels_version", ""),
        "split_name": films.info.get("split", ""), "protocol": films.info.get("protocol", ""),
        "films": len(ids),
        "intervals": f"bootstrap over {unit}s, 1,000 resamples",
        "structures": list(films.masks),
        "networks": {
            name: judge.judge_network(
                labels, out["logits"], val_labels, val_outputs[name]["logits"], films.labels,
                films.task, clusters, operating_point=operating_point, prevalence=prevalence,
                groups=groups,
            )
            for name, out in outputs.items()
        },
    }
    segmented = {name: out for name, out in outputs.items() if "dice" in out}
    for name, out in segmented.items():
        judged, own = result["networks"][name], {k: out[k] for k in ("dice", "iou", "hd95")}
        counts = bootstrap.resample(len(ids), seed=0, cluster=clusters)
        classes = {n: labels[:, k] == 1 for k, n in enumerate(films.labels)}
        macro, judged["masks"] = segmentation.judge(
            own, films.masks, counts, classes if films.task == "multiclass" else None
        )
        judged["macro"].update(macro)
    published = getattr(sets.module(run.config.dataset.name), "PUBLISHED", ())
    logits = {name: out["logits"] for name, out in outputs.items()}
    keep_thresholds(workdir, result)
    report.write(folder, result, ids, labels, logits, published, {unit: clusters})
    if segmented:
        masks.write_scores(folder / "masks.csv", ids, films.masks, segmented,
                           report.seen_mark(result["run"]).strip())
    for name, out in segmented.items():
        if np.isfinite(out["dice"]).any():
            plot_worst(folder / f"masks_{name}.png", run, films, films.splits[split], name,
                       out["dice"], predict, mesh)
    print(report.headline(result))
    print(f"report: {folder / 'report.md'}")
    return result
