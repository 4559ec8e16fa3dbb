"""Films of any size made ready inside an exported program, as `data` does it outside: bit for bit.

The host's ways are Pillow's resizing and a scan along rows (`data.preprocess`, `data.artifacts`);
these are the same sums in JAX, for sides that are known only when the program is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

SUPPORT = 3  # of Lanczos' window, in pixels of the smaller film
BITS = 22  # Pillow's weights are whole numbers of 2^-22


def prepare(
    film: UInt8[Array, "b h w 1"], size: int, options: Mapping[str, Any]
) -> UInt8[Array, "b {size} {size} 1"]:
    """`films_on_disk.as_prepared` of each film, for a program that is exported."""
    film = film[..., 0]
    if options.get("remove_artifacts", False):
        film = without_bright_artifacts(film)
    return resize(film, size, options.get("fit", "stretch"))[..., None]


def resize(
    film: UInt8[Array, "b h w"], size: int, fit: str = "stretch"
) -> UInt8[Array, "b {size} {size}"]:
    """`preprocess.resize`: Pillow's LANCZOS with its rounding, columns first.

    The sums are of whole numbers below 2^53 and so exact in float64, which is why this is traced
    with 64 bits; XLA's own product of integers is far slower.
    """
    height, width = film.shape[1:]
    with jax.enable_x64(True):
        sides = jnp.asarray(height, jnp.int64), jnp.asarray(width, jnp.int64)
        shortest, longest = jnp.minimum(*sides), jnp.maximum(*sides)
        weights = []
        for length, side in zip((height, width), sides):
            if fit == "pad":
                inner = jnp.maximum(1, jnp.round(size * side / longest).astype(jnp.int64))
                weights.append(_weights(length, 0, side, size, (size - inner) // 2, inner))
            elif fit == "crop":
                weights.append(_weights(length, (side - shortest) // 2, shortest, size, 0, size))
            else:
                weights.append(_weights(length, 0, side, size, 0, size))
        across = _rounded(film.astype(jnp.float64) @ weights[1].T)
        down = _rounded(jnp.einsum("bhs,th->bts", across, weights[0]))
        return down.astype(jnp.uint8)


def _weights(
    length: Any, start: Any, taken: Any, size: int, first: Any, inner: Any
) -> Float[Array, "{size} _"]:
    """What each pixel of the smaller side takes of each of the larger, in units of 2^-22.

    Args:
      length: pixels of the film's side; `taken` of them, from `start` on, are resized.
      first: where the `inner` resized pixels begin among the `size`; the others stay black.
    """
    place = (jnp.arange(size) - first)[:, None]
    scale = taken / jnp.asarray(inner, jnp.float64)
    wide = jnp.maximum(scale, 1.0)
    middle, reach = (place + 0.5) * scale, SUPPORT * wide
    pixel = jnp.arange(length)[None] - start
    low = jnp.maximum(jnp.trunc(middle - reach + 0.5), 0)
    high = jnp.minimum(jnp.trunc(middle + reach + 0.5), taken)
    found = _lanczos((pixel - middle + 0.5) * (1.0 / wide))
    found = jnp.where((pixel >= low) & (pixel < high), found, 0.0)
    found = found * (1.0 / found.sum(1, keepdims=True))
    found = jnp.trunc(found * 2.0**BITS + jnp.where(found < 0, -0.5, 0.5))
    return jnp.where((place >= 0) & (place < inner), found, 0.0)


def _lanczos(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    def sinc(x):
        angle = x * jnp.pi
        return jnp.where(x == 0, 1.0, jnp.sin(angle) / jnp.where(x == 0, 1.0, angle))

    return jnp.where((x >= -SUPPORT) & (x < SUPPORT), sinc(x) * sinc(x / SUPPORT), 0.0)


def _rounded(sums: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.clip(jnp.floor((sums + 2.0 ** (BITS - 1)) / 2.0**BITS), 0, 255)


def without_bright_artifacts(
    film: UInt8[Array, "b h w"], jump: int = 50, width: int = 40
) -> UInt8[Array, "b h w"]:
    """`artifacts.remove_bright_artifacts` of 8-bit films, see there."""
    columns = film.shape[2]
    x = film.astype(jnp.int32)
    before = jnp.pad(x, ((0, 0), (0, 0), (1, 0)), mode="edge")[..., :-1]  # no edge at column 0
    rises, falls = x - before >= jump, before - x >= jump
    right = ((0, 0), (0, 0), (0, width))
    later, later_falls = jnp.pad(x, right), jnp.pad(falls, right)

    def look(k: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """Ends k pixels on; `found` is (how far the first end is or 0, the mean, the lowest)."""
        end, mean, lowest = found
        there = lax.dynamic_slice_in_dim(later, k, columns, 2)
        ends = lax.dynamic_slice_in_dim(later_falls, k, columns, 2)
        holds = rises & ends & (lowest > jnp.maximum(before, there)) & (end == 0)
        return (jnp.where(holds, k, end), jnp.where(holds, (before + there + 1) // 2, mean),
                jnp.minimum(lowest, there))

    none = jnp.zeros_like(x)
    end, mean, _ = lax.fori_loop(1, width + 1, look, (none, none, x))

    def along(
        bar: tuple[Int[Array, "b h"], Int[Array, "b h"]], column: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array], Array]:
        """One column; `bar` is (how many of its pixels are to come, what they become)."""
        left, fill = bar
        x, end, mean = column
        begins = (left == 0) & (end > 0)
        left, fill = jnp.where(begins, end, left), jnp.where(begins, mean, fill)
        return (jnp.maximum(left - 1, 0), fill), jnp.where(left > 0, fill, x)

    nothing = jnp.zeros_like(x[..., 0])
    by_column = tuple(jnp.moveaxis(part, 2, 0) for part in (x, end, mean))
    _, cleaned = lax.scan(along, (nothing, nothing), by_column)
    return jnp.moveaxis(cleaned, 0, 2).astype(jnp.uint8)
