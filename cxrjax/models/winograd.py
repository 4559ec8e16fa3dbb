"""3x3 convolutions at stride 1 by Winograd's F(2x2, 3x3): 16 products where the plain sum takes 36.

Lavin and Gray 2016 (arXiv:1509.09308), section 4.1. Two by two results y need four by four inputs
d:

    y = A' [(G g G') * (B' d B)] A

with * element by element, which over channels is one matrix product [tiles, c] @ [c, o] for each of
the 16 elements. The derivative by the input is the same convolution with the kernel turned; that by
the kernel is the adjoint, G' [sum over tiles of (B' d B) (A y A')] G. F(4x4, 3x3) would take a
quarter of the products and was measured to be less exact and slower.

The transforms read and write four times the map, so the films go through in parts (see `parts`): 32
films of 56x56x64 take 47 ms at once, 16 ms by twos, and XLA's convolution 34 ms (2 cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cxrjax.models import parts


def _pairs(x: Array, axis: int) -> list[Array]:
    """The even and the odd positions along an axis."""
    return [lax.slice_in_dim(x, i, None, 2, axis) for i in (0, 1)]


def _fours(x: Array, axis: int) -> list[Array]:
    """The overlapping fours of positions, two apart, along an axis of even length."""
    n = x.shape[axis] // 2 - 1
    return [lax.slice_in_dim(side, i, i + n, axis=axis) for i in (0, 1) for side in _pairs(x, axis)]


def _input_row(d: Sequence[Array]) -> list[Array]:
    """B' d."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _kernel_row(g: Sequence[Array]) -> list[Array]:
    """G g."""
    return [g[0], (g[0] + g[1] + g[2]) * 0.5, (g[0] - g[1] + g[2]) * 0.5, g[2]]


def _kernel_back(u: Sequence[Array]) -> list[Array]:
    """G' u."""
    half_sum, half_difference = (u[1] + u[2]) * 0.5, (u[1] - u[2]) * 0.5
    return [u[0] + half_sum, half_difference, half_sum + u[3]]


def _result_row(m: Sequence[Array]) -> list[Array]:
    """A' m."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _result_back(y: Sequence[Array]) -> list[Array]:
    """A y."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _inputs(x: Array) -> list[Array]:
    """B' d B of the zero-padded [b, h, w, c]: 16 of [tiles, c], two by two positions to a tile."""
    _, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0)))
    return [v.reshape(-1, c) for row in _input_row(_fours(x, 1))
            for v in _input_row(_fours(row, 2))]


def _kernels(kernel: Array) -> list[Array]:
    """G g G' of [3, 3, c, o]: 16 of [c, o]."""
    return [u for row in _kernel_row([*kernel]) for u in _kernel_row([*row])]


def _results(m: Sequence[Array], h: int, w: int) -> Array:
    """A' m A: 16 of [tiles, o] to [b, h, w, o]."""
    rows = [_result_row(m[4 * i : 4 * i + 4]) for i in range(4)]
    columns = [_result_row([row[j] for row in rows]) for j in range(2)]
    high, wide, o = -(-h // 2), -(-w // 2), m[0].shape[-1]
    y = [[columns[j][i].reshape(-1, high, wide, o) for j in range(2)] for i in range(2)]
    y = jnp.stack([jnp.stack(row, 3) for row in y], 2)
    return y.reshape(-1, 2 * high, 2 * wide, o)[:, :h, :w]


def _gradients(g: Array) -> list[Array]:
    """A y A' of the derivative by the result [b, h, w, o]: 16 of [tiles, o]."""
    _, h, w, o = g.shape
    g = jnp.pad(g, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    return [v.reshape(-1, o) for row in _result_back(_pairs(g, 1))
            for v in _result_back(_pairs(row, 2))]


def _kernel_of(u: Sequence[Array]) -> Array:
    """G' u G: 16 of [c, o] to [3, 3, c, o]."""
    rows = [_kernel_back(u[4 * i : 4 * i + 4]) for i in range(4)]
    columns = [_kernel_back([row[j] for row in rows]) for j in range(3)]
    return jnp.stack([jnp.stack([columns[j][i] for j in range(3)]) for i in range(3)])


def _films(x: Array, channels: int) -> Any:
    """How many films [b, h, w, c] go through together; `channels` are those of the wider side."""
    b, h, w, _ = x.shape
    return parts.films_of_a_part(b, 4 * h * w * channels * x.dtype.itemsize)


def _convolved(x: Array, u: Sequence[Array]) -> Array:
    """[b, h, w, c] with 16 of [c, o]: [b, h, w, o]."""
    _, h, w, c = x.shape
    return parts.mapped(
        lambda x: _results([v @ side for v, side in zip(_inputs(x), u)], h, w),
        x, _films(x, max(c, u[0].shape[-1])))


def _by_kernel(x: Array, g: Array) -> Array:
    """The derivative by the kernel, [3, 3, c, o]."""
    _, total = parts.summed(
        lambda x, g: (None, [v.T @ t for v, t in zip(_inputs(x), _gradients(g))]),
        x, g, _films(x, max(x.shape[-1], g.shape[-1])))
    return _kernel_of(total)


@jax.custom_vjp
def by_winograd(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c o"]
) -> Float[Array, "b h w o"]:
    """A 3x3 convolution at stride 1, zero-padded to the input's size.

    Equal to the plain sum within 1e-5 of its largest value in float32, its derivatives within 1e-4.
    """
    return _convolved(x, _kernels(kernel))


def _by_winograd_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    # Turning a kernel exchanges the first and the last row of G g, and leaves the others.
    u = _kernels(kernel)
    turned = [u[4 * i + j].T for i in (3, 1, 2, 0) for j in (3, 1, 2, 0)]
    return _convolved(g, turned), _by_kernel(x, g)


by_winograd.defvjp(lambda x, kernel: (by_winograd(x, kernel), (x, kernel)), _by_winograd_backward)
