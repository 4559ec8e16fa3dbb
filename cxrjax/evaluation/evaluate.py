"""Judging a trained network from its workdir alone: everything else is in the checkpoint."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from cxrjax.data import input_pipeline, progress, sets
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.evaluation import (
    circumstances,
    cohort,
    compare,
    differences,
    elsewhere,
    judge,
    masks,
    report,
)
from cxrjax.evaluation import probe as probing
from cxrjax.evaluation.answers import choose, facts_of, read_calibration, write_thresholds
from cxrjax.evaluation.outputs import predict_split, run_facts
from cxrjax.evaluation.provenance import changed, mark, open_films, refuse_seen
from cxrjax.metrics import bootstrap, decisions, segmentation, subgroups
from cxrjax.names import suggest
from cxrjax.training import devices, processes, published, steps
from cxrjax.training.restored import Run, restore
from cxrjax.training.workdir import claim, seed_runs


def plot_worst(
    path: pathlib.Path, run: Run, films: Films, positions: np.ndarray, network: str,
    dice: Float[np.ndarray, "n m"], predict: Any, mesh: jax.sharding.Mesh, marked: str = "",
    shown: int = 12,
) -> None:
    """Film, truth and predicted masks of the films that a network segments worst, worst first.

    Args:
      path: of the picture.
      run: as `films` and `predict`, see `predict_split`.
      positions: of the films in the data set.
      network: whose masks.
      dice: of these films, NaN where a film has no mask.
      marked: see `plots.save`.
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
        "with a mask, worst first", marked,
    )


def main(
    workdir: str | None, checkpoint: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | None = None, probe: bool = False,
    masks_from: str | None = None, tta: bool = False, operating_point: str | None = None,
    prevalence: float | None = None, allow_seen: bool = False, dataset: Any = None,
    labels: str | None = None, coordinator: str | None = None, num_processes: int | None = None,
    process_id: int | None = None, overwrite: bool = False,
) -> None:
    """`--mode=evaluate`: the report of a workdir's run on one split, with `--probe` the probe too.

    `--masks_from` names the workdir of a run whose decoder finds the lungs of films without masks;
    `--dataset` another hospital's films, and `--labels` which of the common labels are judged
    there (`elsewhere`). The runs of several seeds are judged one by one, then put into one row of
    a comparison. Of several processes every one does all of it, so that they meet in each
    batch, and keeps nothing of it if it is not the first.
    """
    processes.join(coordinator, num_processes, process_id)
    if runs := seed_runs(workdir):
        if output:
            raise UserError(f"--output: {workdir} holds the runs of {len(runs)} seeds, whose "
                            "reports lie in each run's folder; leave it out, or give one run")
        for run in runs:
            print(f"{run.name}:")
            main(str(run), checkpoint, split, data_dir, None, probe, masks_from, tta,
                 operating_point, prevalence, allow_seen, dataset, labels, overwrite=overwrite)
        if dataset is None and len(runs) > 1 and processes.is_first():
            # It lies among the runs that it is of; there may be more of them than last time.
            compare.main(str(workdir), split, allow_seen=allow_seen, overwrite=True)
        return
    if dataset is not None:
        if probe or operating_point:
            raise UserError(f"--{'probe' if probe else 'operating_point'} is of films at home: "
                            "elsewhere the thresholds are those that home chose")
        elsewhere.evaluate(workdir, dataset, checkpoint, split, data_dir, output, tta, prevalence,
                           allow_seen, labels, overwrite)
        return
    if split == "all":
        raise UserError("--split=all is for --dataset: at home the others were trained on")
    if masks_from and not probe:
        raise UserError("--masks_from is for --probe")
    if operating_point:
        decisions.parse_rule(operating_point)
    try:
        masker = restore(masks_from) if masks_from else None
    except UserError as error:
        raise UserError(f"--masks_from: {error}") from None
    workdir = published.located(workdir)
    folder = report_folder(workdir, split, output)
    run = restore(workdir, checkpoint, tta)
    films = _open(run, split, data_dir)
    if probe:
        probing.check(run, films, split, masker or run)
    seen = refuse_seen(run, films, split, allow_seen)
    folder = processes.scratch() or folder
    _claim(folder, workdir, split, overwrite)
    processes.check_same({"the step": run.step, "the split": split, "--tta": tta,
                          "--probe": probe, "the number of films": len(films.table["id"])})
    devices.announce()
    result = probing.probe(run, films, split, folder, masker, tta, seen) if probe else None
    _evaluate(run, films, workdir, checkpoint, split, folder, tta, operating_point, prevalence,
              seen, data_dir, result)
    if result:
        print(probing.summary(result))
        print(f"probe: {folder / 'probe.md'}")


def report_folder(
    workdir: str | pathlib.Path, split: str, output: str | pathlib.Path | None
) -> pathlib.Path:
    """Where the evaluation of a split is written to."""
    return published.output(workdir, output, f"evaluation/{split}")


