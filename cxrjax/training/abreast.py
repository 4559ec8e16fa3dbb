"""How runs of one config take their steps side by side: by turns, or all of them at once.

By turns they share one compiled program, which is called with each run's states, films and key. At
once is one program of all runs (`jax.vmap`): their products of matrices become one with a further
dimension, their convolutions convolutions in groups. `AT_ONCE` names those that go this second way;
docs/cache_and_seeds.md says how it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cxrjax.training import steps
from cxrjax.training.lane import Lane

# Beginnings of the names of networks that are clearly faster at once, by platform: on the CPU none
# at a usual size (docs/cache_and_seeds.md).
AT_ONCE: dict[str, tuple[str, ...]] = {"cpu": ()}


def by_turns(lanes: Sequence[Lane]) -> None:
    """One call of each run, one after the other."""
    for lane in lanes:
        run = lane.run
        lane.moved(*run.step(lane.states, lane.record.next_batch(), run.step_key))


class AtOnce:
    """One call of all runs in one program. The states lie stacked, run by run, between calls.

    Args:
      step: of their scheme, uncompiled: (states, batch, key) -> (states, logs).
      mesh: of all devices.
    """

    def __init__(self, step: Callable, mesh: jax.sharding.Mesh):
        whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "data"))

        def run(states, batches, keys):
            batches = jax.tree.map(lambda *x: jnp.stack(x), *batches)
            states, logs = jax.vmap(steps.scan_steps(step))(states, batches, keys)
            return states, [jax.tree.map(lambda x, i=i: x[i], logs) for i in range(len(keys))]

        self._run = jax.jit(run, in_shardings=(whole, split, whole), out_shardings=whole,
                            donate_argnums=0)
        self._lanes: list[Lane] = []
        self._states: Any = None

    def __call__(self, lanes: Sequence[Lane]) -> None:
        """One call of each of the runs, which may be other ones than at the last call."""
        if self._lanes != list(lanes):
            for lane in self._lanes:
                lane.states  # noqa: B018 - those that stay behind keep their own
            self._lanes = list(lanes)
            self._states = jax.tree.map(lambda *x: jnp.stack(x), *(own.states for own in lanes))
        batches = tuple(lane.record.next_batch() for lane in lanes)
        keys = jnp.stack([lane.run.step_key for lane in lanes])
        self._states, logs = self._run(self._states, batches, keys)
        for number, lane in enumerate(lanes):
            lane.moved(lambda i=number: self._of(i), logs[number])

    def _of(self, number: int) -> Any:
        return jax.tree.map(lambda x: x[number], self._states)
