"""Training: a thin loop around the scheme's compiled steps.

How a run begins or goes on is in `start`, what a step does in the scheme, what is done between two
calls in `lane`, when a training stops before its end in `stopping`. It is the loop of one run, or
of several that differ in their seeds (`seeds`).
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from tqdm import tqdm

from cxrjax.errors import UserError
from cxrjax.names import modules_in, trusting
from cxrjax.training import abreast, processes, seeds, start, stopping
from cxrjax.training.lane import Lane
from cxrjax.training.recorder import Recorder
from cxrjax.training.workdir import only_writer, refuse_recalibrated


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
      {'step', 'best', 'scores', 'films_per_second', 'waiting_share'}; of several seeds
      {'seed-0': these, ...}.

    Raises:
      UserError: whatever the user can mend.
    """
    refuse_recalibrated(workdir)
    alone = only_writer(workdir) if processes.is_first() else contextlib.nullcontext()
    with contextlib.ExitStack() as held:
        for context in (alone, trusting(trust), trusting(modules_in(config))):
            held.enter_context(context)
        processes.check_shared(workdir)
        seeds.check(config, workdir)
        if config.get("seeds", 1) == 1:
            begun = start.begin(config, workdir, allow_changed_films)
            lane = Lane(*begun, Recorder(*begun, profile), stop_at)
            _train([lane], abreast.by_turns)
            return lane.outcome()
        for folder in seeds.folders(config, workdir):
            held.enter_context(only_writer(folder))
        lanes = [
            Lane(*begun, Recorder(*begun, profile and not i, begun[0].workdir.name, not i), stop_at)
            for i, begun in enumerate(seeds.begin(config, workdir, allow_changed_films))
        ]
        failed = _train(lanes, seeds.way(lanes[0].run))
        found = {lane.run.workdir.name: lane.outcome() for lane in lanes if lane not in failed}
        if failed:
            raise UserError(f"{len(failed)} of {len(lanes)} runs did not come to their end: "
                            + "; ".join(map(str, failed.values())))
        return found


def _train(lanes: Sequence[Lane], advance: Callable) -> dict[Lane, UserError]:
    """Trains runs to their ends; those that are behind are trained until they are abreast.

    One of several that fails leaves the others alone; its error is given. A single one's is raised.
    """
    workdir, failed = lanes[0].run.workdir, {}
    if len(lanes) > 1:
        workdir = workdir.parent

    def newest() -> str:
        every = {lane.run.workdir.name: lane.run.checkpoints.newest() for lane in lanes}
        return ", ".join(f"{k}: {v}" for k, v in every.items()) if len(every) > 1 else \
            next(iter(every.values()))

    def each(these: Sequence[Lane], do: Callable[[Lane], None]) -> None:
        for lane in these:
            try:
                do(lane)
            except UserError as error:
                if len(lanes) == 1:
                    raise
                tqdm.write(f"{lane.run.workdir.name} ends here, the others go on: {error}")
                failed[lane] = error

    full_disk = stopping.full_disk_told(workdir, newest)
    killed_reader = stopping.killed_reader_told(workdir, newest)
    with full_disk, killed_reader, contextlib.ExitStack() as held, stopping.StopRequest() as stop:
        for lane in lanes:
            held.enter_context(lane.run.checkpoints)
            held.enter_context(lane.record)
        while going := [lane for lane in lanes if lane.goes_on() and lane not in failed]:
            step = min(lane.progress.step for lane in going)
            now = [lane for lane in going if lane.progress.step == step]
            if stop.agreed(any(lane.is_due() for lane in now)):
                each(going, Lane.stop)
                raise SystemExit(130)
            with stopping.out_of_memory_told():
                advance(now)
            each(now, Lane.counted)
            if due := [lane for lane in now if lane.pauses() and lane not in failed]:
                # The steps before it are no pause.
                jax.block_until_ready([lane.logs for lane in due])
                with contextlib.ExitStack() as paused:
                    for lane in lanes:
                        paused.enter_context(lane.record.pause())
                    each(due, Lane.judge_and_save)
    return failed
