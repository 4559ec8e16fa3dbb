"""What answers a film: a run with all its networks, or several runs as one ensemble."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from cxrjax.errors import UserError
from cxrjax.evaluation.answers import Answers, read_answers, weights_of
from cxrjax.training import steps
from cxrjax.training.restored import Run, restore

ENSEMBLE = "ensemble"
HIGHEST = "the class of the highest probability"


@dataclasses.dataclass(frozen=True)
class Answered:
    """What one network says of a batch of films.

    Attributes:
      probabilities: calibrated where the source is.
      spread: standard deviation (n - 1) of the members' probabilities; None of a single one.
    """

    probabilities: Float[np.ndarray, "n k"]
    spread: Float[np.ndarray, "n k"] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Films in, probabilities out, whatever stands behind.

    Attributes:
      labels: names of the K labels.
      task: 'multilabel' or 'multiclass'.
      networks: names of the answers, in the order of the table.
      ways: (size, options of the data set) that films are prepared for, see
        `films_on_disk.read_each`.
      batch: films at a time; `devices` divides it.
      thresholds: {network: f64[K], NaN where a label has none}; of one-of-N the class of the
        highest probability is the answer, and there are none.
      rule: how thresholds were chosen, in words; '' where there are none.
      calibrated: in words; '' where probabilities are as the networks give them.
      spread: whether answers have a spread.
      about: what it is, for a file beside the table: a table is gone on with by the same source
        only.
    """

    labels: tuple[str, ...]
    task: str
    networks: tuple[str, ...]
    ways: tuple[tuple[int, Mapping[str, Any]], ...]
    batch: int
    devices: int
    thresholds: Mapping[str, np.ndarray]
    rule: str
    calibrated: str
    spread: bool
    about: Mapping[str, Any]
    _start: Any
    _finish: Any

    @property
    def decides(self) -> bool:
        """Whether its probabilities come with decisions."""
        return self.task == "multiclass" or bool(self.thresholds)

    def start(self, images: Sequence[UInt8[np.ndarray, "b _ _ 1"]]) -> Any:
        """Begins to answer a batch (prepared in each of `ways`) and does not wait for it."""
        return self._start(images)

    def finish(self, started: Any, films: int) -> dict[str, Answered]:
        """The answers of a batch that was started, to its first `films` films."""
        return self._finish(started, films)

    def decide(
        self, network: str, probabilities: Float[np.ndarray, "n k"]
    ) -> Float[np.ndarray, "n k"]:
        """See `decide`."""
        return decide(self.task, self.thresholds.get(network), probabilities)


def decide(
    task: str, thresholds: Float[np.ndarray, " k"] | None, probabilities: Float[np.ndarray, "n k"]
) -> Float[np.ndarray, "n k"]:
    """1 where a label is called positive, 0 where not, NaN where it has no threshold.

    Of one-of-N labels the one of the highest probability is.
    """
    if task == "multiclass":
        return np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    if thresholds is None:
        return np.full(probabilities.shape, np.nan)
    return np.where(np.isnan(thresholds), np.nan, (probabilities >= thresholds).astype(float))


@dataclasses.dataclass(frozen=True)
class Member:
    """A run that answers, with what it decides by."""

    workdir: str
    run: Run
    answers: Answers
    networks: tuple[str, ...]


def member(workdir: str | pathlib.Path | None, which: str = "best", tta: bool = False) -> Member:
    """The run of a workdir; see `training.restored.restore`."""
    return as_member(workdir, restore(workdir, which, tta))


def as_member(workdir: str | pathlib.Path | None, run: Run) -> Member:
    """A run that was restored from a workdir, with what it decides by."""
    names = tuple(steps.answers_of(run.predict, run.states, run.config))
    return Member(str(workdir), run, read_answers(workdir, run), names)


def of_run(own: Member, network: str | None = None) -> Source:
    """One run: every network of it answers, or the one asked for."""
    run, mesh = own.run, steps.make_mesh()
    predict = steps.jit_predict(run.predict, mesh)

    def start(images):
        return predict(run.states, steps.shard_whole(images[0], mesh))

    def finish(started, films):
        return {name: Answered(own.answers.probabilities(
            name, np.asarray(started[name]["logits"])[:films])) for name in names}

    # The order of the table, as it always was.
    names = (network,) if network else tuple(sorted(own.networks))
    return Source(
        labels=tuple(run.meta["labels"]), task=run.meta["task"], networks=names,
        ways=(_way(run),), batch=run.config.eval_batch_size, devices=mesh.size,
        thresholds=_thresholds(own, names), rule=_rule([own]), calibrated=_calibrated([own]),
        spread=False, about={"runs": [_identity(own)]},
        _start=start, _finish=finish,
    )


