"""A U-Net over any encoder of ours: one trunk that classifies a film and segments it.

The head reads the encoder's last map. The decoder (Ronneberger et al., MICCAI 2015) climbs from
that map through the finer ones up to the film's own size. Nothing of the head depends on the
decoder, so that a compiled prediction of the logits alone does not contain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models.layers import BatchNorm, Classifier, Conv, compute_dtype, uniform_fan_in
from cxrjax.models.tokens import Transformer

NAMES = ("resunet",)

ENCODERS = ("resnet18", "resnet50", "densenet121", "densenet169", "convnext_tiny")
# Of the same families, larger.
LARGER = ("resnet34", "resnet101", "convnext_small", "convnext_base")
# Transformers, whose maps are all on the patches' grid.
TOKEN_ENCODERS = (
    "vit_small", "vit_base", "dinov2_small", "dinov2_base", "eva_x_tiny", "eva_x_small",
    "eva_x_base",
)
NARROWEST = 16  # channels of the decoder's finest level, unless it starts below


class Step(nn.Module):
    """One level up: enlarge, join the skip, two 3x3 convolutions with norm and ReLU."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b _ _ _"], train: bool
    ) -> Float[Array, "b _ _ {self.features}"]:
        x = enlarge(x, skip.shape[1], skip.shape[2])
        x = jnp.concatenate([x, skip.astype(x.dtype)], -1)
        for i in (1, 2):
            x = Conv(self.features, 3, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train))
        return x


class Decoder(nn.Module):
    """Masks from an encoder's maps, finest to coarsest, and the film itself.

    `width` is the number of channels of the first level up; every further level has half as many.
    The film is the skip of the last level. Where an encoder has no maps between its finest one, of
    stride `finest`, and the film (ConvNeXt starts at a quarter of the side), the film shrunk to
    half, a quarter, ... of its side stands in.
    """

    num_masks: int
    width: int = 256
    finest: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Float[Array, "b _ _ _"]],
        image: Float[Array, "b h w c"],
        train: bool,
    ) -> Float[Array, "b h w {self.num_masks}"]:
        x, *skips = reversed([m.astype(self.dtype) for m in maps])
        factor = self.finest // 2
        while factor > 1:
            skips.append(shrink(image, factor))
            factor //= 2
        for i, skip in enumerate([*skips, image]):
            features = max(self.width // 2**i, min(NARROWEST, self.width))
            x = Step(features, self.dtype, name=f"up{i + 1}")(x, skip, train)
        masks = Conv(self.num_masks, 1, bias=True, kernel_init=uniform_fan_in, name="masks")
        return masks(x.astype(jnp.float32))


def enlarge(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b _ _ c"]:
    """Repeat pixels by the smallest whole factor that covers the size, then crop the rest.

    Encoders halve an odd side upwards or downwards; where the doubled map is one pixel short its
    last row is repeated once more.
    """
    b, h, w, c = x.shape
    up, across = max(1, round(height / h)), max(1, round(width / w))
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, up, w, across, c))
    x = x.reshape(b, h * up, w * across, c)[:, :height, :width]
    missing = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]), (0, 0))
    return jnp.pad(x, missing, mode="edge") if any(m for _, m in missing) else x


