"""What a training says while it runs: log files, a bar on a terminal or plain lines, its speed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from clu import parameter_overview, profiler
from tqdm import tqdm

from cxrjax.names import program
from cxrjax.training import devices, processes, validation, writers
from cxrjax.training.clock import Clock
from cxrjax.training.optim import make_optimizer
from cxrjax.training.start import Progress, Setup
from cxrjax.training.stopping import Call

PROFILED = (3, 8)  # calls of the compiled step: from the third to the eighth


class Recorder(contextlib.AbstractContextManager):
    """Writes down how a training goes; `with` closes its files.

    On a terminal there is a bar; elsewhere (a log file) one plain line for each `log_every`.

    Args:
      run: the training.
      states: for the number of their parameters.
      progress: where it begins or goes on.
      profile: whether to write a profile of a few steps.
      name: of the run among those that train beside it; they are evaluated together.
      first: whether what they have in common is said here.
    """

    def __init__(self, run: Setup, states: Any, progress: Progress, profile: bool = False,
                 name: str = "", first: bool = True):
        config = run.config
        self._name, self._first = f"{name}: " * bool(name), first
        if first:
            devices.announce()
        if progress.step:
            print(f"going on with {run.workdir} at step {progress.step}")
        if first:
            print(run.films.info.get("protocol", config.dataset.name))
            print(overview(states))
        writes = processes.is_first()
        self._run, self._profile, self._calls = run, profile and writes, 0
        self.recent: list[Call] = []  # since what came out of them was last looked at
        self._writer = writers.Writer(run.workdir, progress.step) if writes else writers.Silent()
        self._clock = Clock(config.batch_size)
        _, self._rate = make_optimizer(
            dict(config.optimizer), dict(config.schedule), config.total_steps,
            config.steps_per_epoch,
        )
        self._bar = tqdm(total=config.total_steps, initial=progress.step, unit="step",
                         mininterval=1.0, disable=None if writes and first else True)

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._bar.close()
        try:
            self._writer.close()
        except OSError:
            if kind is None:  # else what ended the training is what is to be said
                raise

    def next_batch(self) -> dict[str, jax.Array]:
        """The next call's batches on the devices; what it takes counts as waiting."""
        with self._clock.waiting():
            self._positions, batch = next(self._run.stream)
        if not self._calls and self._first:
            self._compiling = time.perf_counter()
            tqdm.write("compiling the training step")
        return batch

    def counted(self, step: int, logs: Mapping[str, Any]) -> None:
        """The call that ends at `step` was dispatched."""
        self.recent.append(Call(step - len(self._positions), logs, self._positions))
        self._clock.count(self._run.config.steps_per_call)
        self._bar.update(self._run.config.steps_per_call)
        self._calls += 1
        if self._calls == 1 and self._first:
            tqdm.write(f"compiled in {time.perf_counter() - self._compiling:.0f} s")
        if self._profile and self._calls == PROFILED[0]:
            profiler.start(str(self._run.workdir / "profile"))
        if self._profile and self._calls == PROFILED[1]:
            profiler.stop()
            tqdm.write(f"profile of {PROFILED[1] - PROFILED[0]} calls: "
                       f"{self._run.workdir / 'profile'}")

    def pause(self) -> contextlib.AbstractContextManager:
        """A context whose time counts as neither training nor waiting."""
        return self._clock.paused()

    def training(self, step: int, logs: Mapping[str, Any]) -> None:
        """Means of a call's logs, the speed since the last time, and the learning rate."""
        config = self._run.config
        values = {k: float(np.mean(v)) for k, v in jax.device_get(dict(logs)).items()}
        speed, epoch = self._clock.read(), step / config.steps_per_epoch
        self._writer.scalars(step, {
            **{f"train/{k}": v for k, v in values.items()}, **speed,
            "learning_rate": float(self._rate(step - 1)), "epoch": epoch,
        })
        line = (f"loss {values['loss']:.4f}, {speed['films_per_second']:.0f} films/s, "
                f"waiting {speed['waiting_share']:.1%}")
        if self._bar.disable:
            place = f"{self._name}step {step} of {config.total_steps}, epoch {epoch:.1f}"
            print(f"{place}: {line}", flush=True)
        else:
            self._bar.set_postfix_str(self._name + line, refresh=False)

    def validation(self, step: int, scores: Mapping[str, float]) -> None:
        """The scores of a validation."""
        self._writer.scalars(step, scores)
        line = ", ".join(f"{k[4:]} {v:.4f}" for k, v in scores.items())
        tqdm.write(f"{self._name}epoch {step / self._run.config.steps_per_epoch:.1f}: {line}")

    def speed(self) -> dict[str, float]:
        """Of the whole training so far: 'films_per_second', 'waiting_share'."""
        clock = self._clock
        return {"films_per_second": clock.films_per_second, "waiting_share": clock.waiting_share}

    def done(self, progress: Progress) -> None:
        """The last lines of a training that reached its end."""
        config = self._run.config
        converged = validation.convergence(progress.evaluations, config.steps_per_epoch)
        each = ", ".join(f"{name} {epoch:.1f}" for name, epoch in converged.items())
        name, epochs = self._name, progress.step / config.steps_per_epoch
        next_one = self._run.workdir.parent if name else self._run.workdir
        print(f"{name}convergence at epoch: {each} (of {epochs:.1f})")
        print(
            f"{name}done: {progress.step} steps, best {config.monitor} {abs(progress.best):.4f} at "
            f"step {progress.best_step}, {self._clock.films_per_second:.0f} films/s, waiting for "
            f"data {self._clock.waiting_share:.1%}. Next: {program()} --mode=evaluate "
            f"--workdir={next_one}"
        )


def overview(states: Any) -> str:
    """How large every network is, a line each."""
    sizes = {
        name: parameter_overview.count_parameters(state.params)
        for name, state in states.items() if hasattr(state, "params")
    }
    return "\n".join(f"{name}: {count:,} parameters" for name, count in sizes.items())
