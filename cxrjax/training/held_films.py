"""The training films in the devices' memory, as the bytes that they are stored as.

Each device holds one part of them. A batch is gathered where it is needed: every device looks up
what it holds of the whole batch, and the parts are exchanged as integers, of which all but one are
0. What comes out is to the bit what would have been read. The gathering is a program of its own
before the compiled steps, which so are the very same program as without it.
"""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cxrjax.data import input_pipeline, progress
from cxrjax.errors import UserError
from cxrjax.training import processes, steps

_CHUNK = 2**26  # bytes that are on their way to a device at once
_OURS = ("position", "weight")  # of a record: where it stood, and 1 for every training film


class HeldFilms:
    """The films at `positions` of a source, read when the first batch is asked for.

    Args:
      source: of the films.
      positions: of those to hold; row i of a batch's rows is the film at positions[i].
      mesh: of all devices; each holds an equal part, the last one padded.
      threads: that read.
      reading_processes: beside them.

    Raises:
      UserError: they do not fit.
    """

    def __init__(self, source: Any, positions: np.ndarray, mesh: jax.sharding.Mesh,
                 threads: int = 2, reading_processes: int = 0):
        # What keeps films in the host's memory would keep each of them a second time.
        self._source = getattr(source, "uncached", source)
        self.positions, self._mesh = np.asarray(positions, np.int32), mesh
        self._reading = (threads, reading_processes)
        first = input_pipeline.Selection(self._source, self.positions)[0]
        self._film = {k: _stored(v) for k, v in first.items() if k not in _OURS}
        self._part = -(-len(self.positions) // mesh.size)
        self._held: dict[str, jax.Array] = {}
        self._gather = jax.jit(
            functools.partial(_gather, mesh=mesh, like=self._film),
            out_shardings=NamedSharding(mesh, P(None, "data")),
        )
        check_fits(self.part_bytes, len(self.positions), mesh)

    @property
    def part_bytes(self) -> int:
        """Bytes of what one device holds."""
        return self._part * sum(x.nbytes for x in self._film.values())

    def take(self, rows: np.ndarray) -> dict[str, jax.Array]:
        """The films of rows i32[T, B] as batches {key: [T, B, ...]}, split over the mesh."""
        if not self._held:
            self._held = self._read()
        return self._gather(self._held, steps.replicate(rows, self._mesh))

    def _read(self) -> dict[str, jax.Array]:
        """{key: integers [rows, ...], split over the mesh}; each process reads its devices' own."""
        parts: dict[str, list[jax.Array]] = {key: [] for key in self._film}
        size = max(1, min(512, _CHUNK // max(1, self.part_bytes // self._part)))
        number = len(self.positions)
        local = [(i, d) for i, d in enumerate(self._mesh.devices.flat)
                 if d.process_index == jax.process_index()]
        total = sum(min(number, (i + 1) * self._part) - min(number, i * self._part)
                    for i, _ in local)
        words = f"reading the training films into the memory of {self._mesh.size} device(s)"
        with progress.counter(words, total, silent=not processes.is_first()) as count:
            for i, device in local:
                own = {key: jnp.zeros((self._part, *x.shape), _bits(x.dtype), device=device)
                       for key, x in self._film.items()}
                start = 0
                chosen = self.positions[i * self._part : (i + 1) * self._part]
                for batch in self._batches(chosen, size):
                    chunk = {key: jax.device_put(_integers(batch[key], self._film[key]), device)
                             for key in own}
                    own = _write(own, chunk, jnp.int32(start))
                    start += len(batch["weight"])
                    count(len(batch["weight"]))
                for key, part in own.items():
                    parts[key].append(part)
        return {
            key: jax.make_array_from_single_device_arrays(
                (self._part * self._mesh.size, *x.shape), NamedSharding(self._mesh, P("data")),
                parts[key],
            ) for key, x in self._film.items()
        }

    def _batches(self, chosen: np.ndarray, size: int) -> Any:
        if len(chosen):
            yield from input_pipeline.in_order(self._source, chosen, size, *self._reading)


def _stored(value: Any) -> np.ndarray:
    """A record's value in the type that it has on a device."""
    value = np.asarray(value)
    return value.astype(jax.dtypes.canonicalize_dtype(value.dtype))


def _bits(dtype: Any) -> Any:
    """The integers that values of a type are held as."""
    return jnp.dtype(f"uint{8 * np.dtype(dtype).itemsize}")


def _integers(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, like.dtype).view(_bits(like.dtype))


@functools.partial(jax.jit, donate_argnums=0)
def _write(held: Any, chunk: Any, start: jax.Array) -> Any:
    return jax.tree.map(
        lambda to, new: jax.lax.dynamic_update_slice_in_dim(to, new, start, 0), held, chunk
    )


def _gather(held: dict[str, jax.Array], rows: jax.Array, mesh: Any, like: Any) -> Any:
    """Batches {key: [T, B, ...]} split over the films of rows i32[T, B], which all devices have."""

    def look_up(held, rows):
        if mesh.size > 1:
            part = next(iter(held.values())).shape[0]
            rows = rows - part * jax.lax.axis_index("data")
            here = (rows >= 0) & (rows < part)
            rows = jnp.where(here, rows, 0)
        found = {k: x.at[rows].get(mode="promise_in_bounds") for k, x in held.items()}
        if mesh.size > 1:
            for key, x in found.items():
                alone = jnp.where(here.reshape(here.shape + (1,) * (x.ndim - 2)), x, 0)
                found[key] = jax.lax.psum_scatter(
                    alone.astype(x.dtype), "data", scatter_dimension=1, tiled=True
                )
        return found

    found = jax.shard_map(
        look_up, mesh=mesh, in_specs=(P("data"), P()), out_specs=P(None, "data")
    )(held, rows)
    out = {key: _as_stored(found[key], like[key].dtype) for key in found}
    return {**out, "weight": jnp.ones(rows.shape, jnp.float32)}


def _as_stored(bits: jax.Array, dtype: Any) -> jax.Array:
    if dtype == np.bool_:
        return bits != 0
    return bits if bits.dtype == dtype else jax.lax.bitcast_convert_type(bits, dtype)


# --- whether they fit


def check_fits(part: int, films: int, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError where a device has no room for so many bytes.

    Args:
      part: bytes of each device's part.
      films: how many there are in all, for the message.
      mesh: of all devices.
    """
    for device in mesh.local_devices:
        # The devices that JAX makes of a CPU have one memory together.
        need = part * len(mesh.local_devices) if device.platform == "cpu" else part
        free = available(device)
        if free is not None and need > free:
            raise UserError(
                f"config.cache_on_device: {films:,} training films need {need:,} bytes "
                f"({need / 2**30:.2f} GiB) of {_named(device)}, which has {free:,} "
                f"({free / 2**30:.2f} GiB) left: leave it off, or prepare smaller films"
            )


def _named(device: Any) -> str:
    return "this machine's memory" if device.platform == "cpu" else f"the memory of {device}"


def available(device: Any) -> int | None:
    """Bytes that can still be taken from a device; of a CPU from its machine; None: unknown."""
    if device.platform == "cpu":
        return _of_machine()
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))


def _of_machine() -> int | None:
    """What this machine, or the container that we are in, can still give."""
    found = []
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        *([f"memory/memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat")],),
    ):
        try:
            group = pathlib.Path("/sys/fs/cgroup")
            most, now = (int((group / name).read_text()) for name in (limit, used))
            told = dict(line.split() for line in (group / stat).read_text().splitlines())
        except (OSError, ValueError):  # there is none, or it is 'max'
            continue
        # Files that are kept in memory are given up first.
        found.append(most - now + int(told.get("inactive_file", 0)))
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found) if found else None
