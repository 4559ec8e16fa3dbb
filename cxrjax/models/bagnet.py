"""A bag of local features: every cell of the last map sees only a small patch of the film.

After BagNet (Brendel & Bethge, ICLR 2019, arXiv:1904.00760): few convolutions with a kernel, so
that the receptive field stays small. The logit is the mean of what the patches say, and a heat map
is then not a guess about a receptive field as large as the film but the evidence itself. Plain
blocks of our own, not the published BagNet-33, and no published weights.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.errors import UserError
from cxrjax.models import layers
from cxrjax.models.layers import BatchNorm, Classifier, Conv, PoolHead

NAMES = ("bagnet",)


class Encoder(nn.Module):
    """One map per convolution, norm and ReLU: the first 5x5, the others 3x3."""

    widths: tuple[int, ...] = (16, 32, 48, 64, 96, 96)
    steps: tuple[int, ...] = (2, 2, 1, 2, 1, 1)
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        return self.widths

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(math.prod(self.steps[: i + 1]) for i in range(len(self.steps)))

    @property
    def patch(self) -> int:
        """Pixels along a side of what a cell of the last map sees."""
        return 5 + sum(2 * stride for stride in self.strides[:-1])

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        maps = []
        for i, (width, step) in enumerate(zip(self.widths, self.steps), start=1):
            x = Conv(width, 5 if i == 1 else 3, step, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train))
            maps.append(x)
        return maps


def bagnet(
    num_classes: int,
    *,
    dtype: str = "float32",
    dropout: float = 0.0,
    widths: tuple[int, ...] = (16, 32, 48, 64, 96, 96),
    strides: tuple[int, ...] = (2, 2, 1, 2, 1, 1),
) -> Classifier:
    """An eighth of the film's side in cells, each of which sees 57 x 57 pixels by default.

    Args:
      widths, strides: channels and stride of each convolution.

    Raises:
      UserError: not one stride for each width.
    """
    layers.check_rates(dropout=dropout)
    if len(widths) != len(strides):
        raise UserError(f"bagnet: {len(widths)} widths and {len(strides)} strides; give as many")
    encoder = Encoder(tuple(widths), tuple(strides), layers.compute_dtype(dtype))
    return Classifier(encoder=encoder, head=PoolHead(num_classes, dropout))
