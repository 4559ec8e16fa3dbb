"""Calibrated probabilities: a map of each network's logits, fitted on the validation split.

One temperature for labels of which a film has one (Guo et al., ICML 2017), Platt scaling of each
label otherwise. A map rises: it moves no AUROC, no AP and no decision, only how far probabilities
are from frequencies. It is kept in the workdir's `calibration.json`, bound to the weights that it
was fitted for, and `answers` applies it wherever the run is read.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.data import input_pipeline
from cxrjax.errors import UserError
from cxrjax.evaluation import answers, judge
from cxrjax.evaluation.outputs import predict_split
from cxrjax.evaluation.provenance import open_films, refuse_seen
from cxrjax.metrics import calibration, decisions
from cxrjax.metrics.ranking import probabilities
from cxrjax.names import program
from cxrjax.tables import finite, number, table
from cxrjax.training import devices, published, steps
from cxrjax.training.restored import restore
from cxrjax.training.workdir import only_writer, write_text

HOW = {"multilabel": "platt", "multiclass": "temperature"}
WORDS = {"platt": "Platt scaling of each label", "temperature": "a temperature"}
# Two numbers are fitted for a label: five films of the rarer kind for each (Vittinghoff &
# McCulloch, Am J Epidemiol 2007).
LEAST = 10


def main(
    workdir: str | None, checkpoint: str = "best", data_dir: str | None = None, tta: bool = False,
    operating_point: str | None = None, allow_seen: bool = False,
) -> None:
    """`--mode=calibrate`: fits the maps of a run's networks, and keeps them in the workdir.

    Thresholds are chosen too where the workdir has none for these weights, or where
    `operating_point` asks for them.

    Args:
      workdir: of the training.
      checkpoint: 'best' or 'latest'.
      data_dir: where the prepared films are now, if they were moved.
      tta: calibrate the answers that are the mean over a film and its mirror image.
      operating_point: how thresholds are chosen.
      allow_seen: fit also on films that what the run came from was trained on.
    """
    if operating_point:
        decisions.parse_rule(operating_point)
    workdir = published.located(workdir)
    if published.is_published(workdir):
        raise UserError(f"{workdir} is a published network and stays as it is: a run is calibrated "
                        "before it is published")
    run = restore(workdir, checkpoint, tta)
    films = open_films(run, data_dir)
    if not len(films.splits["val"]):
        raise UserError("the validation split is empty: there is nothing to calibrate on")
    seen = refuse_seen(run, films, "val", allow_seen)
    devices.announce()
    with only_writer(workdir):
        mesh = steps.make_mesh()
        ids, outputs = predict_split(
            run, films, "val", steps.jit_predict(run.predict, mesh), mesh)
        logits = {name: out["logits"] for name, out in outputs.items()}
        labels = input_pipeline.labels_of(films, films.splits["val"])
        facts = answers.facts_of(run, checkpoint)
        how = HOW[films.task]
        maps = {name: calibration.fit_map(labels, own, films.task, how, LEAST)
                for name, own in logits.items()}
        words = f"{WORDS[how]}, fitted on {len(ids):,} validation films"
        kept = {**facts, "networks": maps, "fitted_on": {
            "words": words + (f" ({seen})" if "SEEN" in seen else ""),
            "films": len(ids), "split": "val", "protocol": films.info.get("protocol", ""),
            "fingerprint": films.info.get("fingerprint"),
            "positives": dict(zip(films.labels, np.nansum(labels, axis=0).astype(int).tolist())),
        }}
        write_text(f"{workdir}/{answers.CALIBRATION}", json.dumps(finite(kept), indent=1) + "\n")
        found = answers.read_answers(workdir, run)
        if operating_point or not found.rule:
            found = answers.choose(found, operating_point or judge.RULE, labels, logits)
            answers.write_thresholds(workdir, facts, found)
    print("\n".join(summary(found, labels, logits)))
    print(f"calibrated by {words}: {workdir}/{answers.CALIBRATION}. "
          f"Next: {program()} --mode=evaluate --workdir={workdir}")


def summary(
    found: answers.Answers, labels: Float[np.ndarray, "n k"], logits: dict[str, Any]
) -> list[str]:
    """A table of the networks on the films of the fit, and which labels were left as they are."""
    rows, left = [], []
    for name, own in logits.items():
        cells = []
        for p in (probabilities(own, found.task), found.probabilities(name, own)):
            loss = calibration.log_loss(labels, p)
            cells.append(number(np.nanmean(loss) if found.task == "multilabel" else loss.sum()))
        slope = [s for s, kept in zip(found.maps[name]["slope"], found.maps[name]["kept"])
                 if not kept]
        reach = f"{min(slope):.2f} to {max(slope):.2f}" if slope else "-"
        rows.append([name, *cells, reach])
        left += [f"{name}: {label} is left as it is: {why}" for label, why in found.kept(name)]
    return [*table(["network", "log loss here", "calibrated", "slopes"], rows), *left]
