"""A film as one looks at it with a network: pixels, answers, heat maps. For window and page."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from cxrjax.data import artifacts, films_on_disk, reading
from cxrjax.evaluation.answers import Answers
from cxrjax.explanation import drawing, heatmaps
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.serving import answer_table, sources
from cxrjax.serving.card import PURPOSE, purpose_of
from cxrjax.training.restored import Run

POSITIVE = ("positive", "the answer")
LONGEST = 2048  # pixels of a film that are kept for the screen


@dataclasses.dataclass(frozen=True)
class Network:
    """What is said about the network that reads.

    Attributes:
      name: of the answer that is explained.
      labels: the findings.
      structures: what its decoder outlines; () without one.
      about: one line: image size, step, what it was trained on.
      task: 'multilabel' or 'multiclass'.
      thresholds: f64[K], its operating points; NaN where a label has none, None without any.
      rule: how they were chosen, in words; '' where there are none.
      calibrated: whether its probabilities are.
      purpose: what it is for, as its config says; else that it is not for clinical use.
    """

    name: str
    labels: tuple[str, ...]
    structures: tuple[str, ...]
    about: str
    task: str = "multilabel"
    thresholds: Float[np.ndarray, " k"] | None = None
    rule: str = ""
    calibrated: bool = False
    purpose: str = PURPOSE

    def decide(self, probabilities: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """See `sources.decide`."""
        return sources.decide(self.task, self.thresholds, probabilities[None])[0]


@dataclasses.dataclass(frozen=True)
class Reading:
    """One film, read by the network.

    Attributes:
      path: of the film.
      film: its pixels, at most LONGEST on a side.
      cleaned: the same without bright artefacts (taken out at the film's own size).
      removed: share of the film's pixels that this changes.
      size: (height, width) of the film on disk.
      explanation: probabilities, heat maps and masks.
      method: of the heat maps.
      fit: how the film became the network's square.
      gray: how its values became gray, where the file does not say; else ''.
      warnings: what is unusual about it for a chest radiograph.
      ready: the film as the network takes it.
    """

    path: pathlib.Path
    film: UInt8[np.ndarray, "h w"]
    cleaned: UInt8[np.ndarray, "h w"]
    removed: float
    size: tuple[int, int]
    explanation: Explanation
    method: str
    fit: str
    gray: str = ""
    warnings: tuple[str, ...] = ()
    ready: UInt8[np.ndarray, "s s 1"] | None = None

    def order(self) -> list[int]:
        """The findings, the most probable first."""
        return np.argsort(-self.explanation.probabilities, kind="stable").tolist()

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        own = self.explanation
        arrays = (self.film, self.cleaned, self.ready, own.heat, own.mask)
        return sum(a.nbytes for a in arrays if a is not None)


class Finding(NamedTuple):
    """A line of the table of a film.

    Attributes:
      number: of the label.
      label: its name, as it is shown.
      probability: of it.
      threshold: its operating point; None where it has none.
      decision: 'positive', 'negative', 'the answer' (of one-of-N), or ''.
    """

    number: int
    label: str
    probability: float
    threshold: float | None
    decision: str


def findings(reading: Reading, network: Network) -> list[Finding]:
    """The findings of a film, the most probable first."""
    probabilities = reading.explanation.probabilities
    decided = network.decide(probabilities)
    points = network.thresholds
    lines = []
    for k in reading.order():
        point = None if points is None or np.isnan(points[k]) else float(points[k])
        lines.append(Finding(k, shown(network.labels[k]), float(probabilities[k]), point,
                             words_of(decided[k], network.task)))
    return lines


def words_of(decision: int | float, task: str) -> str:
    """'positive', 'negative', 'the answer', or '' where nothing is decided."""
    if np.isnan(decision):
        return ""
    if task == "multiclass":
        return "the answer" if decision else ""
    return "positive" if decision else "negative"


def how(network: Network) -> str:
    """What its numbers are and how it decides, in a line."""
    said = "Probabilities are calibrated" if network.calibrated else "Not calibrated"
    by = f"positive by {network.rule}" if network.rule else "no operating points, no decisions"
    if network.task == "multiclass":
        by = f"the answer is {network.rule or sources.HIGHEST}"
    return f"{said}; {by}."


def shown(label: str) -> str:
    """A label as it is written on a screen."""
    return label.replace("_", " ")


def table_row(name: str, reading: Reading, network: Network) -> answer_table.Row:
    """The film's row in the table that `--mode=predict` writes."""
    probabilities = np.asarray(reading.explanation.probabilities, np.float64)
    return answer_table.Row(name, network.name, probabilities, None,
                            network.decide(probabilities), reading.warnings)


def layout(network: Network) -> answer_table.Layout:
    """Of that table."""
    decides = network.task == "multiclass" or network.thresholds is not None
    return answer_table.Layout("csv", network.labels, 1, decisions=decides)


def describe(run: Run, name: str, answers: Answers | None = None) -> Network:
    """What is said about `name`, one of the run's answers.

    Args:
      answers: calibration and thresholds that go with the run.
    """
    size, task = run.config.image_shape[0], run.meta["task"]
    trained_on = run.meta["dataset"].get("protocol", run.config.dataset.name)
    labels = tuple(run.meta["labels"])
    rule, points, calibrated = "", None, False
    if answers is not None:
        calibrated = name in answers.maps
        found = answers.thresholds(name) if task == "multilabel" else None
        if found:
            values = [found.get(label) for label in labels]
            points = np.array([np.nan if v is None else v for v in values], float)
            rule = answers.rule_in_words
    # The data set may have masks that this network does not learn.
    shape = jax.ShapeDtypeStruct((1, *run.config.image_shape), np.float32)
    outlines = "mask_logits" in jax.eval_shape(run.predict, run.states, shape)[name]
    return Network(
        name, labels, tuple(run.meta.get("masks", ())) if outlines else (),
        f"{size} px, step {run.step:,}, trained on {trained_on}", task, points,
        sources.HIGHEST if task == "multiclass" else rule, calibrated,
        purpose_of(run),
    )


Probabilities = Callable[[np.ndarray], np.ndarray]
Compiled = Callable[[Any, Any], Mapping[str, Any]]


def read(
    run: Run, compiled: Compiled, path: pathlib.Path, method: str,
    probabilities: Probabilities | None = None,
) -> Reading:
    """Reads and explains one film; `probabilities` makes them of logits, by default the network's.

    Raises:
      UserError: the film cannot be read, or the network cannot be explained by this method.
    """
    options = run.config.dataset.to_dict()
    film, facts = reading.read_radiograph_with_facts(path, reading.version_of(options))
    cleaned = artifacts.remove_bright_artifacts(film)
    ready = films_on_disk.as_prepared(film, run.config.image_shape[0], options)
    longest = min(LONGEST, max(film.shape))
    return Reading(
        path=path,
        film=drawing.fit_into(film, longest),
        cleaned=drawing.fit_into(cleaned, longest),
        removed=float(np.mean(film != cleaned)),
        size=film.shape,
        explanation=_explain(run, compiled, str(path), ready, probabilities),
        method=method,
        fit=run.config.dataset.get("fit", "stretch"),
        gray=facts.gray if facts.guessed else "",
        warnings=facts.warnings,
        ready=ready,
    )


def again(
    run: Run, compiled: Compiled, before: Reading, method: str,
    probabilities: Probabilities | None = None,
) -> Reading:
    """The film of a reading, explained by another method.

    Raises:
      UserError: the network cannot be explained by it.
    """
    found = _explain(run, compiled, str(before.path), before.ready, probabilities)
    return dataclasses.replace(before, explanation=found, method=method)


def _explain(
    run: Run, compiled: Compiled, name: str, ready: np.ndarray,
    probabilities: Probabilities | None,
) -> Explanation:
    (found,) = heatmaps.explain(run, compiled, run.states, [(name, ready)], 1, probabilities)
    return found


class Looker:
    """A run that reads films for a screen; each method of heat maps is compiled once.

    It is for one thread at a time.

    Args:
      run: that reads.
      answers: calibration and thresholds that go with it.
      network: which of its answers, None for the usual one.

    Raises:
      UserError: the run has no such network.
    """

    def __init__(self, run: Run, answers: Answers, network: str | None = None):
        self.run, self.answers = run, answers
        name = heatmaps.choose_network(run, network)
        self.network = describe(run, name, answers)
        self._probabilities = functools.partial(answers.probabilities, name)
        self._compiled: dict[str, Compiled] = {}

    def read(self, path: pathlib.Path, method: str, before: Reading | None = None) -> Reading:
        """See `read`; `before` is the film's reading by another method, where there is one."""
        if method not in self._compiled:
            self._compiled[method] = heatmaps.make(self.run, self.network.name, method)
        compiled = self._compiled[method]
        if before is not None and before.ready is not None:
            return again(self.run, compiled, before, method, self._probabilities)
        return read(self.run, compiled, path, method, self._probabilities)
