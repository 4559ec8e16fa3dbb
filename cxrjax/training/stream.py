"""The training stream: each call's batches, on the devices that compute with them.

The films come from the input pipeline, or lie on the devices already (`held_films`). Either way the
order is the same and so are the arrays, to the bit; the compiled steps do not know which it was. A
stream's state is its place in the order, and one kind goes on from the other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cxrjax.data import input_pipeline
from cxrjax.data.sets.base import Films
from cxrjax.training import steps
from cxrjax.training.held_films import HeldFilms

Call = tuple[np.ndarray, dict[str, jax.Array]]


def open_stream(
    config: Any, films: Films, mesh: jax.sharding.Mesh, trained_on: bool = True,
    held: HeldFilms | None = None,
) -> FromDisk | FromDevices:
    """The stream of a completed config, at its beginning.

    Args:
      config: completed.
      films: the opened data set.
      mesh: of all devices.
      trained_on: False where these films are not what is trained on (a scheme makes that of them),
        and the stream is asked for its place alone.
      held: the same films, where another stream holds them already.

    Raises:
      UserError: the films shall lie on the devices and do not fit.
    """
    positions = films.splits["train"]
    order = (config.batch_size, config.steps_per_call, config.seed, config.threads,
             config.reading_processes)
    if not (config.get("cache_on_device") and trained_on):
        return FromDisk(input_pipeline.train_iterator(films, positions, *order), mesh)
    if held is None:
        held = HeldFilms(films.source, positions, mesh, config.threads, config.reading_processes)
    return FromDevices(input_pipeline.TrainOrder(len(positions), *order), held)


class FromDisk:
    """Films are read while the devices compute; of several processes each reads its piece.

    `next` gives the positions of a call's films i[T, B] and its batches {key: [T, B, ...]}.
    """

    held = None

    def __init__(self, iterator: Any, mesh: jax.sharding.Mesh):
        self._iterator, self._mesh = iterator, mesh

    def __next__(self) -> Call:
        batch = dict(next(self._iterator))
        positions = batch.pop("position")
        return positions, steps.shard(batch, self._mesh, axis=1)

    def get_state(self) -> Mapping[str, Any]:
        """The place in the order, as JSON."""
        return self._iterator.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a place in the order."""
        self._iterator.set_state(state)


class FromDevices:
    """As `FromDisk`, of films that the devices hold."""

    def __init__(self, order: input_pipeline.TrainOrder, held: HeldFilms):
        self._order, self.held = order, held

    def __next__(self) -> Call:
        rows = next(self._order)
        # A process looks for faults among its own films: as many are others'.
        piece = rows.shape[1] // jax.process_count()
        own = rows[:, jax.process_index() * piece : (jax.process_index() + 1) * piece]
        return self.held.positions[own], self.held.take(rows)

    def get_state(self) -> Mapping[str, Any]:
        """The place in the order, as JSON."""
        return self._order.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a place in the order."""
        self._order.set_state(state)