def of_ensemble(members: Sequence[Member]) -> Source:
    """Several runs as one answer: the mean of their probabilities, and its spread.

    Each run answers by its merged network where it has one, else by its first. No validation chose
    an operating point of the mean: it is the mean of the members', where all have one.

    Raises:
      UserError: runs of other labels or another task.
    """
    first, mesh = members[0], steps.make_mesh()
    for other in members[1:]:
        for what in ("labels", "task"):
            if list(other.run.meta[what]) != list(first.run.meta[what]):
                raise UserError(
                    f"{other.workdir} and {first.workdir} are no ensemble: their {what} differ "
                    f"({_short(other.run.meta[what])}; {_short(first.run.meta[what])})"
                )
    ways, places = [], []
    for own in members:
        way = _way(own.run)
        places.append(ways.index(way) if way in ways else len(ways))
        ways += [way] * (places[-1] == len(ways))
    compiled = [steps.jit_predict(m.run.predict, mesh) for m in members]
    names = [m.networks[0] for m in members]

    def start(images):
        films = [steps.shard_whole(image, mesh) for image in images]
        return [predict(m.run.states, films[place])[name]["logits"]
                for m, predict, place, name in zip(members, compiled, places, names)]

    def finish(started, films):
        each = np.stack([m.answers.probabilities(name, np.asarray(logits)[:films])
                         for m, name, logits in zip(members, names, started)])
        return {ENSEMBLE: Answered(each.mean(0), each.std(0, ddof=1))}

    points = [_thresholds(m, (name,)).get(name) for m, name in zip(members, names)]
    thresholds = {} if any(p is None for p in points) else {ENSEMBLE: np.mean(points, axis=0)}
    rule = _rule(members)
    return Source(
        labels=tuple(first.run.meta["labels"]), task=first.run.meta["task"],
        networks=(ENSEMBLE,), ways=tuple(ways),
        batch=min(m.run.config.eval_batch_size for m in members), devices=mesh.size,
        thresholds=thresholds,
        rule=f"the mean of the members' thresholds ({rule})" if thresholds else
        rule * (rule == HIGHEST),
        calibrated=_calibrated(members), spread=True,
        about={"runs": [_identity(m) for m in members]},
        _start=start, _finish=finish,
    )


def _way(run: Run) -> tuple[int, dict[str, Any]]:
    """What films are prepared for: size, and those options of the data set that count."""
    options = run.config.dataset.to_dict()
    known = {key: options[key] for key in ("fit", "remove_artifacts", "reading") if key in options}
    return run.config.image_shape[0], known


def _thresholds(own: Member, names: Sequence[str]) -> dict[str, np.ndarray]:
    if own.run.meta["task"] == "multiclass":
        return {}
    found = {}
    for name in names:
        if points := own.answers.thresholds(name):
            values = [points.get(label) for label in own.run.meta["labels"]]
            found[name] = np.array([np.nan if v is None else v for v in values])
    return found


def _rule(members: Sequence[Member]) -> str:
    if members[0].run.meta["task"] == "multiclass":
        return HIGHEST
    return ", ".join(dict.fromkeys(m.answers.rule_in_words for m in members if m.answers.rule))


def _calibrated(members: Sequence[Member]) -> str:
    number = sum(m.answers.calibrated for m in members)
    return "" if not number else "yes" if number == len(members) else f"{number} of {len(members)}"


def _identity(own: Member) -> dict[str, Any]:
    """What a table is gone on with by: the run, its weights, and what it decides by."""
    return {
        "workdir": str(pathlib.Path(own.workdir).resolve()), "step": own.run.step,
        "weights": weights_of(own.run), "networks": list(own.networks),
        "answers": own.answers.as_json(),
    }


def _short(what: Any) -> str:
    return what if isinstance(what, str) else f"{len(what)}: {', '.join(list(what)[:3])}, ..."
