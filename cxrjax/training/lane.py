"""One run while it trains: what is logged, judged and saved between two compiled calls.

A training has one of them, or one for each seed (`seeds`); none knows of the others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cxrjax.errors import UserError
from cxrjax.training import processes, start, stopping, validation
from cxrjax.training.optim import to_steps
from cxrjax.training.recorder import Recorder
from cxrjax.training.workdir import replacing


class Lane:
    """A run on its way.

    Attributes:
      run: what it works with.
      states: of its networks, after the last call.
      progress: how far it is.
      record: what it says.
      logs: of the last call.
    """

    def __init__(self, run: start.Setup, states: Any, progress: start.Progress, record: Recorder,
                 stop_at: int | None = None):
        config = run.config
        self.run, self.progress, self.record = run, progress, record
        self._states = states
        self.logs: dict[str, Any] = {}
        self._end = min(config.total_steps, stop_at or config.total_steps)
        self._patience = config.get("patience", 0)
        self._log, self._judge_at, self._keep = (
            Every(config, f"{what}_every") for what in ("log", "evaluate", "checkpoint")
        )

    @property
    def states(self) -> Any:
        if callable(self._states):
            self._states = self._states()
        return self._states

    def moved(self, states: Any, logs: dict[str, Any]) -> None:
        """A call gave new states, or a function that gives them where they are asked for."""
        self._states, self.logs = states, logs

    def goes_on(self) -> bool:
        """Whether there is a step to do."""
        return self.progress.step < self._end and not self.progress.is_spent(self._patience)

    def is_due(self) -> bool:
        """Whether something is to be said, judged or saved after the last call."""
        step = self.progress.step
        return self._log.due(step) or self.pauses()

    def pauses(self) -> bool:
        """Whether it judges or saves after the last call."""
        step = self.progress.step
        return self._judge_at.due(step) or self._keep.due(step)

    def counted(self) -> None:
        """A call was dispatched, whose states and logs it has."""
        self.progress.step += self.run.config.steps_per_call
        self.record.counted(self.progress.step, self.logs)
        if self._log.due(self.progress.step):
            self._check()
            self.record.training(self.progress.step, self.logs)

    def judge_and_save(self) -> None:
        """What is due of it after the last call.

        Raises:
          UserError: the states are not finite.
        """
        step = self.progress.step
        self._check(self.states)
        if self._judge_at.due(step):
            self._judge()
        if self._keep.due(step) or self.progress.is_spent(self._patience):
            self._save("latest", self.states)
        processes.exchange()  # who does not write waits here, and not in a collective

    def stop(self) -> None:
        """Saves for the same command to go on, where the numbers are sound."""
        where = f"stopped at step {self.progress.step}"
        if fault := stopping.fault_of(self.logs, self.states):
            print(f"\n{where}, not saved: {fault}. {self.run.workdir} holds "
                  f"{self.run.checkpoints.newest()}")
        else:
            print(f"\n{where}: saving; the same command goes on from here")
            self._save("latest", self.states)

    def outcome(self) -> dict[str, Any]:
        """What `loop.train` gives; says so where the run reached its end."""
        progress = self.progress
        if progress.step >= self.run.config.total_steps or progress.is_spent(self._patience):
            self.record.done(progress)
        return {"step": progress.step, "best": progress.best, "scores": progress.evaluations,
                **self.record.speed()}

    def _judge(self) -> None:
        """Validates; the best states so far are saved as such."""
        run, progress = self.run, self.progress
        states = run.evaluated(self.states)
        scores, predictions = run.validate(states)
        progress.evaluations.append({"step": progress.step, **scores})
        self.record.validation(progress.step, scores)
        figure = validation.monitored(scores, run.config.monitor)
        self._keep_predictions("latest", predictions)
        # The first one counts even where it could not be judged (nan).
        if figure > progress.best or not progress.best_step:
            progress.best_step = progress.step
            progress.best = figure if math.isfinite(figure) else -math.inf
            self._keep_predictions("best", predictions)
            self._save("best", states)

    def _keep_predictions(self, which: str, predictions: Any) -> None:
        if not processes.is_first():
            return
        with replacing(self.run.workdir / f"val_predictions_{which}.npz") as partial:
            np.savez(partial, step=self.progress.step, **predictions)

    def _save(self, which: str, states: Any) -> None:
        run = self.run
        meta = {**run.meta, "history": self.progress.history()}
        if which == "best" and hasattr(run.evaluated, "said"):
            meta["recalibrated"] = run.evaluated.said
        run.checkpoints.save(which, self.progress.step, states, run.stream, run.as_json, meta)

    def _check(self, states: Any = None) -> None:
        """Raises UserError where a loss, a gradient or (with the states) a weight is not finite."""
        run, recent = self.run, self.record.recent
        if fault := stopping.fault_of(self.logs, states):
            step, why = (stopping.cause_of(recent, run.films)
                         or (self.progress.step, stopping.LOWER))
            # Each process has looked at its own films.
            why = min(processes.exchange(why), key=lambda text: text.startswith(stopping.LOWER))
            raise UserError(
                f"{fault} at step {step}: {why}. {run.workdir} holds {run.checkpoints.newest()}"
            )
        recent.clear()


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
