"""Two ResNets joined by cross-stitch units: one classifies the film, the other segments it.

Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016 (arXiv:1604.03539). After
the stem and after every stage each network goes on with a learned mix of both networks' maps. How
much the tasks share is so learned, level by level and channel by channel.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.models import layers, resnet
from cxrjax.models.layers import Classifier
from cxrjax.models.resunet import ResUNet, parts

NAMES = ("cross_stitch",)

ENCODERS = ("resnet18", "resnet50")
TASKS = ("class", "mask")
OWN, OTHER = 0.9, 0.1  # initial mix, as in the paper's experiments

Map = Float[Array, "b h w c"]


class Stitch(nn.Module):
    """A cross-stitch unit (the paper, eq. 1), its four weights learned for each channel.

    x_class' = a_cc x_class + a_cm x_mask,  x_mask' = a_mc x_class + a_mm x_mask. They are kept as
    vectors because weight decay passes those over: it would pull both networks' maps to zero.
    """

    @nn.compact
    def __call__(self, x: tuple[Map, Map]) -> tuple[Map, Map]:
        mixed = []
        for to, own in zip(TASKS, x):
            parts_of = []
            for source, part in zip(TASKS, x):
                start = nn.initializers.constant(OWN if to == source else OTHER)
                a = self.param(f"{to}_from_{source}", start, (own.shape[-1],))
                parts_of.append(a.astype(part.dtype) * part)
            mixed.append(sum(parts_of))
        return mixed[0], mixed[1]


class Pair(nn.Module):
    """Two encoders like `like`, one for each of `TASKS`, joined after the stem and each stage."""

    like: resnet.Encoder

    @property
    def channels(self) -> tuple[int, ...]:
        return self.like.channels

    @property
    def strides(self) -> tuple[int, ...]:
        return self.like.strides

    def __call__(self, image: Float[Array, "b h w c"], train: bool) -> list[Array]:
        """The classifying network's maps, finest to coarsest."""
        return self.both(image, train)[0]

    @nn.compact
    def both(
        self, image: Float[Array, "b h w c"], train: bool
    ) -> tuple[list[Array], list[Array]]:
        """The maps of the classifying and of the segmenting network, finest to coarsest."""
        e = self.like
        stems = [
            layers.Stem(e.width, e.small_stem, e.dtype, name=f"{task}_stem")(image, train)
            for task in TASKS
        ]
        x = Stitch(name="stitch_stem")((stems[0], stems[1]))
        maps = [[x[0]], [x[1]]]
        if not e.small_stem:
            x = (layers.max_pool(x[0]), layers.max_pool(x[1]))
        rates = layers.drop_path_rates(e.drop_path, sum(e.depths))
        for i, depth in enumerate(e.depths):
            begin = sum(e.depths[:i])
            options = dict(
                width=e.width * 2**i,
                stride=1 if i == 0 else 2,
                drop_path=tuple(rates[begin : begin + depth]),
                bottleneck=e.bottleneck,
                remat=e.remat,
                dtype=e.dtype,
            )
            stages = [
                resnet.Stage(**options, name=f"{task}_stage{i + 1}")(own, train)
                for task, own in zip(TASKS, x)
            ]
            x = Stitch(name=f"stitch{i + 1}")((stages[0], stages[1]))
            maps[0].append(x[0])
            maps[1].append(x[1])
        return maps[0], maps[1]


class CrossStitch(ResUNet):
    """A head over the classifying network's last map, a decoder over the segmenting one's maps."""

    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> dict[str, Array]:
        """See `ResUNet`."""
        for_class, for_mask = self.encoder.both(image, train)
        features = for_class[-1].astype(jnp.float32)
        return {
            "logits": self.classify(features, train),
            "features": features,
            "mask_logits": self.decoder(for_mask, image, train),
        }


def cross_stitch(
    num_classes: int,
    *,
    encoder: str = "resnet18",
    num_masks: int = 0,
    decoder_width: int = 256,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    **options: Any,
) -> Classifier:
    """Two networks with cross-stitch units; `encoder` is one of `ENCODERS`.

    The arguments are `resunet`'s. The class needs both encoders, so that prediction without the
    mask costs twice the plain classifier. (The paper raises the units' learning rate by orders of
    magnitude for SGD; under Adam, whose steps do not shrink with the gradient, they need not.)
    """
    options |= dict(dtype=dtype, small_stem=small_stem, dropout=dropout, remat=remat)
    options |= {"drop_path": drop_path} if drop_path else {}  # a DenseNet knows none
    network, decoder = parts(encoder, num_classes, num_masks, decoder_width, ENCODERS, options)
    return CrossStitch(encoder=Pair(network.encoder), head=network.head, decoder=decoder)
