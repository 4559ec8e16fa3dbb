"""Single layers of our networks' shapes, and the ways to compute each on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cxrjax.models import convolutions
from cxrjax.models import layers as ours

Ways = dict[str, Callable[..., Array]]


def layers(size: int, batch: int) -> dict[str, tuple[tuple[Array, ...], Ways]]:
    """{layer: (arguments, {way: function of them})}, the first way being the one of our networks.

    In bfloat16, of the shapes that films of `size` pixels have there.
    """
    tokens, half, quarter, eighth = (size // 16) ** 2 + 1, size // 2, size // 4, size // 8

    def normal(*shape: int) -> Array:
        return jax.random.normal(jax.random.key(len(shape)), shape, jnp.bfloat16)

    qkv = tuple(normal(batch, tokens, 6, 64) * (1 + i) for i in range(3))
    return {
        f"attention, {tokens} tokens": (qkv, {
            "XLA": lambda *qkv: jax.nn.dot_product_attention(*qkv, implementation="xla"),
            "cuDNN": lambda *qkv: jax.nn.dot_product_attention(*qkv, implementation="cudnn"),
            "cuDNN, padded": lambda *qkv: padded_attention(*qkv),
        }),
        f"7x7 depthwise, {eighth}x{eighth}x192": (
            (normal(batch, eighth, eighth, 192), normal(7, 7, 1, 192)),
            {"XLA": lambda x, k: convolutions.depthwise(x, k, 1, 3), "49 views": by_views},
        ),
        f"3x3 max-pool, {half}x{half}x64": (
            (normal(batch, half, half, 64),),
            {"ours": ours.max_pool, "XLA": reduce_window},
        ),
        f"1x1, {quarter}x{quarter}x256 to 64": (
            (normal(batch, quarter, quarter, 256), normal(1, 1, 256, 64)),
            {"product": lambda x, k: x @ k[0, 0], "convolution": convolution},
        ),
    }


def padded_attention(
    q: Float[Array, "b n h d"], k: Float[Array, "b n h d"], v: Float[Array, "b n h d"],
    implementation: str = "cudnn",
) -> Float[Array, "b n h d"]:
    """Attention by cuDNN over a multiple of eight tokens, those beyond `n` masked."""
    n = q.shape[1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, -n % 8), (0, 0), (0, 0))) for x in (q, k, v))
    lengths = jnp.full(q.shape[0], n, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths,
        implementation=implementation,
    )[:, :n]


def by_views(x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"]) -> Any:
    """A depthwise convolution as one multiply-add per kernel position, in float32."""
    k, (h, w) = kernel.shape[0], x.shape[1:3]
    wide = convolutions.pad(x, k // 2, k // 2).astype(jnp.float32)
    kernel = kernel.astype(jnp.float32)
    return sum(
        wide[:, i : i + h, j : j + w] * kernel[i, j, 0] for i in range(k) for j in range(k)
    ).astype(x.dtype)


def reduce_window(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    """The 3x3 max-pool of stride 2 as XLA has it."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def convolution(x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c o"]) -> Any:
    """A 1x1 convolution by XLA's operator."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
