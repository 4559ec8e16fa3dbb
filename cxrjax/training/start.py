"""How a training begins or goes on: all that can be refused is refused here, before any step.

Where the weights come from, in this order: the workdir's latest checkpoint (the run goes on),
`config.init_from`, fresh initialisation from the seed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import FrozenConfigDict

from cxrjax.data.progress import say
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.names import guarded, scheme_of
from cxrjax.training import (
    batch_statistics,
    checkpoint,
    experiment,
    processes,
    provenance,
    resume,
    steps,
    stream,
    validation,
)
from cxrjax.training.checksums import checksum_of, checksums_of
from cxrjax.training.saved_configs import in_todays_names
from cxrjax.training.state import to_tree
from cxrjax.training.workdir import refuse_recalibrated, write_text


@dataclasses.dataclass
class Setup:
    """What a training works with; nothing in it changes from step to step.

    Attributes:
      workdir: of the run.
      config: completed.
      films: the opened data set.
      mesh: of all devices.
      stream: the training stream (`stream`); it knows its position.
      step: compiled (states, batches[T, ...], key) -> (states, logs[T]).
      step_key: that the randomness of all steps follows from.
      validate: states -> (scores, predictions).
      evaluated: states -> the states that are validated and saved as the best ones.
      checkpoints: of the workdir.
      as_json: the config as JSON, as it is saved.
      meta: what a checkpoint carries beside arrays and config.
    """

    workdir: pathlib.Path
    config: Any
    as_json: dict[str, Any]
    films: Films
    mesh: jax.sharding.Mesh
    stream: Any
    step: Callable
    step_key: jax.Array
    validate: validation.Validation
    evaluated: Callable
    checkpoints: checkpoint.Checkpoints
    meta: dict[str, Any]


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
      step: done.
      best: figure of the best checkpoint, larger is better; -inf before the first.
      best_step: of that checkpoint, 0 before the first.
      evaluations: rows {'step', 'val/<network>/<figure>'} of all validations.
    """

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def is_spent(self, patience: int) -> bool:
        """Whether so many validations in a row were no better than the best one; 0: never."""
        since = sum(row["step"] > self.best_step for row in self.evaluations)
        return bool(patience) and since >= patience

    def history(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"best": self.best, "best_step": self.best_step, "evaluations": self.evaluations}


def begin(
    config: Any, workdir: str | pathlib.Path, allow_changed_films: bool = False,
    beside: Setup | None = None,
) -> tuple[Setup, Any, Progress]:
    """Opens films and workdir, checks them against each other, and makes or restores the states.

    Args:
      config: an experiment's config.
      workdir: of the run, held by `workdir.only_writer`; a run in it is continued.
      allow_changed_films: go on although the films changed; the run says so from then on.
      beside: a run that differs in its seed alone, whose films and compiled programs are taken.

    Raises:
      UserError: whatever the user can mend.
    """
    workdir = pathlib.Path(workdir)
    refuse_recalibrated(workdir)
    saved = saved_config(workdir)
    config = resume.reading_as_before(config, saved)
    if not beside and processes.is_first():
        say(f"opening the films of {config.dataset.name}")
    films = beside.films if beside else experiment.open_films(config)
    config = experiment.complete(config, films, saved)
    monitor, said = validation.choose_monitor(config, films)
    if said:
        logging.warning(said)
        config = FrozenConfigDict({**config.to_dict(), "monitor": monitor})
    as_json = experiment.config_json(config)
    meta = experiment.make_meta(config, films)
    processes.check_same(_of_the_run(as_json, meta))
    if saved is not None:
        resume.check_same_config(saved, as_json, str(workdir))
        if config.total_steps > saved["total_steps"]:
            print(f"{workdir} is made longer, from {saved['total_steps']} to {config.total_steps} "
                  "steps: from here on the learning rate is that of a run planned so long")
    if not len(films.splits["val"]):
        raise UserError("the validation split is empty, and it chooses the checkpoint")
    validation.check_monitor(config)
    if config.batch_size > (number := len(films.splits["train"])):
        raise UserError(
            f"config.batch_size = {config.batch_size}, but the training split has {number} films: "
            f"use {number} or fewer"
        )
    mesh = steps.make_mesh()
    steps.check_batch_size(config.batch_size, mesh.size)
    scheme = scheme_of(config)
    prepares = hasattr(scheme, "prepare")
    training_stream = stream.open_stream(
        config, films, mesh, not prepares, beside.stream.held if beside else None
    )
    _, step_key = steps.keys_of(config.seed)
    validate = beside.validate if beside else validation.Validation(
        config, films, mesh, scheme.make_predict(config)
    )
    template = _networks_of(config)
    foreseen = validate.foresee(template)
    validation.monitored(foreseen, config.monitor)
    validation.warn_of_idle_decoder(config, foreseen)
    evaluated: Callable = batch_statistics.as_they_are
    if config.get("recalibrate"):
        if jax.process_count() > 1:
            raise UserError("config.recalibrate is of one process: with several train without it, "
                            "then recalibrate the run (--mode=recalibrate)")
        if prepares:
            raise UserError(f"config.recalibrate: what the scheme {config.scheme.name} is trained "
                            "on is made once, by batch statistics that stay")
        evaluated = beside.evaluated if beside else batch_statistics.OfTrainingFilms(config, films)
    setup = Setup(
        workdir=workdir, config=config, as_json=as_json, films=films, mesh=mesh,
        stream=training_stream,
        step=beside.step if beside else steps.jit_steps(scheme.make_step(config), mesh),
        step_key=step_key,
        validate=validate, evaluated=evaluated,
        checkpoints=checkpoint.Checkpoints(workdir, config.get("keep", 2)), meta=meta,
    )
    if setup.checkpoints.latest_step() is None:
        first = first_states(config)
        if jax.process_count() > 1:
            sums = checksums_of(to_tree(first))
            processes.check_same({"the checksum of the first weights": checksum_of(sums)})
        states, progress = steps.replicate(first, mesh), Progress()
        setup.meta["seen"] = provenance.account(config, films)
        warnings = provenance.not_judgeable(setup.meta["seen"], films, config.dataset.name)
        for said in [*warnings, *provenance.prepared_otherwise(config)]:
            logging.warning(said)
    else:
        states, meta, step = setup.checkpoints.restore(
            steps.place(template, mesh), training_stream
        )
        resume.check_same(meta, setup.meta, str(workdir), allow_changed_films)
        progress = Progress(step, **meta["history"])
        setup.meta["seen"] = provenance.continued(
            provenance.of_run(saved or config, meta),
            provenance.account(experiment.without_origins(config), films),
        )
    # Only now, when what the run goes on from was read, is anything forgotten.
    best_steps = setup.checkpoints.forget_best_after(progress.step)
    if processes.is_first():
        write_text(workdir / "config.json", json.dumps(as_json, indent=1))
        validation.forget_predictions_after(progress.step, workdir)
    if progress.best_step not in best_steps:  # its weights are gone: the next one is the best
        progress.best, progress.best_step = -math.inf, 0
    return _prepared(setup, states), states, progress


