"""Checkpoints: the only file that knows Orbax.

A workdir holds `checkpoints/latest` (to go on from, the two newest) and `checkpoints/best` (to
evaluate). Beside the arrays and their checksums a checkpoint carries the completed config and
`meta` (labels, split, ids, data set facts, metrics, library versions): evaluation needs nothing but
the workdir.

Orbax is imported where it reads or writes: a workdir that is not there is said before.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from cxrjax.errors import UserError
from cxrjax.names import guarded
from cxrjax.training import processes, published
from cxrjax.training.checksums import checksum_of, checksums_of
from cxrjax.training.saved_configs import in_todays_names
from cxrjax.training.state import for_prediction, from_tree, of_this_process, to_tree
from cxrjax.training.stopping import is_shortage
from cxrjax.training.workdir import NO_TRAINING, refuse_recalibrated, seed_runs

WHICH = ("best", "latest")
_BESIDE = 2**17  # bytes of a checkpoint beside its arrays


def _folder(workdir: str | pathlib.Path, which: str) -> pathlib.Path:
    return (pathlib.Path(workdir) / "checkpoints" / which).absolute()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns that a read-only manager is read-only; a user need not hear that."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def steps_in(workdir: str | pathlib.Path, which: str) -> list[int]:
    """Steps of the finished checkpoints of a kind, rising; found without opening any."""
    folder = _folder(workdir, which)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


class Damaged(UserError):
    """A checkpoint that cannot be read, or whose arrays are not those that were saved."""


class Checkpoints:
    """Writes and resumes the checkpoints of one workdir; saves run in the background.

    A checkpoint is written, then read back and compared with the checksums of what was saved, and
    only then are older ones of its kind deleted. `with` waits for the last ones at its end.

    Of several processes all call all of it, and the first alone writes: every one has all arrays,
    so that a checkpoint is the same whatever the number of processes.

    Args:
      workdir: of the training.
      keep: how many of the newest checkpoints to go on from are kept; of the best one.

    Raises:
      UserError: see `workdir.refuse_recalibrated`.
    """

    def __init__(self, workdir: str | pathlib.Path, keep: int = 2):
        import orbax.checkpoint as ocp

        refuse_recalibrated(workdir)
        self._workdir, self._keep = pathlib.Path(workdir), {"latest": max(1, keep), "best": 1}
        self._managers: dict[str, Any] = {}
        if processes.is_first():
            for which in WHICH:  # what a killed save left
                for left in _folder(workdir, which).glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                    shutil.rmtree(left, ignore_errors=True)
            self._managers = {which: self._open(which) for which in WHICH}
        self._unread: dict[str, int] = {}  # kind -> step that was saved and not read back yet

    def _open(self, which: str) -> Any:
        import orbax.checkpoint as ocp

        folder = _folder(self._workdir, which)
        folder.mkdir(parents=True, exist_ok=True)
        return ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=True, create=False, multiprocessing_options=_alone(which)
            ),
        )

    def save(
        self,
        which: str,
        step: int,
        states: Any,
        iterator: Any,
        config: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> None:
        """Starts to save; returns as soon as the arrays are copied.

        Args:
          which: 'best' or 'latest'. The best one holds what prediction needs: no optimizer state.
          step: steps done.
          states: pytree of TrainStates.
          iterator: the training stream at this step (`get_state` gives JSON).
          config: JSON-able completed config.
          meta: JSON-able facts.

        Raises:
          UserError: there is a checkpoint of a later step, so that Orbax keeps that one; the disk
            is full, or gives back other bytes than were written.
        """
        if not self._managers:
            return
        self._settle(which)
        newest = self._managers[which].latest_step()
        if newest == step:
            return
        tree = jax.tree.map(of_this_process, to_tree(states))
        if which == "best":
            tree = for_prediction(tree)
        self._need(sum(x.nbytes for x in jax.tree.leaves(tree)), which, step)
        facts = {"data": iterator.get_state(), "config": dict(config), "meta": dict(meta)}
        with self._told(which, step):
            saved = self._managers[which].save(step, args=_items(tree, facts))
        if not saved:
            raise UserError(
                f"step {step} was not saved as {which!r}: the workdir holds step {newest} of "
                "another run; give another --workdir"
            )
        self._unread[which] = step

    def _need(self, size: int, which: str, step: int) -> None:
        """Raises UserError where the disk has no room for so many bytes and a little beside."""
        free = shutil.disk_usage(self._workdir).free
        if free < size + _BESIDE:
            raise UserError(
                f"{_folder(self._workdir, which)}: no space left for step {step} "
                f"({(size + _BESIDE) / 2**20:,.1f} MiB, {free / 2**20:,.1f} are free). "
                f"{self._workdir} holds {self.newest()}: make space, then the same command goes on "
                "from there"
            )

    @contextlib.contextmanager
    def _told(self, which: str, step: int) -> Iterator[None]:
        """Errors of saving in one line; Orbax raises those of its threads in many kinds."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if processes.is_of_others(error):
                raise
            self._unread.pop(which, None)
            free = shutil.disk_usage(self._workdir).free
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"{_folder(self._workdir, which)}: step {step} could not be saved "
                f"({free / 2**20:,.0f} MiB are free on this disk; {why}). {self._workdir} holds "
                f"{self.newest()}: make space, then the same command goes on from there"
            ) from None

    def _settle(self, which: str) -> None:
        """Waits for the last save of a kind, reads it back, and deletes what it makes needless."""
        step = self._unread.pop(which, None)
        if step is None:
            return
        manager = self._managers[which]
        with self._told(which, step):
            manager.wait_until_finished()
            _read(_folder(self._workdir, which), step)
            for old in sorted(manager.all_steps())[: -self._keep[which]]:
                manager.delete(old)

    def forget_best_after(self, step: int) -> list[int]:
        """Deletes every best checkpoint of a later step; gives the steps of those that are left.

        They are what a run left that died before its next latest checkpoint: in the way of the run
        that begins or goes on at `step`, and taken for its best.
        """
        left = []
        if manager := self._managers.get("best"):
            for found in sorted(manager.all_steps()):
                if found > step:
                    manager.delete(found)
                else:
                    left.append(found)
        return processes.of_first(left)

    def latest_step(self) -> int | None:
        """The step to go on from, None in a fresh workdir."""
        manager = self._managers.get("latest")
        return processes.of_first(manager and manager.latest_step())

    def restore(self, states: Any, iterator: Any) -> tuple[Any, dict[str, Any], int]:
        """The newest states that can be read, their meta and step; `iterator` goes to where it was.

        A damaged checkpoint is moved to `checkpoints/damaged`, which is said, and the one before
        it is taken.

        Args:
          states: as `start.shapes_of` gives them, placed where the restored ones shall be.
          iterator: made with the same options as the one that was saved.

        Raises:
          UserError: none can be read.
        """
        folder, wanted = _folder(self._workdir, "latest"), to_tree(states)
        faults = []
        for step in reversed(processes.of_first(steps_in(self._workdir, "latest"))):
            restored, own = {}, ""
            try:
                restored = _read(folder, step, wanted)
            except Damaged as fault:
                own = str(fault)
            # Where one process of several cannot read it, none takes it.
            if fault := next(filter(None, processes.exchange(own)), ""):
                faults.append(fault)
                aside = folder.parent / "damaged" / f"latest-{step}"
                if self._managers:
                    aside.parent.mkdir(exist_ok=True)
                    shutil.rmtree(aside, ignore_errors=True)
                    (folder / str(step)).rename(aside)
                logging.warning("%s. It is now in %s", fault, aside)
                continue
            if faults and self._managers:
                self._managers["latest"].close()
                self._managers["latest"] = self._open("latest")
            iterator.set_state(restored["data"])
            return from_tree(states, restored["state"]), restored["meta"], step
        raise UserError(
            f"{self._workdir} has no checkpoint that can be read ({'; '.join(faults)}): give "
            "another --workdir, or delete this one"
        )

    def newest(self) -> str:
        """What there is to go on from, in words; waits for what is being saved."""
        with contextlib.suppress(UserError):
            self._settle("latest")
        steps = steps_in(self._workdir, "latest")
        return f"the checkpoint of step {steps[-1]}" if steps else "no checkpoint to go on from"

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            for which in WHICH:
                self._settle(which)
        except UserError:
            if kind is None:  # else what ended the training is what is to be said
                raise
        finally:
            for manager in self._managers.values():
                with contextlib.suppress(Exception):  # said by `_settle` already
                    manager.close()


