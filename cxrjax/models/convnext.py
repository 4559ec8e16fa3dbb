"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545), as torchvision defines it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.models import layers
from cxrjax.models.layers import Classifier, Conv, Dense, DropPath, LayerNorm, PoolHead

NAMES = ("convnext_tiny", "convnext_small", "convnext_base")

LAYER_SCALE = 1e-6


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, x4 wide MLP with GELU, a learned scale per channel, residual."""

    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        y = Conv(
            c,
            7,
            bias=True,
            depthwise=True,
            dtype=self.dtype,
            kernel_init=layers.normal_002,
            name="depthwise",
        )(x)
        y = LayerNorm(dtype=self.dtype, name="norm")(y)
        y = layers.gelu(Dense(4 * c, dtype=self.dtype, name="expand")(y))
        y = Dense(c, dtype=self.dtype, name="project")(y)
        scale = self.param("layer_scale", nn.initializers.constant(LAYER_SCALE), (c,))
        y = y * scale.astype(self.dtype)
        return x + DropPath(self.drop_path, name="drop_path")(y, train)


class Stage(nn.Module):
    """Blocks of one width."""

    drop_path: tuple[float, ...]
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, rate in enumerate(self.drop_path, start=1):
            x = block(rate, self.dtype, name=f"block{i}")(x, train)
        return x


class Stem(nn.Module):
    """Patches of 4x4 (`small`: 3x3 at stride 1), LayerNorm."""

    features: int
    small: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ _"]:
        kernel, stride, padding = (3, 1, 1) if self.small else (4, 4, 0)
        x = Conv(
            self.features,
            kernel,
            stride,
            padding,
            bias=True,
            dtype=self.dtype,
            kernel_init=layers.normal_002,
            name="conv",
        )(x)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


class Downsample(nn.Module):
    """LayerNorm, 2x2 convolution of stride 2."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ _"]:
        x = LayerNorm(dtype=self.dtype, name="norm")(x)
        return Conv(
            self.features,
            2,
            2,
            0,
            bias=True,
            dtype=self.dtype,
            kernel_init=layers.normal_002,
            name="conv",
        )(x)


class Encoder(nn.Module):
    """Four maps, the stages', at strides 4, 8, 16, 32 (1, 2, 4, 8 if small_stem)."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    width: int = 96
    small_stem: bool = False
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(self.width * 2**i for i in range(len(self.depths)))

    @property
    def strides(self) -> tuple[int, ...]:
        first = 1 if self.small_stem else 4
        return tuple(first * 2**i for i in range(len(self.depths)))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        rates = layers.drop_path_rates(self.drop_path, sum(self.depths))
        maps = []
        for i, depth in enumerate(self.depths):
            if i == 0:
                x = Stem(self.width, self.small_stem, self.dtype, name="stem")(x)
            else:
                x = Downsample(self.width * 2**i, self.dtype, name=f"downsample{i + 1}")(x)
            begin = sum(self.depths[:i])
            x = Stage(
                tuple(rates[begin : begin + depth]), self.remat, self.dtype, name=f"stage{i + 1}"
            )(x, train)
            maps.append(x)
        return maps


def _convnext(
    num_classes: int,
    depths: tuple[int, ...],
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
        small_stem=small_stem,
        drop_path=drop_path,
        remat=remat,
        dtype=layers.compute_dtype(dtype),
    )
    head = PoolHead(num_classes, dropout, norm=True, kernel_init=layers.normal_002)
    return Classifier(encoder=encoder, head=head)


def convnext_tiny(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 96,
    depths: tuple[int, ...] = (3, 3, 9, 3),
) -> Classifier:
    """ConvNeXt-T: 28,589,128 parameters for 1,000 classes and 3 channels.

    The paper trains it with `drop_path=0.1`.
    """
    return _convnext(
        num_classes, depths, width, small_stem, drop_path, dropout, remat, dtype
    )


def convnext_small(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 96,
    depths: tuple[int, ...] = (3, 3, 27, 3),
) -> Classifier:
    """ConvNeXt-S: 50,223,688 parameters for 1,000 classes and 3 channels.

    The paper trains it with `drop_path=0.4`.
    """
    return _convnext(
        num_classes, depths, width, small_stem, drop_path, dropout, remat, dtype
    )


def convnext_base(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 128,
    depths: tuple[int, ...] = (3, 3, 27, 3),
) -> Classifier:
    """ConvNeXt-B: 88,591,464 parameters for 1,000 classes and 3 channels.

    The paper trains it with `drop_path=0.5`.
    """
    return _convnext(
        num_classes, depths, width, small_stem, drop_path, dropout, remat, dtype
    )
