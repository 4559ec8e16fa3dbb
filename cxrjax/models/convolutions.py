"""One convolution for every layer, by the fastest way that the device has.

On a GPU that is XLA's own. XLA's CPU convolution keeps one core busy where output channels are few,
takes a slow way for most derivatives, and plain loops for others (a result smaller than 3x3,
depthwise). There the same sum is written as matrix products, in Winograd's transforms or over
shifted views, with derivatives of the same kind. Which way is taken depends on shapes alone, and
each was taken because it was measured to be faster (docs/convolutions.md; see `convolve`).

Everything is NHWC and HWIO; padding is the same on both sides.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cxrjax.models import parts
from cxrjax.models.winograd import by_winograd

WIDE = 32  # channels on both sides from which Winograd's transforms are worth making
SMALL = 512  # positions of a map up to which all shifts of a narrow one stay in the cache
STEM = 4096  # positions of a stem's result from which XLA's derivative by its kernel is slower


# 'here': for the platform of this process; 'each': for every platform its own way; 'plain': XLA's.
_FOR = contextvars.ContextVar("platforms", default="here")


@contextlib.contextmanager
def traced_for(platforms: str) -> Iterator[None]:
    """What is traced inside serves other platforms than this one.

    Which way is fastest is chosen while a network is traced, for the platform that it then runs on;
    an exported one is traced here and runs elsewhere.

    Args:
      platforms: 'each': every platform finds its own way in the program; 'plain': by XLA's own
        convolution alone.
    """
    token = _FOR.set(platforms)
    try:
        yield
    finally:
        _FOR.reset(token)


def on_cpu() -> bool:
    """Whether XLA compiles for the CPU, and for nothing else."""
    return jax.default_backend() == "cpu" and _FOR.get() == "here"


def _by_platform(way: Callable[[Array, Array, bool], Array], x: Array, kernel: Array) -> Array:
    """`way(x, kernel, cpu)` for the platforms that are traced for."""
    if _FOR.get() != "each":
        return way(x, kernel, on_cpu())
    return lax.platform_dependent(
        x, kernel, cpu=lambda x, kernel: way(x, kernel, True),
        default=lambda x, kernel: way(x, kernel, False))


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"], stride: int, padding: int
) -> Float[Array, "b _ _ o"]:
    """The convolution of `x` (as networks call the cross-correlation) at a stride.

    Beside XLA's convolution there are, on any device, the matrix product of a 1x1 kernel and of
    separate patches (stride = kernel), and on the CPU, of 3x3 kernels at

    - stride 1 to at most half the channels, on maps of at most `SMALL` positions: `narrowing`;
    - stride 1 with at least `WIDE` channels on both sides: `winograd`, in float32;
    - stride 2, or with a result below 3x3: `by_patches`, as are stems with a large result.
    """
    return _by_platform(lambda x, kernel, cpu: _convolve(x, kernel, stride, padding, cpu), x,
                        kernel)


def _convolve(x: Array, kernel: Array, stride: int, padding: int, cpu: bool) -> Array:
    k, _, c, o = kernel.shape
    # Elsewhere a strided view before a product ends the compiler (jaxlib 0.11.2 on an H200: Check
    # failed in triton_tiling_propagation.cc), and cuDNN has such convolutions.
    if k == 1 and padding == 0 and (stride == 1 or cpu):
        x, kernel = x[:, ::stride, ::stride], kernel[0, 0]
        return product(x, kernel) if cpu else x @ kernel
    if k == stride and padding == 0:
        return cells(x, k) @ kernel.reshape(-1, o)
    height, width = ((n + 2 * padding - k) // stride + 1 for n in x.shape[1:3])
    if cpu and k == 3 and padding == 1:
        if stride == 1 and height * width <= SMALL and 2 * o <= c:
            return narrowing(x, kernel)
        if stride == 2 or min(height, width) < 3:
            return by_patches(x, kernel, stride, padding)
        if stride == 1 and min(c, o) >= WIDE and x.dtype == jnp.float32:
            return by_winograd(x, kernel)
    if cpu and k > 3 and stride == 2 and height * width >= STEM:
        return by_patches(x, kernel, stride, padding)
    return _xla(x, kernel, stride, padding)


def _xla(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    sides = [(padding, padding)] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int, padding: int
) -> Float[Array, "b _ _ c"]:
    """A convolution of each channel with its own kernel."""
    return _by_platform(lambda x, kernel, cpu: _depthwise(x, kernel, stride, padding, cpu), x,
                        kernel)


def _depthwise(x: Array, kernel: Array, stride: int, padding: int, cpu: bool) -> Array:
    if cpu and stride == 1 and padding == kernel.shape[0] // 2:
        return depthwise_by_taps(x, kernel)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )


def pad(x: Float[Array, "b h w c"], before: int, after: int, value: float = 0.0) -> Array:
    """`x` with rows and columns of `value` around it."""
    sides = ((0, 0), (before, after), (before, after), (0, 0))
    return jnp.pad(x, sides, constant_values=value)


def cells(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b _ _ _"]:
    """Separate squares of pixels, each as one row; what is left over at the end is dropped."""
    b, h, w, c = x.shape
    h, w = h // size, w // size
    x = x[:, : h * size, : w * size].reshape(b, h, size, w, size, c)
    return jnp.moveaxis(x, 2, 3).reshape(b, h, w, size * size * c)


def _taps(x: Array, size: tuple[int, int], kernel: int, stride: int) -> list[list[Array]]:
    """Views of the padded `x`, one per kernel position, each of the output's `size`."""
    h, w = size
    return [
        [
            x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride]
            for j in range(kernel)
        ]
        for i in range(kernel)
    ]


