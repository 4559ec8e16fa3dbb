"""A bag of local features: every cell of the last map sees only a small patch of the film.

After BagNet (Brendel & Bethge, ICLR 2019, arXiv:1904.00760): few 3x3 convolutions, early, and 1x1
ones from there on. The logit is the mean of what the patches say, so a class activation map is not
a guess about a large receptive field but the evidence itself, as sharp as the patch. Plain blocks
of our own, not the published BagNet-33, and no published weights.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.errors import UserError
from cxrjax.models import layers
from cxrjax.models.layers import BatchNorm, Classifier, Conv, PoolHead

NAMES = ("bagnet",)


class Encoder(nn.Module):
    """One map per width: two convolutions of stride 2, `len(widths) - 3` 3x3 ones, one 1x1.

    `patch`, the side of what a cell of the last map sees, is 9 pixels after the first two and grows
    by 8 with each 3x3 convolution.
    """

    widths: tuple[int, ...] = (16, 32, 48, 64, 96, 128)
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        return self.widths

    @property
    def strides(self) -> tuple[int, ...]:
        return (2, *(4 for _ in self.widths[1:]))

    @property
    def patch(self) -> int:
        return 9 + 8 * (len(self.widths) - 3)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        maps = []
        last = len(self.widths) - 1
        for i, width in enumerate(self.widths):
            kernel, stride = (5, 2) if i == 0 else (3, 2) if i == 1 else (1 if i == last else 3, 1)
            x = Conv(width, kernel, stride, dtype=self.dtype, name=f"conv{i + 1}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i + 1}")(x, train))
            maps.append(x)
        return maps


def bagnet(
    num_classes: int,
    *,
    dtype: str = "float32",
    dropout: float = 0.0,
    widths: tuple[int, ...] = (16, 32, 48, 64, 96, 128),
) -> Classifier:
    """A quarter of the film's side in cells, each of which sees 33 x 33 pixels by default.

    Raises:
      UserError: fewer than three widths.
    """
    layers.check_rates(dropout=dropout)
    if len(widths) < 3:
        raise UserError(f"bagnet needs at least three widths, not {tuple(widths)}")
    encoder = Encoder(tuple(widths), layers.compute_dtype(dtype))
    return Classifier(encoder=encoder, head=PoolHead(num_classes, dropout))