def shrink(image: Float[Array, "b h w c"], factor: int) -> Float[Array, "b _ _ c"]:
    """The mean of each cell of `factor` x `factor` pixels; past the edge its pixels repeat."""
    b, h, w, c = image.shape
    rest = ((0, 0), (0, -h % factor), (0, -w % factor), (0, 0))
    image = jnp.pad(image, rest, mode="edge")
    cells = image.reshape(b, image.shape[1] // factor, factor, image.shape[2] // factor, factor, c)
    return cells.mean((2, 4))


class ResUNet(Classifier):
    """`Classifier` with a decoder; `mask_logits` are added to its outputs."""

    decoder: nn.Module

    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> dict[str, Array]:
        """{logits f32[b, k], features f32[b, h', w', d], mask_logits f32[b, h, w, m]}."""
        maps = self.encode(image, train)
        features = maps[-1].astype(jnp.float32)
        return {
            "logits": self.classify(features, train),
            "features": features,
            "mask_logits": self.decoder(maps, image, train),
        }


class TokenDecoder(nn.Module):
    """A decoder for a transformer: its tokens after each quarter of the blocks, as a pyramid.

    As in UNETR (Hatamizadeh et al., WACV 2022, section 3.1) the shallower the blocks, the finer the
    skip. Each map is brought to a half, a quarter, ... of the film's side by bilinear resizing
    (which fits patches of any size) and, by a 1x1 convolution, to the decoder's channels there.
    """

    decoder: Decoder
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Float[Array, "b _ _ _"]],
        image: Float[Array, "b h w c"],
        train: bool,
    ) -> Float[Array, "b h w m"]:
        height, width = image.shape[1:3]
        pyramid = []
        for level, tokens in enumerate(maps, start=1):
            size = (-(-height // 2**level), -(-width // 2**level))
            features = max(self.decoder.width // 2 ** (len(maps) - level), NARROWEST)
            x = Conv(features, 1, dtype=self.dtype, name=f"skip{level}_conv")(tokens)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"skip{level}_norm")(x, train))
            shape = (x.shape[0], *size, features)
            pyramid.append(jax.image.resize(x, shape, "linear", antialias=False))
        return self.decoder(pyramid, image, train)


class TokenUNet(Transformer):
    """`Transformer` with a decoder; `mask_logits` are added to its outputs."""

    decoder: nn.Module

    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> dict[str, Array]:
        """See `Transformer`; {..., mask_logits f32[b, h, w, m]}."""
        seen = self.encoder.look(image, train)
        masks = self.decoder(seen.maps, image, train)
        return {**self.answer(seen, train), "mask_logits": masks}


def parts(
    encoder: str, num_classes: int, num_masks: int, decoder_width: int, known: Sequence[str],
    options: dict[str, Any],
) -> tuple[Classifier | Transformer, Decoder]:
    """The classifier called `encoder`, for its encoder and head, and a decoder for it.

    Raises:
      UserError: no masks to learn, an encoder that cannot take a decoder, or a wrong option of it.
    """
    if encoder not in known:
        raise UserError(f"no decoder fits encoder {encoder!r}: choose one of {', '.join(known)}")
    if num_masks < 1:
        raise UserError(
            "a network with a decoder needs masks, and the data set has none: "
            f"choose the classifier, model.name={encoder!r}"
        )
    if decoder_width < 1:
        raise UserError(f"decoder_width must be at least 1, not {decoder_width}")
    network = models.create(encoder, num_classes, **options)
    dtype = compute_dtype(options.get("dtype", "float32"))
    return network, Decoder(num_masks, decoder_width, network.encoder.strides[0], dtype)


def resunet(
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
) -> ResUNet | TokenUNet:
    """Report A's ResNet-UNet, with any of `ENCODERS`, `LARGER` or `TOKEN_ENCODERS`.

    Args:
      encoder: name of the network whose encoder and head are taken.
      num_masks: structures to segment. 0 stands for those of the data set, which `steps.make_model`
        fills in.
      decoder_width: see `Decoder`.
      dtype: as for every network of ours; so are small_stem, drop_path, dropout and remat.
      **options: further options of the encoder's network (width, depths, ...).

    Raises:
      UserError: see `parts`.
    """
    options |= dict(dtype=dtype, small_stem=small_stem, dropout=dropout, remat=remat)
    options |= {"drop_path": drop_path} if drop_path else {}  # a DenseNet knows none
    known = (*ENCODERS, *LARGER, *TOKEN_ENCODERS)
    if encoder in TOKEN_ENCODERS:
        if options.pop("small_stem"):
            raise UserError(f"{encoder} has no stem to be small: set small_stem=False and a patch")
        network, decoder = parts(encoder, num_classes, num_masks, decoder_width, known, options)
        decoder = decoder.clone(finest=2)
        return TokenUNet(network.encoder, network.head, TokenDecoder(decoder, decoder.dtype))
    network, decoder = parts(encoder, num_classes, num_masks, decoder_width, known, options)
    return ResUNet(encoder=network.encoder, head=network.head, decoder=decoder)
