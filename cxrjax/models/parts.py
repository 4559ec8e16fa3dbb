"""A batch worked on in parts that leave what they lay out in the processor's cache.

Ways of convolving that first lay out more than the map itself (patches, Winograd's transforms) are
bound by memory where that much does not fit; some films at a time they are not. Every film goes its
own way, so that parts change no result, and a sum over films only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

LAID_OUT = 8_000_000  # bytes that a part lays out; 6 to 12 MB were measured to be alike


def films_of_a_part(batch: Any, laid_out: int) -> Any:
    """How many films go through together; `laid_out` is in bytes, of one film.

    Rather somewhat fewer that divide the batch than as many as fit, which leaves a part to fill up.
    All of them where several devices share a batch (a part would be gathered from all of them), and
    where the number of films is free, in what is exported.
    """
    if jax.device_count() > 1 or not isinstance(batch, int):
        return batch
    most = min(batch, max(1, LAID_OUT // laid_out))
    return next((n for n in range(most, most // 2, -1) if batch % n == 0), most)


def _in_parts(x: Array, films: Any) -> Array:
    """[b, ...] as [parts, films, ...], the last part filled up with zeros."""
    parts = -(-x.shape[0] // films)
    x = jnp.pad(x, ((0, parts * films - x.shape[0]), *((0, 0) for _ in x.shape[1:])))
    return x.reshape(parts, films, *x.shape[1:])


def mapped(part: Callable[[Array], Array], x: Array, films: Any) -> Array:
    """part(x) of [b, ...], which treats every film by itself."""
    if films >= x.shape[0]:
        return part(x)
    y = lax.map(part, _in_parts(x, films))
    return y.reshape(-1, *y.shape[2:])[: x.shape[0]]


def summed(
    part: Callable[[Array, Array], tuple[Any, Any]], x: Array, g: Array, films: int
) -> tuple[Any, Any]:
    """part(x, g) of two [b, ...]: (what it makes of every film, a sum over the films).

    Films of zeros must add nothing to the sum.
    """
    b = x.shape[0]
    if films >= b:
        return part(x, g)
    sides = _in_parts(x, films), _in_parts(g, films)
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype),
                         jax.eval_shape(part, sides[0][0], sides[1][0])[1])

    def add(total: Any, sides: tuple[Array, Array]) -> tuple[Any, Any]:
        made, more = part(*sides)
        return jax.tree.map(jnp.add, total, more), made

    total, made = lax.scan(add, start, sides)
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:b], made), total