def evaluate(
    workdir: str | pathlib.Path | None, which: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | pathlib.Path | None = None, tta: bool = False,
    operating_point: str | None = None, prevalence: float | None = None, allow_seen: bool = False,
    trust: str | Sequence[str] = (), overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluates every network of a run, and writes report, curves and predictions.

    Decision thresholds are chosen on the validation split, applied as they are, and kept in the
    workdir's thresholds.json. Of a run that `calibrate` calibrated the probabilities are calibrated
    ones, beside those of before.

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
      trust: modules outside of cxrjax that the run's config may name.
      overwrite: whatever the folder holds, see `workdir.claim`.

    Returns:
      The report as written to report.json.
    """
    workdir = published.located(workdir)
    folder = report_folder(workdir, split, output)
    run = restore(workdir, which, tta, trust)
    films = _open(run, split, data_dir)
    if operating_point:
        decisions.parse_rule(operating_point)
    seen = refuse_seen(run, films, split, allow_seen)
    _claim(folder, workdir, split, overwrite)
    return _evaluate(run, films, workdir, which, split, folder, tta, operating_point, prevalence,
                     seen, data_dir)


def _claim(
    folder: pathlib.Path, workdir: str | pathlib.Path, split: str, overwrite: bool
) -> None:
    """What cannot be written, or would be written over, is known before the work."""
    claim(folder, f"an evaluation on the {split} split", [workdir], "report.json", overwrite)


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
    seen: str, data_dir: str | None = None, probed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    clock = circumstances.Clock()
    mesh = steps.make_mesh()
    # The same program as in training: the same predictions, bit for bit.
    keep = ("logits", "mask_logits") if films.masks else ("logits",)
    predict = steps.jit_predict(run.predict, mesh, keep)
    val_ids, val_outputs = predict_split(run, films, "val", predict, mesh, clock)
    if split == "val":
        ids, outputs = val_ids, val_outputs
    else:
        ids, outputs = predict_split(run, films, split, predict, mesh, clock)
    progress.say(f"judging {len(ids):,} films by {len(films.labels)} labels")
    labels = input_pipeline.labels_of(films, films.splits[split])
    val_labels = input_pipeline.labels_of(films, films.splits["val"])
    unit, clusters = films.clusters(films.splits[split])
    own = {c: films.table[c][films.splits[split]] for c in subgroups.COLUMNS if c in films.table}
    groups = subgroups.groups(own)
    counts = bootstrap.resample(len(ids), seed=0, cluster=clusters)  # of every figure below
    options = {**run.config.dataset.to_dict(), **({"data_dir": data_dir} if data_dir else {})}
    facts = facts_of(run, which)
    answers = choose(read_calibration(workdir, run), operating_point or judge.RULE, val_labels,
                     {name: out["logits"] for name, out in val_outputs.items()})
    result = {
        "run": run_facts(run, workdir, which, answers, facts["weights"], seen, changed(run, films)),
        "labels": list(films.labels), "task": films.task, "split": split,
        "labels_version": films.info.get("labels_version", ""),
        "split_name": films.info.get("split", ""), "protocol": films.info.get("protocol", ""),
        "films": len(ids),
        "intervals": judge.INTERVALS.format(unit),
        "structures": list(films.masks),
        "cohort": cohort.describe(films, sets.account(options, films)), "probe": probed,
        "films shown": True,
        "networks": {
            name: judge.judge_network(
                labels, out["logits"], val_labels, val_outputs[name]["logits"], films.labels,
                films.task, clusters, operating_point=operating_point, prevalence=prevalence,
                groups=groups, counts=counts, answers=answers, network=name,
            )
            for name, out in outputs.items()
        },
    }
    segmented = {name: out for name, out in outputs.items() if "dice" in out}
    for name, out in segmented.items():
        judged, own = result["networks"][name], {k: out[k] for k in ("dice", "iou", "hd95")}
        classes = {n: labels[:, k] == 1 for k, n in enumerate(films.labels)}
        macro, judged["masks"] = segmentation.judge(
            own, films.masks, counts, classes if films.task == "multiclass" else None
        )
        judged["macro"].update(macro)
    others = getattr(sets.module(run.config.dataset.name), "PUBLISHED", ())
    logits = {name: out["logits"] for name, out in outputs.items()}
    # A published network stays as it is.
    if processes.is_first() and not published.is_published(workdir):
        write_thresholds(workdir, facts, answers)
    if segmented:
        masks.write_scores(folder / "masks.csv", ids, films.masks, segmented, mark(seen).strip())
    for name, out in segmented.items():
        if np.isfinite(out["dice"]).any():
            plot_worst(folder / f"masks_{name}.png", run, films, films.splits[split], name,
                       out["dice"], predict, mesh, mark(seen))
    result["differences"] = differences.between(
        labels, logits, films.labels, films.task, clusters
    )
    result["made"] = circumstances.facts(run, films, clock)
    progress.say("writing the report")
    report.write(
        folder, result, ids, labels, logits, others, {unit: clusters}, answers, counts=counts,
        show=lambda i: films.source[int(films.splits[split][i])]["image"][..., 0],
    )
    print(report.headline(result))
    print(f"report: {folder / 'report.md'}")
    return result
