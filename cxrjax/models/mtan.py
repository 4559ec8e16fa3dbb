"""Task attention over a shared trunk: each task picks its own features out of the same maps.

Liu et al., "End-to-End Multi-Task Learning with Attention" (MTAN), CVPR 2019 (arXiv:1803.10704).
Two simplifications let any encoder be the trunk: the attention of a level reads and masks the same
map, the level's last (the paper reads the block's first layer and masks its last), and its inner
layers have a quarter of the map's channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.models.layers import BatchNorm, Classifier, Conv
from cxrjax.models.resunet import ENCODERS, LARGER, ResUNet, parts, shrink

NAMES = ("mtan",)


class TaskAttention(nn.Module):
    """One task's soft masks over the trunk's maps (the paper, eq. 1 and 2), finest to coarsest.

    a_j = h([p_j ; f(a_{j-1} * p_{j-1})]),  the task's map of level j is a_j * p_j. h is two 1x1
    convolutions with norms, the last one ending in a sigmoid; f a 3x3 convolution with norm and
    ReLU, then the mean over cells down to the next map's size.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> list[Float[Array, "b _ _ _"]]:
        attended: list[Array] = []
        for j, p in enumerate(maps, start=1):
            channels = p.shape[-1]
            inner = max(channels // 4, 1)
            x = p.astype(self.dtype)
            if attended:
                f = Conv(inner, 3, dtype=self.dtype, name=f"carry{j}_conv")(attended[-1])
                f = nn.relu(BatchNorm(dtype=self.dtype, name=f"carry{j}_norm")(f, train))
                x = jnp.concatenate([x, fit(f, p.shape[1], p.shape[2])], -1)
            x = Conv(inner, 1, dtype=self.dtype, name=f"read{j}_conv")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"read{j}_norm")(x, train))
            x = Conv(channels, 1, dtype=self.dtype, name=f"mask{j}_conv")(x)
            x = nn.sigmoid(BatchNorm(dtype=self.dtype, name=f"mask{j}_norm")(x, train))
            attended.append(x * p.astype(self.dtype))
        return attended


def fit(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b _ _ c"]:
    """A map brought down to a coarser one's size: the mean over cells, the overhang cut off."""
    factor = max(1, round(max(x.shape[1] / height, x.shape[2] / width)))
    return shrink(x, factor)[:, :height, :width]


class Mtan(ResUNet):
    """`ResUNet` whose head and decoder read the trunk through an attention of their own."""

    class_attention: nn.Module
    mask_attention: nn.Module

    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> dict[str, Array]:
        """See `ResUNet`; `features` are the last map as the classification attends to it."""
        maps = self.encode(image, train)
        features = self.class_attention(maps, train)[-1].astype(jnp.float32)
        return {
            "logits": self.classify(features, train),
            "features": features,
            "mask_logits": self.decoder(self.mask_attention(maps, train), image, train),
        }


def mtan(
    num_classes: int,
    *,
    encoder: str = "resnet50",
    num_masks: int = 0,
    decoder_width: int = 256,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    **options: Any,
) -> Classifier:
    """A shared trunk with task attention; the arguments are `resunet`'s."""
    options |= dict(dtype=dtype, small_stem=small_stem, dropout=dropout, remat=remat)
    options |= {"drop_path": drop_path} if drop_path else {}  # a DenseNet knows none
    known = (*ENCODERS, *LARGER)
    network, decoder = parts(encoder, num_classes, num_masks, decoder_width, known, options)
    return Mtan(
        encoder=network.encoder,
        head=network.head,
        decoder=decoder,
        class_attention=TaskAttention(decoder.dtype),
        mask_attention=TaskAttention(decoder.dtype),
    )
