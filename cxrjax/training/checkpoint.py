"""Checkpoints: the only file that knows Orbax.

A workdir holds `checkpoints/latest` (to go on from) and `checkpoints/best` (to evaluate), each with
one step. Beside the arrays a checkpoint carries the completed config and `meta` (labels, split,
ids, data set facts, metrics, library versions): evaluation needs nothing but the workdir.

Orbax is imported where it reads or writes: a workdir that is not there is said before.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
from absl import logging

from cxrjax.errors import UserError
from cxrjax.training.saved_configs import in_todays_names

WHICH = ("best", "latest")
_NO_TRAINING = "no_training.txt"  # beside a checkpoint that a training cannot go on from


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


def _to_tree(states: Any) -> dict[str, Any]:
    """States as nested dictionaries of arrays, without empty nodes."""
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(states))
    return flax.traverse_util.unflatten_dict({k: v for k, v in flat.items() if v is not None})


def _from_tree(states: Any, tree: Mapping[str, Any]) -> Any:
    """The inverse of `_to_tree`, into the structure of `states`."""
    flat = flax.traverse_util.flatten_dict(
        flax.serialization.to_state_dict(states), keep_empty_nodes=True
    )
    restored = flax.traverse_util.flatten_dict(tree)
    return flax.serialization.from_state_dict(
        states, flax.traverse_util.unflatten_dict({k: restored.get(k, v) for k, v in flat.items()})
    )


def refuse_recalibrated(workdir: str | pathlib.Path) -> None:
    """Raises UserError where the workdir holds what `save_variables` wrote.

    A training would begin anew there and delete it.
    """
    if (pathlib.Path(workdir) / "checkpoints" / _NO_TRAINING).exists():
        raise UserError(
            f"{workdir} holds a recalibrated run, which a training cannot go on from: give "
            "another --workdir (and --config.init_from to start from its weights)"
        )


def steps_in(workdir: str | pathlib.Path, which: str) -> list[int]:
    """Steps of the finished checkpoints of a kind, rising; found without opening any."""
    folder = _folder(workdir, which)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


class Checkpoints:
    """Writes and resumes the checkpoints of one workdir; saves run in the background.

    `with` waits for them at its end.

    Raises:
      UserError: see `refuse_recalibrated`.
    """

    def __init__(self, workdir: str | pathlib.Path):
        import orbax.checkpoint as ocp

        refuse_recalibrated(workdir)
        self._managers = {
            which: ocp.CheckpointManager(
                _folder(workdir, which),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=1, create=True, enable_async_checkpointing=True
                ),
            )
            for which in WHICH
        }

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
          which: 'best' or 'latest'; the one before it is deleted once this one is whole.
          step: steps done.
          states: pytree of TrainStates.
          iterator: the training stream at this step (`get_state` gives JSON).
          config: JSON-able completed config.
          meta: JSON-able facts.

        Raises:
          UserError: there is a checkpoint of a later step, so that Orbax keeps that one.
        """
        import orbax.checkpoint as ocp

        newest = self._managers[which].latest_step()
        if newest == step:
            return
        saved = self._managers[which].save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_to_tree(states)),
                data=ocp.args.JsonSave(iterator.get_state()),
                config=ocp.args.JsonSave(dict(config)),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
        )
        if not saved:
            raise UserError(
                f"step {step} was not saved as {which!r}: the workdir holds step {newest} of "
                "another run; give another --workdir"
            )

    def forget_best_after(self, step: int) -> list[int]:
        """Deletes every best checkpoint of a later step; gives the steps of those that are left.

        They are what a run left that died before its next latest checkpoint: in the way of the run
        that begins or goes on at `step`, and taken for its best.
        """
        manager, left = self._managers["best"], []
        for found in list(manager.all_steps()):
            if found > step:
                manager.delete(found)
            else:
                left.append(found)
        return left

    def latest_step(self) -> int | None:
        """The step to go on from, None in a fresh workdir."""
        return self._managers["latest"].latest_step()

    def restore(self, states: Any, iterator: Any) -> tuple[Any, dict[str, Any]]:
        """The latest states and meta; `iterator` is set to where it was.

        Args:
          states: as `start.shapes_of` gives them, placed where the restored ones shall be.
          iterator: made with the same options as the one that was saved.
        """
        import orbax.checkpoint as ocp

        manager = self._managers["latest"]
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _to_tree(states))
        restored = manager.restore(
            manager.latest_step(),
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                data=ocp.args.JsonRestore(),
                meta=ocp.args.JsonRestore(),
            ),
        )
        iterator.set_state(restored["data"])
        return _from_tree(states, restored["state"]), restored["meta"]

    def newest(self) -> str:
        """What there is to go on from, in words."""
        step = self.latest_step()
        return f"the checkpoint of step {step}" if step else "no checkpoint to go on from"

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits and closes."""
        for manager in self._managers.values():
            manager.close()


def save_variables(
    workdir: str | pathlib.Path,
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
    variables: Mapping[str, Mapping[str, Any]],
    step: int,
) -> None:
    """The inverse of `restore_variables`: a best checkpoint without optimizer or position."""
    import orbax.checkpoint as ocp

    mark = pathlib.Path(workdir) / "checkpoints" / _NO_TRAINING
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text("weights to evaluate: there is nothing here to go on training from\n")
    with ocp.CheckpointManager(_folder(workdir, "best")) as manager:
        tree = {n: {k: v for k, v in own.items() if v} for n, own in variables.items()}
        manager.save(step, args=ocp.args.Composite(
            state=ocp.args.StandardSave(tree), config=ocp.args.JsonSave(dict(config)),
            meta=ocp.args.JsonSave(dict(meta)),
        ))


def restore_variables(
    workdir: str | pathlib.Path, which: str = "best"
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]], int]:
    """What prediction needs, from the workdir alone.

    Args:
      workdir: of a training.
      which: 'best' or 'latest'.

    Returns:
      config, meta, {network name: {params, batch_stats, ema_params}} (absent parts are missing
      keys), and the step. Optimizer states are not read.

    Raises:
      UserError: no such checkpoint there.
    """
    if which not in WHICH:
        raise UserError(f"--checkpoint={which}: choose one of {', '.join(WHICH)}")
    folder = _folder(workdir, which)
    if not folder.is_dir():
        if not pathlib.Path(workdir).is_dir():
            raise UserError(f"no folder {workdir}: it must be the workdir of a training")
        raise UserError(
            f"no checkpoint in {workdir} (looked for checkpoints/{which}): train with "
            "--mode=train --workdir=... first, or mend the path"
        )
    import orbax.checkpoint as ocp

    # The handlers are named because nothing is saved through this manager.
    with _quiet(), ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(read_only=True),
        item_handlers={
            "state": ocp.PyTreeCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        },
    ) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(
                f"{folder} holds no finished checkpoint: the training was stopped before its first"
            )
        try:
            saved = manager.item_metadata(step)["state"].tree
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise UserError(f"the checkpoint {folder}/{step} is damaged: {error}") from None
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = {
            name: {
                part: jax.tree.map(
                    lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), tree[part]
                )
                for part in ("params", "batch_stats", "ema_params")
                if part in tree
            }
            for name, tree in saved.items()
            # What has no weights of its own (the teachers of a distillation) predicts nothing.
            if "params" in tree
        }
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item=wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                ),
                config=ocp.args.JsonRestore(),
                meta=ocp.args.JsonRestore(),
            ),
        )
    return in_todays_names(restored["config"]), restored["meta"], restored["state"], step
