"""From random-access films to batches: grain for training, a padded walk for evaluation.

Films travel as uint8; everything random about a film's position in the training stream follows from
the seed, whatever the number of threads or reading processes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError


class Selection:
    """The films at `positions` of a source, without what does not go to the device (ids)."""

    def __init__(self, source: Any, positions: np.ndarray):
        self._source, self._positions = source, np.asarray(positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = dict(self._source[int(self._positions[index])])
        record.pop("id")
        record["weight"] = np.float32(1.0)
        record["position"] = np.int32(self._positions[index])
        if "has_mask" in record:
            record["has_mask"] = np.bool_(record["has_mask"])
        return record

    def __repr__(self) -> str:  # grain writes it into the iterator's state: keep it short
        return f"Selection({len(self)} films)"


class Cached:
    """A source that keeps every record it has made: for films that are costly to make and few.

    `uncached` is the source that makes them.
    """

    def __init__(self, source: Any):
        self._source, self._kept, self._lock = source, {}, threading.Lock()

    @property
    def uncached(self) -> Any:
        return self._source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        record = self._kept.get(index)
        if record is None:
            record = self._source[index]
            with self._lock:
                record = self._kept.setdefault(index, record)
        return record

    def __reduce__(self) -> tuple:
        return Cached, (self._source,)  # a reading process keeps its own films; locks cannot travel


def train_iterator(
    films: Films,
    positions: np.ndarray,
    batch_size: int,
    steps_per_call: int,
    seed: int,
    threads: int = 2,
    reading_processes: int = 0,
) -> Any:
    """Endless shuffled training batches, {key: [T, B, ...]}, as numpy arrays.

    Every epoch is a fresh permutation; batches run across the border between epochs, so that no
    film is left out. Of several processes each reads its own piece of every batch. The iterator's
    `get_state`/`set_state` continue it exactly, with the same number of reading processes, and
    with any number of processes that train.

    Args:
      films: the opened data set.
      positions: the films to train on.
      batch_size: films per step over all processes.
      steps_per_call: T, steps per compiled call.
      seed: of the order.
      threads: reading threads (enough for prepared films).
      reading_processes: beside them (for films that are made or decoded in Python); 0 for none.

    Returns:
      A grain.DatasetIterator.
    """
    processes = jax.process_count()
    if batch_size % processes:
        raise UserError(
            f"config.batch_size = {batch_size} is not divisible by the {processes} processes"
        )
    shuffled = _endless(Selection(films.source, positions), seed)
    if processes > 1:
        shuffled = _share(shuffled, batch_size, jax.process_index(), processes)
    calls = shuffled.batch(batch_size // processes, drop_remainder=True).batch(
        steps_per_call, drop_remainder=True
    )
    return iter(_read(calls, threads, reading_processes))


def _endless(source: Any, seed: int) -> Any:
    """The one order of every training: a fresh permutation of the source for each epoch."""
    import grain  # brings Orbax with it: most of a second

    if not len(source):
        raise UserError("the training split holds no film: see the split options of the data set")
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat()


def _read(dataset: Any, threads: int, processes: int = 0) -> Any:
    """A grain.MapDataset's elements in order, made ahead by threads, in processes where asked."""
    import grain

    elements = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    )
    if processes:
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=2)
        )
    return elements


