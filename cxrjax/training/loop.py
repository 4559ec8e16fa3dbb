"""Training: a thin loop around the scheme's compiled steps.

How a run begins or goes on is in `start`, what a step does in the scheme, when a training stops
before its end in `stopping`.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cxrjax.errors import UserError
from cxrjax.names import modules_in, trusting
from cxrjax.training import processes, start, stopping, validation
from cxrjax.training.optim import to_steps
from cxrjax.training.recorder import Recorder
from cxrjax.training.workdir import only_writer, refuse_recalibrated, replacing


def main(
    config: Any, workdir: str | None, profile: bool = False, allow_changed_films: bool = False,
    coordinator: str | None = None, num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """`--mode=train`: trains the config's experiment in the workdir, or goes on with it."""
    if config is None or not workdir:
        raise UserError("--mode=train needs --config=configs/FILE.py and --workdir=FOLDER")
    processes.join(coordinator, num_processes, process_id)
    train(config, workdir, profile=profile, allow_changed_films=allow_changed_films)


def train(
    config: Any, workdir: str | pathlib.Path, stop_at: int | None = None, profile: bool = False,
    allow_changed_films: bool = False, trust: str | Sequence[str] = (),
) -> dict[str, Any]:
    """Trains until `config.train_for`; of several processes every one calls it.

    Args:
      config: an experiment's config.
      workdir: made where it is missing; a run in it is continued.
      stop_at: stop at this step, as if killed there: what was saved by then is left; for tests.
      profile: write a profile of a few steps to workdir/profile, for TensorBoard.
      allow_changed_films: go on although the films are not those that the run began with.
      trust: modules that the configs of other runs (teachers, ...) may name beside those that this
        config names itself.

    Returns:
      {'step', 'best', 'scores', 'films_per_second', 'waiting_share'}.

    Raises:
      UserError: whatever the user can mend.
    """
    refuse_recalibrated(workdir)
    alone = only_writer(workdir) if processes.is_first() else contextlib.nullcontext()
    with alone, trusting(trust), trusting(modules_in(config)):
        processes.check_shared(workdir)
        return _train(*start.begin(config, workdir, allow_changed_films), stop_at, profile)


def _train(
    run: start.Setup, states: Any, progress: start.Progress, stop_at: int | None, profile: bool
) -> dict[str, Any]:
    config, key = run.config, run.step_key
    end = min(config.total_steps, stop_at or config.total_steps)
    patience = config.get("patience", 0)
    log, judge, keep = (
        Every(config, f"{what}_every") for what in ("log", "evaluate", "checkpoint")
    )
    logs: dict[str, Any] = {}
    record = Recorder(run, states, progress, profile)
    full_disk = stopping.full_disk_told(run.workdir, run.checkpoints.newest)
    killed_reader = stopping.killed_reader_told(run.workdir, run.checkpoints.newest)
    with full_disk, killed_reader, run.checkpoints, record, stopping.StopRequest() as stop:
        while progress.step < end and not progress.is_spent(patience):
            if stop.agreed(log.due(progress.step) or judge.due(progress.step)
                           or keep.due(progress.step)):
                raise SystemExit(_save_and_stop(run, states, progress, logs))
            with stopping.out_of_memory_told():
                states, logs = run.step(states, record.next_batch(), key)
            progress.step += config.steps_per_call
            record.counted(progress.step, logs)
            if log.due(progress.step):
                _check(run, record, progress.step, logs)
                record.training(progress.step, logs)
            if judge.due(progress.step) or keep.due(progress.step):
                jax.block_until_ready(logs)  # the steps before it are no pause
                with record.pause():
                    _check(run, record, progress.step, logs, states)
                    if judge.due(progress.step):
                        _judge(run, states, progress, record)
                    if keep.due(progress.step):
                        _save(run, "latest", states, progress)
                    processes.exchange()  # who does not write waits here, and not in a collective
        if progress.is_spent(patience):
            _save(run, "latest", states, progress)
    if progress.step >= config.total_steps or progress.is_spent(patience):
        record.done(progress)
    return {
        "step": progress.step, "best": progress.best, "scores": progress.evaluations,
        **record.speed(),
    }


class Every:
    """Whether what `config.<field>` says is due: every N steps, and at the very end.

    A call is of several steps; what falls within a call is due after it.
    """

    def __init__(self, config: Any, field: str):
        self._interval = max(1, to_steps(config[field], config.steps_per_epoch, field))
        self._call, self._end = config.steps_per_call, config.total_steps

    def due(self, step: int) -> bool:
        """After the call that ended at `step`."""
        before = step - self._call
        return step >= self._end or before // self._interval < step // self._interval


def _judge(run: start.Setup, states: Any, progress: start.Progress, record: Recorder) -> None:
    """Validates; the best states so far are saved as such."""
    states = run.evaluated(states)
    scores, predictions = run.validate(states)
    progress.evaluations.append({"step": progress.step, **scores})
    record.validation(progress.step, scores)
    figure = validation.monitored(scores, run.config.monitor)
    _keep_predictions(run, "latest", progress.step, predictions)
    # The first one counts even where it could not be judged (nan).
    if figure > progress.best or not progress.best_step:
        progress.best_step = progress.step
        progress.best = figure if math.isfinite(figure) else -math.inf
        _keep_predictions(run, "best", progress.step, predictions)
        _save(run, "best", states, progress)


def _keep_predictions(run: start.Setup, which: str, step: int, predictions: Any) -> None:
    if not processes.is_first():
        return
    with replacing(run.workdir / f"val_predictions_{which}.npz") as partial:
        np.savez(partial, step=step, **predictions)


def _save(run: start.Setup, which: str, states: Any, progress: start.Progress) -> None:
    meta = {**run.meta, "history": progress.history()}
    if which == "best" and hasattr(run.evaluated, "said"):
        meta["recalibrated"] = run.evaluated.said
    run.checkpoints.save(which, progress.step, states, run.stream, run.as_json, meta)


def _check(
    run: start.Setup, record: Recorder, step: int, logs: Any, states: Any = None
) -> None:
    """Raises UserError where a loss, a gradient or (with the states) a weight is not finite."""
    if fault := stopping.fault_of(logs, states):
        step, why = stopping.cause_of(record.recent, run.films) or (step, stopping.LOWER)
        # Each process has looked at its own films.
        why = min(processes.exchange(why), key=lambda text: text.startswith(stopping.LOWER))
        raise UserError(
            f"{fault} at step {step}: {why}. {run.workdir} holds {run.checkpoints.newest()}"
        )
    record.recent.clear()


def _save_and_stop(run: start.Setup, states: Any, progress: start.Progress, logs: Any) -> int:
    """Saves for the same command to go on; the exit status of a program that was interrupted."""
    if fault := stopping.fault_of(logs, states):
        print(f"\nstopped at step {progress.step}, not saved: {fault}. {run.workdir} holds "
              f"{run.checkpoints.newest()}")
    else:
        print(f"\nstopped at step {progress.step}: saving; the same command goes on from here")
        _save(run, "latest", states, progress)
    return 130
