"""One convolution for every layer, by the fastest way that the device has.

On a GPU that is XLA's own. XLA's CPU convolution is fast where a map is small and has many
channels; elsewhere it keeps one core busy (few output channels), or falls back to plain loops (a
result smaller than 3x3, depthwise). There the same sum is written as matrix products over shifted
views, with derivatives of the same kind. Which way is taken depends on shapes alone, and each was
taken because it was measured to be faster (batch 32, 2 cores; see `convolve`).

Everything is NHWC and HWIO; padding is the same on both sides.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NARROW = 64  # channels up to which XLA's CPU convolution leaves a core idle
TINY = 32  # positions of a map below which XLA's is as fast all the same
SMALL = 512  # positions of a map up to which shifted copies stay in the cache


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
    separate patches (stride = kernel), and on the CPU: 3x3 at stride 2 or with a result below 3x3
    as the product of all nine views at once (`by_patches`; 72 ms -> 1 ms where XLA has no fast
    path); 3x3 at stride 1 with at most `NARROW` channels on a side and at most `SMALL` positions
    as nine products (`by_products`; forward 1.5 times, backward 1.4 times as fast).
    """
    return _by_platform(lambda x, kernel, cpu: _convolve(x, kernel, stride, padding, cpu), x,
                        kernel)


def _convolve(x: Array, kernel: Array, stride: int, padding: int, cpu: bool) -> Array:
    k = kernel.shape[0]
    # Elsewhere a strided view before a product ends the compiler (jaxlib 0.11.2 on an H200: Check
    # failed in triton_tiling_propagation.cc), and cuDNN has such convolutions.
    if k == 1 and padding == 0 and (stride == 1 or cpu):
        x, kernel = x[:, ::stride, ::stride], kernel[0, 0]
        return product(x, kernel) if cpu else x @ kernel
    if k == stride and padding == 0:
        return cells(x, k) @ kernel.reshape(-1, kernel.shape[-1])
    if k == 3 and padding == 1 and cpu:
        height, width = ((n - 1) // stride + 1 for n in x.shape[1:3])
        positions = height * width
        if min(height, width) < 3 or stride == 2 and positions <= SMALL:
            return by_patches(x, kernel, stride, padding)
        if stride == 1 and TINY <= positions <= SMALL and min(kernel.shape[2:]) <= NARROW:
            return by_products(x, kernel)
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


def by_patches(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"], stride: int, padding: int
) -> Float[Array, "b _ _ o"]:
    """A convolution as one matrix product of the patches under the kernel."""
    k = kernel.shape[0]
    size = tuple((n + 2 * padding - k) // stride + 1 for n in x.shape[1:3])
    views = _taps(pad(x, padding, padding), size, k, stride)
    patches = jnp.concatenate([view for row in views for view in row], -1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _turned(kernel: Array) -> Array:
    """The kernel that takes the derivative by the output to that by the input, at stride 1."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _sum_of_products(x: Array, kernel: Array) -> Array:
    """Each kernel position's product with the whole map, shifted into place: stride 1, k odd."""
    h, w = x.shape[1:3]
    k = kernel.shape[0]
    return sum(
        pad(x @ kernel[i, j], k // 2, k // 2)[:, i : i + h, j : j + w]
        for i in range(k)
        for j in range(k)
    )


@jax.custom_vjp
def by_products(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"]
) -> Float[Array, "b h w o"]:
    """A stride-1 convolution of odd kernel, zero-padded to the input's size, as k * k products."""
    if kernel.shape[-1] <= NARROW:
        return _sum_of_products(x, kernel)
    return _xla(x, kernel, 1, kernel.shape[0] // 2)


def _by_products_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return by_products(x, kernel), (x, kernel)


def _by_products_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    k, _, c, o = kernel.shape
    turned = _turned(kernel)
    d_x = _sum_of_products(g, turned) if c <= NARROW else by_patches(g, turned, 1, k // 2)
    # Of x, [positions, c], one transposed copy; of g the k * k shifts, a row of shifts at a time.
    h, w = g.shape[1:3]
    flat = lax.optimization_barrier(x.reshape(-1, c).T)
    padded = pad(g, k // 2, k // 2)
    shifts = jnp.concatenate([padded[:, :, j : j + w] for j in reversed(range(k))], -1)
    shifts = lax.optimization_barrier(shifts)
    rows = [
        (flat @ shifts[:, i : i + h].reshape(-1, k * o)).reshape(c, k, o)
        for i in reversed(range(k))
    ]
    return d_x, jnp.stack(rows).swapaxes(1, 2)


by_products.defvjp(_by_products_forward, _by_products_backward)


@jax.custom_vjp
def product(x: Float[Array, "*b c"], kernel: Float[Array, "c o"]) -> Float[Array, "*b o"]:
    """x @ kernel; the kernel's derivative transposes the narrower of its two operands."""
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    c, o = kernel.shape
    flat_x, flat_g = x.reshape(-1, c), g.reshape(-1, o)
    if c <= o:
        d_kernel = lax.optimization_barrier(flat_x.T) @ flat_g
    else:
        d_kernel = (lax.optimization_barrier(flat_g.T) @ flat_x).T
    return g @ kernel.T, d_kernel


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
