"""What a run answers a film with: probabilities, calibrated where it was, and its thresholds.

A workdir keeps both beside the checkpoints that they were made for. `thresholds.json` (written by
evaluate and calibrate) holds what validation chose, on the scale of the network's own
probabilities, and `calibration.json` (by calibrate) a map of the logits. A threshold moves with the
probabilities, so that a film that was called positive still is.

    answers = read_answers(workdir, run)
    p = answers.probabilities("resnet18", logits)
    t = answers.thresholds("resnet18")  # {label: threshold of p, or None}, or None
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float
from scipy.special import logit

from cxrjax.errors import UserError
from cxrjax.metrics import calibration, decisions, ranking
from cxrjax.tables import finite
from cxrjax.training.checksums import checksum_of, checksums_of
from cxrjax.training.restored import Run
from cxrjax.training.workdir import write_text

THRESHOLDS, CALIBRATION = "thresholds.json", "calibration.json"


@dataclasses.dataclass(frozen=True)
class Answers:
    """How a run's logits become what a user reads.

    Attributes:
      labels: of the run.
      task: 'multilabel' or 'multiclass'.
      maps: {network: map of `calibration.fit_map`}; {} where the run is not calibrated.
      fitted: what the maps were fitted on, in words; '' where there are none.
      rule: by which thresholds were chosen, as of `decisions.choose_thresholds`; '' without any.
      cuts: {network: {label: (threshold of its own probabilities, logits of the validation film
        that it is: one number, or those of all classes)}}; None for a label without one.
      said: what was found in the workdir and not used, and why.
    """

    labels: tuple[str, ...]
    task: str
    maps: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    fitted: str = ""
    rule: str = ""
    cuts: Mapping[str, Mapping[str, tuple[float, Any] | None]] = dataclasses.field(
        default_factory=dict)
    said: tuple[str, ...] = ()

    @property
    def calibrated(self) -> bool:
        """Whether the probabilities are calibrated ones."""
        return bool(self.maps)

    def logits(
        self, network: str, logits: Float[np.ndarray, "n k"]
    ) -> Float[np.ndarray, "n k"]:
        """The logits through the network's map, f64; as they are where it has none."""
        logits = np.asarray(logits, np.float64)
        return calibration.apply_map(logits, self.maps[network]) if network in self.maps else logits

    def probabilities(
        self, network: str, logits: Float[np.ndarray, "n k"]
    ) -> Float[np.ndarray, "n k"]:
        """Probabilities f64 of a network's logits, calibrated where the run is."""
        return ranking.probabilities(self.logits(network, logits), self.task)

    def thresholds(self, network: str) -> dict[str, float | None] | None:
        """{label: threshold} on the scale of `probabilities`: positive is what reaches it.

        None for a label of which validation could not choose one; None altogether where nothing
        was chosen, and for calibrated answers of one of three classes or more: there the films of a
        class come in another order, and no threshold calls the same ones.
        """
        own = self.cuts.get(network)
        if own is None:
            return None
        if network in self.maps and self.task == "multiclass" and len(self.labels) > 2:
            return None
        return {label: None if own.get(label) is None else self._moved(network, k, *own[label])
                for k, label in enumerate(self.labels)}

    def own_thresholds(self, network: str) -> np.ndarray:
        """f64[K] on the scale of the network's own probabilities, whether calibrated or not."""
        own = self.cuts[network]
        return np.array([own[label][0] if own[label] else np.nan for label in self.labels], float)

    def kept(self, network: str) -> list[tuple[str, str]]:
        """(label, why) of the labels that calibration left as they are."""
        own = self.maps.get(network)
        return [] if own is None else [(label, why) for label, why, kept in
                                       zip(self.labels, own["why"], own["kept"]) if kept]

    def _moved(self, network: str, k: int, threshold: float, film: Any) -> float:
        if network not in self.maps:
            return threshold
        row = np.zeros((1, len(self.labels)))
        row[0, :] = film
        return float(self.probabilities(network, row)[0, k])

    def of_labels(self, chosen: Sequence[int]) -> Answers:
        """The yes-no answers to some of the labels, each by its own logit.

        Of one-of-N labels these are their log-odds, and calibration is left out: its one
        temperature is of all classes together.
        """
        labels = tuple(self.labels[k] for k in chosen)
        one = self.task == "multiclass"
        maps = {} if one else {
            name: {**own, **{key: [own[key][k] for k in chosen] for key in
                             ("slope", "intercept", "kept", "why")}}
            for name, own in self.maps.items()
        }
        cuts = {
            name: {label: own[label] and (own[label][0], float(logit(own[label][0])) if one
                                          else own[label][1]) for label in labels}
            for name, own in self.cuts.items()
        }
        return dataclasses.replace(self, labels=labels, task="multilabel", maps=maps, cuts=cuts,
                                   fitted=self.fitted if maps else "")

    @property
    def rule_in_words(self) -> str:
        """'the highest F1 on validation'; '' where no thresholds were chosen."""
        return f"{decisions.rule_in_words(self.rule)} on validation" if self.rule else ""

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON types, for files that go with an exported or published network.

        {'labels', 'task', 'calibration': None or {'fitted_on', 'networks': {name: {'how', 'slope',
        'intercept', 'kept'}}}, 'thresholds': None or {'rule', 'rule_in_words', 'networks': {name:
        {label: threshold on the scale of the answers}}, 'own': {name: {label: [threshold of the
        network's own probabilities, logits of that film]}}}}. Calibrated logits are slope * logit +
        intercept; probabilities are their sigmoids ('multilabel') or their softmax ('multiclass').
        """
        maps = thresholds = None
        if self.maps:
            maps = {"fitted_on": self.fitted, "networks": {n: dict(m) for n, m in
                                                           self.maps.items()}}
        if self.rule:
            thresholds = {
                "rule": self.rule, "rule_in_words": self.rule_in_words,
                "networks": {n: self.thresholds(n) for n in self.cuts},
                "own": {n: {label: own and list(own) for label, own in cuts.items()}
                        for n, cuts in self.cuts.items()},
            }
        return {"labels": list(self.labels), "task": self.task, "calibration": maps,
                "thresholds": thresholds}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], where: str) -> Answers:
        """The inverse of `as_json`.

        Args:
          facts: from JSON.
          where: the file that they are of, for messages.

        Raises:
          UserError: they are no such thing.
        """
        try:
            labels, task = tuple(map(str, facts["labels"])), facts["task"]
            if task not in ("multilabel", "multiclass"):
                raise ValueError(f"task {task!r}")
            found = cls(labels, task)
            if (maps := facts["calibration"]) is not None:
                found = dataclasses.replace(found, maps=_maps(maps["networks"], labels),
                                            fitted=str(maps["fitted_on"]))
            if (own := facts["thresholds"]) is not None:
                decisions.parse_rule(own["rule"])
                found = dataclasses.replace(found, rule=own["rule"],
                                            cuts=_cuts(own["own"], labels))
            return found
        except (ValueError, LookupError, TypeError, AttributeError, UserError) as error:
            raise UserError(f"{where}: not the answers of a run ({type(error).__name__}: {error})"
                            ) from None


def read_answers(workdir: str | pathlib.Path | None, run: Run) -> Answers:
    """What the workdir's files say of how `run` answers.

    What belongs to another checkpoint, or to answers with (or without) mirror images, is not used;
    that is logged as a warning and stands in `said`.

    Args:
      workdir: of the run; None where it has none, and answers with its own probabilities.
      run: restored from it.

    Raises:
      UserError: a file is damaged.
    """
    found = read_calibration(workdir, run)
    if workdir is None:
        return found
    path = pathlib.Path(workdir) / THRESHOLDS
    kept, why = _of_run(path, run)
    if why:
        return _ignored(found, path, why, "evaluate")
    if kept is None:
        return found
    try:
        decisions.parse_rule(kept["rule"])
        films = kept.get("logits", {})
        cuts = {name: {label: None if t is None else [
            t, films.get(name, {}).get(label, _film_of(t, k, found))]
            for k, (label, t) in enumerate(own.items())} for name, own in kept["networks"].items()}
        return dataclasses.replace(found, rule=kept["rule"], cuts=_cuts(cuts, found.labels))
    except (ValueError, LookupError, TypeError, AttributeError, UserError) as error:
        raise _damaged(path, error, "evaluate") from None


def read_calibration(workdir: str | pathlib.Path | None, run: Run) -> Answers:
    """`read_answers` without thresholds."""
    found = Answers(tuple(run.meta["labels"]), run.meta["task"])
    if workdir is None:
        return found
    path = pathlib.Path(workdir) / CALIBRATION
    kept, why = _of_run(path, run)
    if why:
        return _ignored(found, path, why, "calibrate")
    if kept is None:
        return found
    try:
        return dataclasses.replace(found, maps=_maps(kept["networks"], found.labels),
                                   fitted=str(kept["fitted_on"]["words"]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, error, "calibrate") from None


def weights_of(run: Run) -> str:
    """A hash of what a run predicts with: 8 hexadecimal digits, equal for equal weights."""
    tree = {}
    for name, state in run.states.items():
        parts = {"params": state.params, "batch_stats": state.batch_stats,
                 "ema_params": state.ema_params}
        tree[name] = {part: value for part, value in parts.items() if value}
    return f"{checksum_of(checksums_of(tree)):08x}"


def facts_of(run: Run, checkpoint: str) -> dict[str, Any]:
    """What the files say of the checkpoint that they belong to."""
    return {"checkpoint": checkpoint, "step": run.step, "weights": weights_of(run), "tta": run.tta,
            "labels": list(run.meta["labels"]), "task": run.meta["task"]}


def choose(
    calibrated: Answers, rule: str, val_labels: Float[np.ndarray, "n k"],
    val_logits: Mapping[str, Float[np.ndarray, "n k"]],
) -> Answers:
    """`calibrated` with thresholds for the networks of `val_logits`, chosen on validation.

    They are chosen by the networks' own probabilities, so that they are the same ones with and
    without calibration.
    """
    cuts: dict[str, dict[str, tuple[float, Any] | None]] = {}
    for name, logits in val_logits.items():
        logits, own = np.asarray(logits, np.float64), {}
        scores = ranking.probabilities(logits, calibrated.task)
        found = decisions.choose_thresholds(val_labels, scores, rule)
        for k, (label, threshold) in enumerate(zip(calibrated.labels, found)):
            own[label] = None
            if not math.isnan(threshold):
                # Of films of one probability the least sure one.
                same = logits[scores[:, k] == threshold]
                film = same[np.argmin(ranking.log_odds(same, calibrated.task)[:, k])]
                own[label] = (float(threshold), float(film[k]) if calibrated.task == "multilabel"
                              else film.tolist())
        cuts[name] = own
    return dataclasses.replace(calibrated, rule=rule, cuts=cuts)


def write_thresholds(
    workdir: str | pathlib.Path, facts: Mapping[str, Any], answers: Answers
) -> None:
    """Writes thresholds.json: what validation chose, of the networks' own probabilities.

    {..facts, 'rule', 'networks': {name: {label: threshold or null}}, 'logits': {name: {label:
    logits of the validation film that the threshold is}}}, facts from `facts_of`.
    """
    cuts = answers.cuts.items()
    kept = {**facts, "rule": answers.rule, "networks": {
        name: {label: cut and cut[0] for label, cut in own.items()} for name, own in cuts
    }, "logits": {
        name: {label: cut[1] for label, cut in own.items() if cut} for name, own in cuts
    }}
    path = pathlib.Path(workdir) / THRESHOLDS
    try:
        write_text(path, json.dumps(finite(kept), indent=1) + "\n")
    except OSError as error:  # a run on a disk that is only read: the report has them too
        logging.warning("%s could not be written (%s)", path, error.strerror)


def _of_run(path: pathlib.Path, run: Run) -> tuple[dict[str, Any] | None, str]:
    """(what the file holds, None where there is none; why it is not of this run, '' if it is)."""
    maker = "evaluate" if path.name == THRESHOLDS else "calibrate"
    try:
        kept = json.loads(path.read_text())
        step, mirrored = kept["step"], kept["tta"]
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error, maker) from None
    if list(kept.get("labels", run.meta["labels"])) != list(run.meta["labels"]):
        return kept, "it is of other labels"
    # Runs of before have a step alone.
    if kept["weights"] != weights_of(run) if "weights" in kept else step != run.step:
        return kept, f"it was made for other weights (step {step}, these are of step {run.step})"
    if mirrored != run.tta:
        return kept, f"it was made {'with' if mirrored else 'without'} --tta"
    return kept, ""


def _ignored(found: Answers, path: pathlib.Path, why: str, mode: str) -> Answers:
    text = f"{path} is not used: {why}; --mode={mode} makes it anew"
    logging.warning(text)
    return dataclasses.replace(found, said=(*found.said, text))


def _damaged(path: pathlib.Path, error: Exception, mode: str) -> UserError:
    return UserError(f"{path} is damaged ({type(error).__name__}: {error}): delete it, or make it "
                     f"anew with --mode={mode}")


def _film_of(threshold: float, k: int, found: Answers) -> Any:
    """Logits of a film at the threshold, where the file (of before) does not say."""
    z = float(logit(threshold))
    if found.task == "multilabel":
        return z
    return [z if j == k else 0.0 for j in range(len(found.labels))]


def _maps(
    networks: Mapping[str, Any], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Maps from JSON; ValueError where one is none."""
    found = {}
    for name, own in networks.items():
        slope, intercept = (np.asarray(own[key], float) for key in ("slope", "intercept"))
        if slope.shape != (len(labels),) or intercept.shape != (len(labels),):
            raise ValueError(f"{len(labels)} labels, but {slope.size} slopes")
        if not (np.isfinite(slope) & (slope > 0) & np.isfinite(intercept)).all():
            raise ValueError("a slope that is not above 0, or an intercept that is no number")
        found[name] = {"how": str(own["how"]), "slope": slope.tolist(),
                       "intercept": intercept.tolist(), "kept": [bool(v) for v in own["kept"]],
                       "why": [str(v) for v in own.get("why", [""] * len(labels))]}
    return found


def _cuts(
    networks: Mapping[str, Any], labels: Sequence[str]
) -> dict[str, dict[str, tuple[float, Any] | None]]:
    """Thresholds from JSON; ValueError where one is none."""
    found: dict[str, dict[str, tuple[float, Any] | None]] = {}
    for name, own in networks.items():
        if set(own) != set(labels):
            raise ValueError("thresholds of other labels")
        found[name] = {}
        for label in labels:
            if own[label] is None:
                found[name][label] = None
                continue
            threshold, film = float(own[label][0]), np.asarray(own[label][1], float)
            if not 0 <= threshold <= 1 or film.shape not in ((), (len(labels),)) \
                    or np.isnan(film).any():
                raise ValueError(f"threshold {own[label]!r}")
            found[name][label] = (threshold, film.tolist())
    return found