def _alone(prefix: str) -> Any:
    """Orbax's options for a process that reads or writes by itself, whatever others there are.

    Managers with one prefix would meet at each other's barriers.
    """
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{prefix}-{me}"
    )


def _items(tree: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """What a checkpoint is made of: arrays, JSON facts, and the checksums of both."""
    import orbax.checkpoint as ocp

    # As they are now: they are written in the background, and histories grow meanwhile.
    facts = json.loads(json.dumps(facts))
    sums = {**checksums_of(tree), **{name: checksum_of(fact) for name, fact in facts.items()}}
    return ocp.args.Composite(
        state=ocp.args.StandardSave(tree),
        **{name: ocp.args.JsonSave(fact) for name, fact in {**facts, "checksums": sums}.items()},
    )


def _read(folder: pathlib.Path, step: int, wanted: Any = None) -> dict[str, Any]:
    """The items of one checkpoint, its arrays compared with their checksums.

    Args:
      folder: of its kind.
      step: of the checkpoint.
      wanted: shapes of the arrays, placed where they shall be, a part of those that were saved if
        need be; None for all of them as NumPy arrays.

    Raises:
      Damaged: names the folder and what is wrong in it.
    """
    import orbax.checkpoint as ocp

    # The handlers are named because nothing is saved through this manager.
    names = ("data", "config", "meta", "checksums")
    place = folder / str(step)
    try:
        with _quiet(), ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                read_only=True, multiprocessing_options=_alone("read")
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone("read")),
                **{name: ocp.JsonCheckpointHandler(multiprocessing_options=_alone("read"))
                   for name in names},
            },
        ) as manager:
            saved = manager.item_metadata(step)["state"].tree
            if callable(wanted):
                wanted = wanted(saved)
            if wanted is None:
                arguments = ocp.args.PyTreeRestore(
                    item=saved,
                    restore_args=jax.tree.map(
                        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved
                    ),
                )
            else:
                arguments = ocp.args.PyTreeRestore(
                    item=wanted, partial_restore=True,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                )
            # A recalibrated run has no place in the data; runs of before 0.2 have no checksums.
            there = [n for n in names if n in ("config", "meta") or (place / n).exists()]
            restored = dict(manager.restore(step, args=ocp.args.Composite(
                state=arguments, **{name: ocp.args.JsonRestore() for name in there}
            )))
    # Orbax and TensorStore raise nearly anything on cut, missing or changed files.
    except Exception as error:
        if processes.is_of_others(error):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        if is_shortage(error):  # it may be sound, and is not to be set aside
            raise UserError(f"the checkpoint {place} could not be read: {why}") from None
        raise Damaged(f"the checkpoint {place} is damaged: {why}") from None
    sums = restored.get("checksums", {})
    own = {name: checksum_of(restored[name]) for name in there if name != "checksums"}
    for what, found in {**checksums_of(restored["state"]), **own}.items():
        if sums and sums.get(what) != found:
            raise Damaged(f"the checkpoint {place} is damaged: {what} is not what was saved")
    if lost := {"data", "config", "meta"} & set(sums) - set(there):
        raise Damaged(f"the checkpoint {place} is damaged: {', '.join(lost)} is missing")
    return restored


