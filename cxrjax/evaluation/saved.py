"""What an evaluation wrote, read back: the predictions of each network of a run, film by film."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.errors import UserError
from cxrjax.metrics.ranking import log_odds
from cxrjax.names import guarded, program, refuse_paths
from cxrjax.training.saved_configs import in_todays_names

# The figures of decisions that one-of-N labels are compared by.
MULTICLASS = ("accuracy", "macro_precision", "macro_recall", "macro_f1")


def title(key: str) -> str:
    """A figure of `metrics` as reports call it: 'macro_f1' is 'macro F1'."""
    return "macro F1" if key == "macro_f1" else key.replace("_", " ")


@dataclasses.dataclass(frozen=True)
class SavedNetwork:
    """What one network of a run answered on one split.

    Attributes:
      workdir: of the run.
      network: its name there.
      report: of the run, as in report.json.
      ids: of the films, in the order of the arrays.
      labels: f64[N, K], NaN = unknown.
      clusters: patient or group of each film, None where they are not known.
      scores: probabilities f64[N, K].
      ranks: what AUROC and AP order the films by, f64[N, K]: the log-odds, or the probabilities
        where the evaluation is from before 0.2 and has no logits.
      dice: f64[N, M], NaN for films without a mask; None without a decoder.
    """

    workdir: pathlib.Path
    network: str
    report: Mapping[str, Any]
    ids: list[str]
    labels: Float[np.ndarray, "n k"]
    clusters: np.ndarray | None
    scores: Float[np.ndarray, "n k"]
    ranks: Float[np.ndarray, "n k"]
    dice: Float[np.ndarray, "n m"] | None

    @property
    def figures(self) -> dict[str, float]:
        """What is compared, as it stands in the report."""
        multiclass = self.report["task"] == "multiclass"
        keys = [title(k) for k in MULTICLASS] if multiclass else []
        keys += ["macro AUROC"] if multiclass else ["macro AUROC", "macro AP"]
        macro = self.report["networks"][self.network]["macro"]
        known = {k: macro[k] for k in [*keys, "Dice"] if macro.get(k) is not None}
        return {k: float(v) for k, v in known.items()}


def read_networks(workdir: pathlib.Path, split: str) -> list[SavedNetwork]:
    """Every network of an evaluated run.

    Raises:
      UserError: there is no evaluation of that split, or a damaged one.
    """
    folder = workdir / "evaluation" / split
    for name in ("report.json", "predictions.csv"):
        if not (folder / name).is_file():
            raise UserError(
                f"{workdir} has no evaluation/{split}/{name}: first run {program()} "
                f"--mode=evaluate --workdir={workdir} --split={split}"
            )
    try:
        return _read(workdir, folder)
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{folder}: its report or predictions are damaged ({type(error).__name__}: {error}): "
            f"run --mode=evaluate --workdir={workdir} --split={split} again"
        ) from None


def _read(workdir: pathlib.Path, folder: pathlib.Path) -> list[SavedNetwork]:
    judged = json.loads((folder / "report.json").read_text())
    judged["run"]["config"] = guarded(
        in_todays_names(judged["run"]["config"]), folder / "report.json"
    )
    names = judged["labels"]
    with (folder / "predictions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    truth = [header.index(f"label {n}") for n in names]
    logits = [header.index(f"logit {n}") for n in names if f"logit {n}" in header]
    cluster = next((i for i, c in enumerate(header) if i > max(truth)), None)
    by_network: dict[str, list[list[str]]] = {}
    for row in rows:
        by_network.setdefault(row[1], []).append(row)
    refuse_paths(by_network, folder)
    masks = _read_masks(folder / "masks.csv", judged.get("structures", ()))
    found = []
    for network, own in by_network.items():
        ids = [row[0] for row in own]
        dice = None
        if network in masks:
            unknown = [np.nan] * len(judged["structures"])
            dice = np.array([masks[network].get(i, unknown) for i in ids], float)
        scores = np.array([row[2 : 2 + len(names)] for row in own], float)
        ranks = scores
        if len(logits) == len(names):
            ranks = log_odds(np.array([[row[i] for i in logits] for row in own], float),
                             judged["task"])
        found.append(SavedNetwork(
            workdir=workdir, network=network, report=judged, ids=ids,
            labels=np.array([[float(row[i] or "nan") for i in truth] for row in own]),
            clusters=None if cluster is None else np.array([row[cluster] for row in own]),
            scores=scores, ranks=ranks, dice=dice,
        ))
    return found


def _read_masks(
    path: pathlib.Path, structures: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """{network: {id: Dice of each structure}}."""
    out: dict[str, dict[str, list[float]]] = {}
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                own = out.setdefault(row["network"], {})
                values = own.setdefault(row["id"], [np.nan] * len(structures))
                values[structures.index(row["structure"])] = float(row["dice"])
    return out


def aligned(networks: Sequence[SavedNetwork]) -> list[SavedNetwork]:
    """The networks with their films in the order of the first one's.

    Raises:
      UserError: other films, labels, splits or masks than the first one's.
    """
    first, out = networks[0], []
    for other in networks:
        for what, a, b in (
            ("the data set", _option(first, "name"), _option(other, "name")),
            ("the split", first.report["split_name"], other.report["split_name"]),
            ("the labels", first.report["labels"], other.report["labels"]),
            ("the masks", _option(first, "masks"), _option(other, "masks")),
        ):
            if a != b:
                raise UserError(
                    f"{other.workdir} cannot be compared with {first.workdir}: {what} "
                    f"differ{'s' if what in ('the data set', 'the split') else ''} ({b!r}, not "
                    f"{a!r})"
                )
        position = {film: i for i, film in enumerate(other.ids)}
        strange = set(first.ids) ^ set(other.ids)
        if strange:
            raise UserError(
                f"{other.workdir} cannot be compared with {first.workdir}: they were evaluated on "
                f"different films, {len(strange):,} are in one only (first: {min(strange)})"
            )
        order = [position[film] for film in first.ids]
        moved = dataclasses.replace(
            other, ids=first.ids, labels=other.labels[order], scores=other.scores[order],
            ranks=other.ranks[order],
            clusters=None if other.clusters is None else other.clusters[order],
            dice=None if other.dice is None else other.dice[order],
        )
        if not np.array_equal(first.labels, moved.labels, equal_nan=True):
            same = (first.labels == moved.labels) | np.isnan(first.labels) & np.isnan(moved.labels)
            wrong = np.flatnonzero(~same.all(axis=1))
            raise UserError(
                f"{other.workdir} cannot be compared with {first.workdir}: {len(wrong):,} films "
                f"carry other labels (first: {first.ids[wrong[0]]})"
            )
        out.append(moved)
    return out


def _option(run: SavedNetwork, name: str) -> Any:
    return run.report["run"]["config"]["dataset"].get(name)
