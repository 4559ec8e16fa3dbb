"""Judging a trained network from its workdir alone: everything else is in the checkpoint."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict
from tqdm import tqdm

from cxrjax import checkpoint, datasets, input_pipeline, report, steps
from cxrjax.datasets.base import Films
from cxrjax.errors import UserError
from cxrjax.names import resolve_module, suggest


@dataclasses.dataclass(frozen=True)
class Run:
    """A restored training.

    Attributes:
      config: the completed config it was trained with.
      meta: labels, split, ids trained on, data set facts, versions.
      states: {network name: EvalState}.
      step: of the checkpoint.
      predict: (states, image) -> {name: outputs}, uncompiled, from the scheme.
    """

    config: Any
    meta: Mapping[str, Any]
    states: Mapping[str, steps.EvalState]
    step: int
    predict: Any


def restore(workdir: str | pathlib.Path | None, which: str = "best") -> Run:
    """The run that trained in `workdir`, ready to predict.

    Raises:
      UserError: no workdir, or no such checkpoint in it.
    """
    if not workdir:
        raise UserError("give --workdir=FOLDER of a training")
    config, meta, variables, step = checkpoint.restore_variables(workdir, which)
    # JSON has no tuples; the config had.
    config = FrozenConfigDict(_tuples(config))
    states = {
        name: steps.EvalState(
            params=tree["params"],
            batch_stats=tree.get("batch_stats", {}),
            ema_params=tree.get("ema_params"),
        )
        for name, tree in variables.items()
    }
    scheme = resolve_module("schemes", config.scheme.name)
    return Run(config, meta, states, step, scheme.make_predict(config))


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def open_films(run: Run, data_dir: str | None = None) -> Films:
    """The films that the run was trained on, checked to be the same ones.

    Raises:
      UserError: other labels, or films of the training split now in another one.
    """
    options = run.config.dataset.to_dict()
    if data_dir:
        options["data_dir"] = data_dir
    films = datasets.load(options)
    if list(films.labels) != list(run.meta["labels"]):
        raise UserError(
            f"the run knows the labels {', '.join(run.meta['labels'])}, the films have "
            f"{', '.join(films.labels)}: they are not those it was trained for"
        )
    trained = set(run.meta["ids"]["train"])
    for split in ("val", "test"):
        leaked = trained.intersection(films.table["id"][films.splits[split]].tolist())
        if leaked:
            raise UserError(
                f"{len(leaked)} films of the {split} split were trained on (first: "
                f"{min(leaked)}): the prepared films or the split changed since the training"
            )
    return films


def predict_split(
    run: Run, films: Films, split: str, predict: Any, mesh: jax.sharding.Mesh
) -> tuple[list[str], dict[str, dict[str, np.ndarray]]]:
    """Ids and {network: {output: [N, ...]}} of one split; `predict` from `steps.jit_predict`."""
    positions, size = films.splits[split], run.config.eval_batch_size
    batches = input_pipeline.eval_batches(films, positions, size, run.config.threads)
    total = -(-len(positions) // size)
    bar = tqdm(batches, total=total, desc=split, unit="batch")
    return steps.predict_all(predict, run.states, iter(bar), mesh)


def main(
    workdir: str | None, checkpoint: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | None = None,
) -> None:
    """`--mode=evaluate`: the report of a workdir's run on one split."""
    evaluate(workdir, checkpoint, split, data_dir, output)


def evaluate(
    workdir: str | pathlib.Path | None, which: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | pathlib.Path | None = None,
) -> dict[str, Any]:
    """Evaluates every network of a run, and writes report, curves and predictions.

    Decision thresholds are chosen on the validation split and applied as they are.

    Args:
      workdir: of the training.
      which: checkpoint, 'best' or 'latest'.
      split: 'train', 'val' or 'test'.
      data_dir: where the prepared films are now, if not where they were.
      output: folder of the report; default workdir/evaluation/<split>.

    Returns:
      The report as written to report.json.
    """
    run = restore(workdir, which)
    films = open_films(run, data_dir)
    if split not in films.splits:
        raise UserError(f"unknown split {split!r}" + suggest(split, films.splits))
    if not len(films.splits[split]):
        raise UserError(f"the {split} split has no films: {films.info.get('protocol', '')}")
    mesh = steps.make_mesh()
    # The same program as in training: the same predictions, bit for bit.
    keep = ("logits", "mask_logits") if films.masks else ("logits",)
    predict = steps.jit_predict(run.predict, mesh, keep)
    val_ids, val_outputs = predict_split(run, films, "val", predict, mesh)
    if split == "val":
        ids, outputs = val_ids, val_outputs
    else:
        ids, outputs = predict_split(run, films, split, predict, mesh)
    folder = pathlib.Path(output) if output else pathlib.Path(workdir) / "evaluation" / split
    labels = input_pipeline.labels_of(films, films.splits[split])
    val_labels = input_pipeline.labels_of(films, films.splits["val"])
    column = next((c for c in ("patient", "group") if c in films.table), None)
    clusters = films.table[column][films.splits[split]] if column else None
    result = {
        "run": {
            "workdir": str(workdir), "checkpoint": which, "step": run.step,
            "epoch": run.step / run.meta["steps_per_epoch"], "trained_with": run.meta["versions"],
            "seed": run.config.seed, "image_size": run.config.image_shape[0],
            "init_from": run.config.init_from, "config": run.config.to_dict(),
        },
        "labels": list(films.labels), "task": films.task, "split": split,
        "split_name": films.info.get("split", ""), "protocol": films.info.get("protocol", ""),
        "films": len(ids),
        "intervals": f"bootstrap over {column + 's' if column else 'films'}, 1,000 resamples",
        "networks": {
            name: report.judge_network(
                labels, out["logits"], val_labels, val_outputs[name]["logits"], films.labels,
                films.task, clusters,
            )
            for name, out in outputs.items()
        },
    }
    published = getattr(datasets.module(run.config.dataset.name), "PUBLISHED", ())
    logits = {name: out["logits"] for name, out in outputs.items()}
    report.write(folder, result, ids, labels, logits, published)
    print(report.headline(result))
    print(f"report: {folder / 'report.md'}")
    return result
