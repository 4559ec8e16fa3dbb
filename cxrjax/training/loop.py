"""Training: a thin loop around the scheme's compiled steps.

How a run begins or goes on is in `start`, what a step does in the scheme, when a training stops
before its end in `stopping`.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
import numpy as np

from cxrjax.errors import UserError
from cxrjax.training import start, stopping, validation
from cxrjax.training.optim import to_steps
from cxrjax.training.recorder import Recorder


def main(config: Any, workdir: str | None, profile: bool = False) -> None:
    """`--mode=train`: trains the config's experiment in the workdir, or goes on with it."""
    if config is None or not workdir:
        raise UserError("--mode=train needs --config=configs/FILE.py and --workdir=FOLDER")
    train(config, workdir, profile=profile)


def train(
    config: Any, workdir: str | pathlib.Path, stop_at: int | None = None, profile: bool = False
) -> dict[str, Any]:
    """Trains until `config.train_for`.

    Args:
      config: an experiment's config.
      workdir: made where it is missing; a run in it is continued.
      stop_at: stop at this step, as if killed there: what was saved by then is left; for tests.
      profile: write a profile of a few steps to workdir/profile, for TensorBoard.

    Returns:
      {'step', 'best', 'scores', 'films_per_second', 'waiting_share'}.

    Raises:
      UserError: whatever the user can mend.
    """
    run, states, progress = start.begin(config, workdir)
    config, key = run.config, run.step_key
    end = min(config.total_steps, stop_at or config.total_steps)
    log, judge, keep = (
        Every(config, f"{what}_every") for what in ("log", "evaluate", "checkpoint")
    )
    logs: dict[str, Any] = {}
    record = Recorder(run, states, progress, profile)
    with run.checkpoints, record, stopping.StopRequest() as stop:
        while progress.step < end:
            if stop.requested:
                raise SystemExit(_save_and_stop(run, states, progress, logs))
            states, logs = run.step(states, record.next_batch(), key)
            progress.step += config.steps_per_call
            record.counted(progress.step)
            if log.due(progress.step):
                _check(run, progress, logs)
                record.training(progress.step, logs)
            if judge.due(progress.step) or keep.due(progress.step):
                jax.block_until_ready(logs)  # the steps before it are no pause
                with record.pause():
                    _check(run, progress, logs, states)
                    if judge.due(progress.step):
                        _judge(run, states, progress, record)
                    if keep.due(progress.step):
                        _save(run, "latest", states, progress)
    if progress.step >= config.total_steps:
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
    np.savez(run.workdir / f"val_predictions_{which}.npz", step=step, **predictions)


def _save(run: start.Setup, which: str, states: Any, progress: start.Progress) -> None:
    meta = {**run.meta, "history": progress.history()}
    run.checkpoints.save(which, progress.step, states, run.iterator, run.as_json, meta)


def _check(run: start.Setup, progress: start.Progress, logs: Any, states: Any = None) -> None:
    """Raises UserError where a loss, a gradient or (with the states) a weight is not finite."""
    if fault := stopping.fault_of(logs, states):
        raise UserError(
            f"{fault} at step {progress.step}: lower config.optimizer.learning_rate or set "
            f"config.optimizer.clip_norm. {run.workdir} holds {run.checkpoints.newest()}"
        )


def _save_and_stop(run: start.Setup, states: Any, progress: start.Progress, logs: Any) -> int:
    """Saves for the same command to go on; the exit status of a program that was interrupted."""
    if fault := stopping.fault_of(logs, states):
        print(f"\nstopped at step {progress.step}, not saved: {fault}. {run.workdir} holds "
              f"{run.checkpoints.newest()}")
    else:
        print(f"\nstopped at step {progress.step}: saving; the same command goes on from here")
        _save(run, "latest", states, progress)
    return 130