def config_of(workdir: str | pathlib.Path) -> dict[str, Any]:
    """The completed config in the newest checkpoint of a workdir that can be read.

    Raises:
      Damaged: none can.
    """
    for step in reversed(steps_in(workdir, "latest")):
        with contextlib.suppress(Damaged):
            return _read(_folder(workdir, "latest"), step)["config"]
    raise Damaged(f"{workdir} has no checkpoint that can be read")


def save_variables(
    workdir: str | pathlib.Path,
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
    variables: Mapping[str, Mapping[str, Any]],
    step: int,
) -> None:
    """The inverse of `restore_variables`: a best checkpoint without optimizer or position."""
    mark = pathlib.Path(workdir) / "checkpoints" / NO_TRAINING
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text("weights to evaluate: there is nothing here to go on training from\n")
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(_folder(workdir, "best")) as manager:
        tree = {n: {k: v for k, v in own.items() if v} for n, own in variables.items()}
        manager.save(step, args=_items(tree, {"config": dict(config), "meta": dict(meta)}))


def restore_variables(
    workdir: str | pathlib.Path, which: str = "best"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]], int]:
    """What prediction needs, from the workdir alone.

    Args:
      workdir: of a training, or a published network's folder or name on the hub.
      which: 'best' or 'latest'.

    Returns:
      config (`names.guarded`), meta, {network name: {params, batch_stats, ema_params}} (absent
      parts are missing keys), and the step. Optimizer states are not read.

    Raises:
      UserError: no such checkpoint there, or a damaged one.
    """
    if which not in WHICH:
        raise UserError(f"--checkpoint={which}: choose one of {', '.join(WHICH)}")
    workdir = published.located(workdir)
    if published.is_published(workdir):
        if which != "best":
            raise UserError(f"--checkpoint={which}: {workdir} is a published network and has one")
        return published.read(workdir)
    folder = _folder(workdir, which)
    if not folder.is_dir():
        if not pathlib.Path(workdir).is_dir():
            raise UserError(f"no folder {workdir}: it must be the workdir of a training")
        if runs := seed_runs(workdir):
            raise UserError(f"{workdir} holds the runs of {len(runs)} seeds: give one of them, as "
                            f"{runs[0]} (--mode=evaluate and --mode=compare take them all)")
        raise UserError(
            f"no checkpoint in {workdir} (looked for checkpoints/{which}): train with "
            "--mode=train --workdir=... first, or mend the path"
        )
    found = steps_in(workdir, which)
    if not found:
        raise UserError(
            f"{folder} holds no finished checkpoint: the training was stopped before its first"
        )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def wanted(saved: Mapping[str, Any]) -> dict[str, Any]:
        return jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device),
            # What has no weights of its own (the teachers of a distillation) predicts nothing.
            for_prediction(saved),
        )

    restored = _read(folder, found[-1], wanted)
    config = guarded(in_todays_names(restored["config"]), workdir)
    return config, restored["meta"], restored["state"], found[-1]
