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
    """A source that keeps every record it has made: for films that are costly to make and few."""

    def __init__(self, source: Any):
        self._source, self._kept, self._lock = source, {}, threading.Lock()

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
    import grain  # brings Orbax with it: most of a second

    processes = jax.process_count()
    if batch_size % processes:
        raise UserError(
            f"config.batch_size = {batch_size} is not divisible by the {processes} processes"
        )
    if not len(positions):
        raise UserError("the training split holds no film: see the split options of the data set")
    shuffled = (
        grain.MapDataset.source(Selection(films.source, positions)).seed(seed).shuffle().repeat()
    )
    if processes > 1:
        shuffled = _share(shuffled, batch_size, jax.process_index(), processes)
    dataset = (
        shuffled
        .batch(batch_size // processes, drop_remainder=True)
        .batch(steps_per_call, drop_remainder=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4))
    )
    if reading_processes:
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=reading_processes, per_worker_buffer_size=2
            )
        )
    return iter(dataset)


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
    import grain

    positions = np.asarray(positions)
    ids = films.table["id"][positions]
    dataset = (
        grain.MapDataset.source(Selection(films.source, positions))
        .batch(batch_size, drop_remainder=False)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4))
    )
    start = 0
    for batch in dataset:
        count = len(batch["weight"])
        yield pad(batch, batch_size), [str(i) for i in ids[start : start + count]]
        start += count


def labels_of(films: Films, positions: np.ndarray) -> np.ndarray:
    """Labels f32[N, K] of the films at `positions`: from the table where it has them, else read."""
    if "label" in films.table:
        return films.table["label"][positions].astype(np.float32)
    return np.stack([films.source[int(i)]["label"] for i in positions]).astype(np.float32)
