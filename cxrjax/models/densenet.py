"""DenseNet-121 and -169 (Huang et al. 2017, arXiv:1608.06993), as torchvision defines them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.models import convolutions, layers
from cxrjax.models.layers import BatchNorm, Classifier, Moments, PoolHead, Stem

NAMES = ("densenet121", "densenet169")

# A layer's bottleneck has four times as many channels as the layer adds.
BOTTLENECK = 4


class Conv(layers.Conv):
    """The family's convolution: He's initialisation by the inputs."""

    kernel_init: Any = layers.he_fan_in


class Layer(nn.Module):
    """Norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution: `growth` new channels.

    `maps` are all that came before in the stage; `moments` (training only) are theirs.
    """

    growth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        maps: list[Float[Array, "b h w _"]],
        moments: list[Moments],
        train: bool,
    ) -> Float[Array, "b h w {self.growth}"]:
        joint = tuple(jnp.concatenate(m) for m in zip(*moments)) if train else None
        x = jnp.concatenate(maps, -1)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(x, train, joint))
        x = Conv(BOTTLENECK * self.growth, 1, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm2")(x, train))
        return Conv(self.growth, 3, dtype=self.dtype, name="conv2")(x)


class Stage(nn.Module):
    """A dense block: each layer reads all maps before it; the result is all of them.

    A channel's batch statistics are the same for every layer that reads it, so they are reduced
    once per map and not once per map and layer. With `remat` only each layer's own map is kept for
    the backward pass (Pleiss et al. 2017, arXiv:1707.06990: memory linear in depth, not quadratic).

    On the CPU the maps so far are joined with each new one, not all of them in every layer: a copy
    of two parts, and half as many operations to compile (DenseNet-121 at 64 pixels, batch 32: a
    training step 1.06 times as fast). Elsewhere XLA joins them as it normalises.
    """

    depth: int
    growth: int
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w _"]:
        layer = nn.remat(Layer, static_argnums=(3,)) if self.remat else Layer
        join = convolutions.on_cpu() and not self.remat
        maps, moments, new = [x], [], x
        for i in range(self.depth):
            if train:
                moments.append(layers.batch_moments(new))
            new = layer(self.growth, self.dtype, name=f"layer{i + 1}")(maps, moments, train)
            maps = [jnp.concatenate([*maps, new], -1)] if join else [*maps, new]
        return jnp.concatenate(maps, -1)


class Transition(nn.Module):
    """Norm, ReLU, 2x2 mean, 1x1 convolution to half the channels.

    The paper's order is convolution, then mean; the two commute (one mixes channels alike at every
    position, the other positions alike in every channel), and this way around the product and its
    two derivatives have a quarter of the rows: 3.7 of 45.7 GFLOP of a training step of DenseNet-121
    (batch 32, 64 pixels).
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ _"]:
        half = x.shape[-1] // 2
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train))
        return Conv(half, 1, dtype=self.dtype, name="conv")(layers.average_pool(x, 2))


class Encoder(nn.Module):
    """Five maps: stem and stages 1 to 4, at strides 2, 4, 8, 16, 32 (1, 1, 2, 4, 8 if small_stem).

    Stages 1 to 3 give their concatenated maps as they are, the last one behind its norm and ReLU.
    """

    depths: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    width: int = 64
    small_stem: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        out = [self.width]
        before = self.width
        for depth in self.depths:
            out.append(before + depth * self.growth)
            before = out[-1] // 2
        return tuple(out)

    @property
    def strides(self) -> tuple[int, ...]:
        first = (1, 1) if self.small_stem else (2, 4)
        return (first[0], *(first[1] * 2**i for i in range(len(self.depths))))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        x = Stem(self.width, self.small_stem, self.dtype, layers.he_fan_in, name="stem")(x, train)
        maps = [x]
        if not self.small_stem:
            x = layers.max_pool(x)
        for i, depth in enumerate(self.depths, start=1):
            x = Stage(depth, self.growth, self.remat, self.dtype, name=f"stage{i}")(x, train)
            if i < len(self.depths):
                maps.append(x)
                x = Transition(self.dtype, name=f"transition{i}")(x, train)
        maps.append(nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train)))
        return maps


def _densenet(
    num_classes: int,
    depths: tuple[int, ...],
    growth: int,
    width: int,
    small_stem: bool,
    dropout: float,
    remat: bool,
    dtype: str,
) -> Classifier:
    layers.check_rates(dropout=dropout)
    encoder = Encoder(
        depths=tuple(depths),
        growth=growth,
        width=width,
        small_stem=small_stem,
        remat=remat,
        dtype=layers.compute_dtype(dtype),
    )
    return Classifier(encoder=encoder, head=PoolHead(num_classes, dropout))


def densenet121(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    dropout: float = 0.0,
    remat: bool = False,
    growth: int = 32,
    width: int = 64,
    depths: tuple[int, ...] = (6, 12, 24, 16),
) -> Classifier:
    """DenseNet-121: 7,978,856 parameters for 1,000 classes and 3 channels."""
    return _densenet(num_classes, depths, growth, width, small_stem, dropout, remat, dtype)


def densenet169(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    dropout: float = 0.0,
    remat: bool = False,
    growth: int = 32,
    width: int = 64,
    depths: tuple[int, ...] = (6, 12, 32, 32),
) -> Classifier:
    """DenseNet-169: 14,149,480 parameters for 1,000 classes and 3 channels."""
    return _densenet(num_classes, depths, growth, width, small_stem, dropout, remat, dtype)