def _patches(x: Array, k: int, stride: int, padding: int) -> Array:
    """[b, h, w, c] to [b, _, _, k * k * c]: what lies under the kernel."""
    size = tuple((n + 2 * padding - k) // stride + 1 for n in x.shape[1:3])
    views = _taps(pad(x, padding, padding), size, k, stride)
    return jnp.concatenate([view for row in views for view in row], -1)


def _films(x: Array, k: int, stride: int, padding: int) -> Any:
    """How many films' patches are laid out together."""
    b, h, w, c = x.shape
    high, wide = ((n + 2 * padding - k) // stride + 1 for n in (h, w))
    return parts.films_of_a_part(b, high * wide * k * k * c * x.dtype.itemsize)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def by_patches(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"], stride: int, padding: int
) -> Float[Array, "b _ _ o"]:
    """A convolution as one matrix product of the patches under the kernel."""
    k, _, _, o = kernel.shape
    return parts.mapped(lambda x: _patches(x, k, stride, padding) @ kernel.reshape(-1, o), x,
                        _films(x, k, stride, padding))


def _by_patches_forward(
    x: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array]]:
    return by_patches(x, kernel, stride, padding), (x, kernel)


def _by_patches_backward(
    stride: int, padding: int, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    k, _, _, o = kernel.shape
    flat = kernel.reshape(-1, o)

    def part(x: Array, g: Array) -> tuple[Array, Array]:
        patches, back = jax.vjp(lambda x: _patches(x, k, stride, padding), x)
        (d_x,) = back(g @ flat.T)
        return d_x, _over_rows(patches.reshape(-1, flat.shape[0]), g.reshape(-1, o))

    d_x, d_kernel = parts.summed(part, x, g, _films(x, k, stride, padding))
    return d_x, d_kernel.reshape(kernel.shape)


by_patches.defvjp(_by_patches_forward, _by_patches_backward)


@jax.custom_vjp
def narrowing(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"]
) -> Float[Array, "b h w o"]:
    """A stride-1 convolution of odd kernel, zero-padded to the input's size, to fewer channels.

    One product with all k * k kernel positions side by side, then the sum of its shifted slices.
    Backward the patches of the (narrow) derivative are laid out once, for both products.
    """
    b, h, w, c = x.shape
    k, _, _, o = kernel.shape
    side_by_side = jnp.moveaxis(kernel, 2, 0).reshape(c, k * k * o)
    y = lax.optimization_barrier(x.reshape(-1, c) @ side_by_side)
    views = _taps(pad(y.reshape(b, h, w, -1), k // 2, k // 2), (h, w), k, 1)
    shifted = [view for row in views for view in row]
    return sum(v[..., n * o : (n + 1) * o] for n, v in enumerate(shifted))


def _narrowing_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return narrowing(x, kernel), (x, kernel)


def _narrowing_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    k, _, c, o = kernel.shape
    patches = lax.optimization_barrier(_patches(g, k, 1, k // 2)).reshape(-1, k * k * o)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)  # takes the derivative by y to that by x
    d_x = (patches @ turned.reshape(k * k * o, c)).reshape(x.shape)
    d_kernel = _over_rows(x.reshape(-1, c), patches).reshape(c, k, k, o)
    return d_x, jnp.moveaxis(d_kernel[:, ::-1, ::-1], 0, 2)


narrowing.defvjp(_narrowing_forward, _narrowing_backward)


def _over_rows(x: Array, g: Array) -> Array:
    """x^T g, for XLA to pack as its product wants it: a transposed copy of our own costs more."""
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))


@jax.custom_vjp
def product(x: Float[Array, "*b c"], kernel: Float[Array, "c o"]) -> Float[Array, "*b o"]:
    """x @ kernel; its derivative by the kernel is one contraction over the rows, unprepared."""
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    c, o = kernel.shape
    return g @ kernel.T, _over_rows(x.reshape(-1, c), g.reshape(-1, o))


product.defvjp(_product_forward, _product_backward)


def _tap_depthwise(x: Array, kernel: Array) -> Array:
    """A stride-1 depthwise convolution of odd kernel as one multiply-add per kernel position."""
    k = kernel.shape[0]
    views = _taps(pad(x, k // 2, k // 2), x.shape[1:3], k, 1)
    return sum(views[i][j] * kernel[i, j, 0] for i in range(k) for j in range(k))


@jax.custom_vjp
def depthwise_by_taps(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"]
) -> Float[Array, "b h w c"]:
    """A stride-1 depthwise convolution of odd kernel `k`, zero-padded to the input's size.

    Equal to `lax.conv_general_dilated` with one group per channel, which on the CPU is some forty
    times slower; the derivative is written out because the transposed slices are slow as well.
    """
    return _tap_depthwise(x, kernel)


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _tap_depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    k = kernel.shape[0]
    padded = pad(x, k // 2, k // 2).astype(jnp.float32)

    # Film by film, so that the k * k sums read what is still in the cache: four times faster.
    def add(total: Array, film: tuple[Array, Array]) -> tuple[Array, None]:
        x, g = film
        views = _taps(x[None], g.shape[:2], k, 1)
        sums = jnp.stack([jnp.stack([jnp.sum(v[0] * g, (0, 1)) for v in row]) for row in views])
        return total + sums, None

    start = jnp.zeros((k, k, x.shape[-1]), jnp.float32)
    d_kernel, _ = lax.scan(add, start, (padded, g.astype(jnp.float32)))
    return _tap_depthwise(g, kernel[::-1, ::-1]), d_kernel[:, :, None].astype(kernel.dtype)


depthwise_by_taps.defvjp(_depthwise_forward, _depthwise_backward)