class TrainOrder:
    """The order of `train_iterator` without the films: rows of `positions`, i32[T, B] a call.

    Of several processes each gives the whole of every batch. The states are those of a
    `train_iterator` with as many reading processes, so that either goes on from the other's.

    Args:
      number: of films.
      batch_size, steps_per_call, seed, threads, reading_processes: as there.
    """

    def __init__(self, number: int, batch_size: int, steps_per_call: int, seed: int,
                 threads: int = 2, reading_processes: int = 0):
        calls = _endless(range(number), seed).batch(
            batch_size * steps_per_call, drop_remainder=True
        )
        self._calls, self._shape = iter(_read(calls, threads)), (steps_per_call, batch_size)
        self._processes = reading_processes

    def __next__(self) -> np.ndarray:
        return np.asarray(next(self._calls), np.int32).reshape(self._shape)

    def get_state(self) -> dict[str, Any]:
        """As JSON: how many calls there were, as grain writes it."""
        done, readers = self._calls.get_state()["next_index"], self._processes
        if not readers:
            return {"next_index": done}
        return {
            "next_index_in_cycle": done % readers, "next_index_in_datasets": readers,
            "iterators_in_use_indices": list(range(readers)),
            # Reader i makes every call whose number is i more than a multiple of theirs.
            "iterators_in_use_states": [
                {"next_index": (done - i + readers - 1) // readers} for i in range(readers)
            ],
            "exhausted": [0] * readers, "future_states": {},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `get_state`."""
        parts = state.get("iterators_in_use_states", [state])
        self._calls.set_state({"next_index": sum(part["next_index"] for part in parts)})


def _share(dataset: Any, batch_size: int, process: int, processes: int) -> Any:
    """The films of an endless dataset that one of several processes reads: its piece of each batch.

    What is shuffled is the whole, so that all pieces side by side are the batch that one process
    would have read.
    """
    import grain

    piece = batch_size // processes

    class Share(grain.MapDataset):
        def __len__(self) -> int:
            return len(self._parent) // batch_size * piece

        def __getitem__(self, index: int) -> Any:
            batch, place = divmod(index, piece)
            return self._parent[batch * batch_size + process * piece + place]

    return Share(dataset)


def pad(batch: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """The batch filled up to `size` films with copies of its first one, at weight 0.

    Copies rather than zeros: padding then cannot bring values that no film has.
    """
    missing = size - len(batch["weight"])
    if missing == 0:
        return dict(batch)
    out = {k: np.concatenate([v, np.repeat(v[:1], missing, axis=0)]) for k, v in batch.items()}
    out["weight"][size - missing :] = 0.0
    return out


def batches(
    films: Iterable[tuple[str, UInt8[np.ndarray, "s s 1"]]], size: int
) -> Iterator[tuple[dict[str, np.ndarray], list[str]]]:
    """Named films in order in batches of one size; the last is padded with weight 0.

    Yields:
      ({image u8[size, s, s, 1], weight f32[size]}, names of the real films).
    """
    films = iter(films)
    while chunk := list(itertools.islice(films, size)):
        image = np.stack([film for _, film in chunk])
        weight = np.ones(len(chunk), np.float32)
        yield pad({"image": image, "weight": weight}, size), [name for name, _ in chunk]


def eval_batches(
    films: Films, positions: np.ndarray, batch_size: int, threads: int = 2
) -> Iterator[tuple[dict[str, np.ndarray], list[str]]]:
    """Every film once, in order, in batches of one size; the last is padded with weight 0.

    Yields:
      (batch {key: [B, ...]}, ids of its real films).
    """
    positions = np.asarray(positions)
    ids = films.table["id"][positions]
    start = 0
    for batch in in_order(films.source, positions, batch_size, threads):
        count = len(batch["weight"])
        yield pad(batch, batch_size), [str(i) for i in ids[start : start + count]]
        start += count


def in_order(
    source: Any, positions: np.ndarray, batch_size: int, threads: int = 2,
    reading_processes: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Every film once, in order: {key: [B, ...]}; the last batch holds what is left."""
    import grain

    chosen = grain.MapDataset.source(Selection(source, positions))
    yield from _read(chosen.batch(batch_size, drop_remainder=False), threads, reading_processes)


def labels_of(films: Films, positions: np.ndarray) -> np.ndarray:
    """Labels f32[N, K] of the films at `positions`: from the table where it has them, else read."""
    if "label" in films.table:
        return films.table["label"][positions].astype(np.float32)
    return np.stack([films.source[int(i)]["label"] for i in positions]).astype(np.float32)
