"""ResNet-18, -34, -50, -101 (He et al. 2016, arXiv:1512.03385), as torchvision defines them.

The stride of a bottleneck sits in its 3x3 convolution (known as v1.5).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.models import layers
from cxrjax.models.layers import BatchNorm, Classifier, Conv, DropPath, PoolHead, Stem

NAMES = ("resnet18", "resnet34", "resnet50", "resnet101")


class Block(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1 that ends in 4 x `width` channels."""

    width: int
    stride: int = 1
    bottleneck: bool = False
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ _"]:
        out = 4 * self.width if self.bottleneck else self.width
        plan = (
            [(self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1)]
            if self.bottleneck
            else [(self.width, 3, self.stride), (out, 3, 1)]
        )
        y = x
        for i, (features, kernel, stride) in enumerate(plan, start=1):
            y = Conv(features, kernel, stride, dtype=self.dtype, name=f"conv{i}")(y)
            y = BatchNorm(dtype=self.dtype, name=f"norm{i}")(y, train)
            y = nn.relu(y) if i < len(plan) else y
        if x.shape[-1] != out or self.stride != 1:
            x = Conv(out, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = BatchNorm(dtype=self.dtype, name="shortcut_norm")(x, train)
        return nn.relu(x + DropPath(self.drop_path, name="drop_path")(y, train))


class Stage(nn.Module):
    """Blocks of one width; the first has the stride."""

    width: int
    stride: int
    drop_path: tuple[float, ...]
    bottleneck: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ _"]:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, rate in enumerate(self.drop_path):
            x = block(
                self.width,
                self.stride if i == 0 else 1,
                self.bottleneck,
                rate,
                self.dtype,
                name=f"block{i + 1}",
            )(x, train)
        return x


class Encoder(nn.Module):
    """Five maps: stem and stages 1 to 4, at strides 2, 4, 8, 16, 32 (1, 1, 2, 4, 8 if small_stem).

    `width` is the stem's channels; the stages have 1, 2, 4, 8 times as many, and a bottleneck's
    stages four times that again.
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    bottleneck: bool = False
    small_stem: bool = False
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        times = 4 if self.bottleneck else 1
        stages = (times * self.width * 2**i for i in range(len(self.depths)))
        return (self.width, *stages)

    @property
    def strides(self) -> tuple[int, ...]:
        first = (1, 1) if self.small_stem else (2, 4)
        return (first[0], *(first[1] * 2**i for i in range(len(self.depths))))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        x = Stem(self.width, self.small_stem, self.dtype, name="stem")(x, train)
        maps = [x]
        if not self.small_stem:
            x = layers.max_pool(x)
        rates = layers.drop_path_rates(self.drop_path, sum(self.depths))
        for i, depth in enumerate(self.depths):
            begin = sum(self.depths[:i])
            x = Stage(
                self.width * 2**i,
                1 if i == 0 else 2,
                tuple(rates[begin : begin + depth]),
                self.bottleneck,
                self.remat,
                self.dtype,
                name=f"stage{i + 1}",
            )(x, train)
            maps.append(x)
        return maps


def _resnet(
    num_classes: int,
    depths: tuple[int, ...],
    bottleneck: bool,
    width: int,
    small_stem: bool,
    drop_path: float,
    dropout: float,
    remat: bool,
    dtype: str,
) -> Classifier:
    layers.check_rates(drop_path=drop_path, dropout=dropout)
    encoder = Encoder(
        depths=tuple(depths),
        width=width,
        bottleneck=bottleneck,
        small_stem=small_stem,
        drop_path=drop_path,
        remat=remat,
        dtype=layers.compute_dtype(dtype),
    )
    return Classifier(encoder=encoder, head=PoolHead(num_classes, dropout))


def resnet18(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 64,
    depths: tuple[int, ...] = (2, 2, 2, 2),
) -> Classifier:
    """ResNet-18: 11,689,512 parameters for 1,000 classes and 3 channels."""
    return _resnet(num_classes, depths, False, width, small_stem, drop_path, dropout, remat, dtype)


def resnet34(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 64,
    depths: tuple[int, ...] = (3, 4, 6, 3),
) -> Classifier:
    """ResNet-34: 21,797,672 parameters for 1,000 classes and 3 channels."""
    return _resnet(num_classes, depths, False, width, small_stem, drop_path, dropout, remat, dtype)


def resnet50(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 64,
    depths: tuple[int, ...] = (3, 4, 6, 3),
) -> Classifier:
    """ResNet-50: 25,557,032 parameters for 1,000 classes and 3 channels."""
    return _resnet(num_classes, depths, True, width, small_stem, drop_path, dropout, remat, dtype)


def resnet101(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 64,
    depths: tuple[int, ...] = (3, 4, 23, 3),
) -> Classifier:
    """ResNet-101: 44,549,160 parameters for 1,000 classes and 3 channels."""
    return _resnet(num_classes, depths, True, width, small_stem, drop_path, dropout, remat, dtype)