def _of_the_run(config: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in every process of a training."""
    own = {f"config.{k}": v for k, v in resume.flat(config).items() if k not in resume.PER_MACHINE}
    return {
        **own, **{f"the version of {k}": v for k, v in meta["versions"].items()},
        "the fingerprint of the films": meta["dataset"].get("fingerprint"),
        "the checksum of the films' ids": checksum_of(meta["ids"]),
    }


def _prepared(setup: Setup, states: Any) -> Setup:
    """The setup with the films as the scheme makes them once, where it does (`prepare`)."""
    config, scheme = setup.config, scheme_of(setup.config)
    if not hasattr(scheme, "prepare"):
        return setup
    films = scheme.prepare(config, setup.films, states, setup.mesh)
    own = stream.open_stream(config, films, setup.mesh)
    own.set_state(setup.stream.get_state())
    predict = scheme.make_predict(config)
    validate = validation.Validation(config, films, setup.mesh, predict)
    return dataclasses.replace(setup, films=films, stream=own, validate=validate)


def saved_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The completed config of the run in a workdir; None where there is nothing to go on from."""
    path = workdir / "config.json"
    if not checkpoint.steps_in(workdir, "latest"):
        return None
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or "total_steps" not in found:
            raise ValueError("it is no completed config")
    except (OSError, ValueError, RecursionError) as error:
        logging.warning("%s: %s; the config in the checkpoint is taken", path, error)
        try:
            found = checkpoint.config_of(workdir)
        except checkpoint.Damaged as fault:
            raise UserError(f"{path} is damaged ({error}), and {fault}") from None
    return experiment.as_tuples(guarded(in_todays_names(found), workdir))


def _networks_of(config: Any) -> Any:
    """`shapes_of`, with an error of one line for options that no network can have."""
    try:
        return shapes_of(config)
    except UserError:
        raise
    except Exception as error:
        if os.environ.get("CXRJAX_TRACEBACK"):
            raise
        options = ", ".join(f"{k}={v}" for k, v in config.model.items())
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"no network can be made of config.model ({options}): {type(error).__name__}: {why} "
            "(CXRJAX_TRACEBACK=1 shows where)"
        ) from error


def first_states(config: Any) -> Any:
    """The states that a run of the completed config begins with."""
    init_key, _ = steps.keys_of(config.seed)
    return scheme_of(config).init(config, init_key, _sample(config))


def shapes_of(config: Any) -> Any:
    """`first_states` as shapes: nothing is computed, and no other run or file is opened."""
    config = experiment.without_origins(config)
    init_key, _ = steps.keys_of(config.seed)
    return jax.eval_shape(lambda: scheme_of(config).init(config, init_key, _sample(config)))


def _sample(config: Any) -> dict[str, np.ndarray]:
    return {"image": np.zeros((1, *config.image_shape), np.uint8)}
