"""Conformer (Peng et al. 2021, arXiv:2105.03889): a convolutional and a transformer branch.

After every block the two exchange features through feature-coupling units (FCU): pooled maps are
added to the tokens, upsampled tokens to the maps. Each branch has its own head. Names and numbers
are those of the authors' reference implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.errors import UserError
from cxrjax.models import layers
from cxrjax.models.layers import BatchNorm, Conv, Dense, DropPath, LayerNorm, Stem

NAMES = ("conformer_tiny", "conformer_small")

# The reference gives this to every norm but the stem's and the last LayerNorm.
EPS = 1e-6
HEAD_EPS = 1e-5

Map = Float[Array, "b h w c"]
Tokens = Float[Array, "b n d"]


class ConvBlock(nn.Module):
    """A bottleneck of 1x1, 3x3, 1x1 convolutions with a residual; also gives the 3x3's activation.

    `tokens`, if given, is the transformer's share as a map; it is added before the 3x3 convolution.
    """

    features: int
    stride: int = 1
    project: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Map, train: bool, tokens: Float[Array, "b h w _"] | None = None
    ) -> tuple[Float[Array, "b h2 w2 {self.features}"], Float[Array, "b h2 w2 _"]]:
        def norm(name: str, y: Array) -> Array:
            return BatchNorm(EPS, dtype=self.dtype, name=name)(y, train)

        width = self.features // 4
        y = nn.relu(norm("norm1", Conv(width, 1, dtype=self.dtype, name="conv1")(x)))
        if tokens is not None:
            y = y + tokens
        y = Conv(width, 3, self.stride, dtype=self.dtype, name="conv2")(y)
        middle = nn.relu(norm("norm2", y))
        y = norm("norm3", Conv(self.features, 1, dtype=self.dtype, name="conv3")(middle))
        if self.project:
            x = Conv(self.features, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = norm("shortcut_norm", x)
        return nn.relu(x + y), middle


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1)."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        b, n, d = x.shape
        qkv = Dense(3 * d, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, d // self.heads), 2, 0)
        y = jax.nn.dot_product_attention(q, k, v)
        return Dense(d, dtype=self.dtype, name="project")(y.reshape(b, n, d))


class Mlp(nn.Module):
    """Four times as wide, GELU, back."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        y = layers.gelu(Dense(4 * x.shape[-1], dtype=self.dtype, name="expand")(x))
        return Dense(x.shape[-1], dtype=self.dtype, name="project")(y)


class TransBlock(nn.Module):
    """A transformer block that normalises before attention and MLP."""

    heads: int
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, train: bool) -> Tokens:
        y = LayerNorm(EPS, self.dtype, name="norm1")(x)
        y = Attention(self.heads, self.dtype, name="attention")(y)
        x = x + DropPath(self.drop_path, name="drop_path1")(y, train)
        y = LayerNorm(EPS, self.dtype, name="norm2")(x)
        y = Mlp(self.dtype, name="mlp")(y)
        return x + DropPath(self.drop_path, name="drop_path2")(y, train)


class Down(nn.Module):
    """FCU from map to tokens: 1x1 convolution, mean over each token's cell, LayerNorm, GELU."""

    embed_dim: int
    cell: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Map) -> Float[Array, "b n {self.embed_dim}"]:
        # The mean before the 1x1 convolution gives the same as after it, at a fraction of the work.
        x = layers.average_pool(x, self.cell)
        x = Conv(self.embed_dim, 1, bias=True, dtype=self.dtype, name="conv")(x).reshape(
            x.shape[0], -1, self.embed_dim
        )
        return layers.gelu(LayerNorm(EPS, self.dtype, name="norm")(x))


class Up(nn.Module):
    """FCU from tokens (without the class token) to a map: 1x1 convolution, norm, ReLU, nearest."""

    features: int
    cell: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b h w d"], train: bool
    ) -> Float[Array, "b _ _ {self.features}"]:
        x = Conv(self.features, 1, bias=True, dtype=self.dtype, name="conv")(tokens)
        x = nn.relu(BatchNorm(EPS, dtype=self.dtype, name="norm")(x, train))
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, self.cell, w, self.cell, c))
        return x.reshape(b, h * self.cell, w * self.cell, c)


class Block(nn.Module):
    """One block of both branches: convolutions, down, transformer, up, convolutions."""

    features: int
    cell: int
    heads: int
    stride: int = 1
    project: bool = False
    last: bool = False
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Map, tokens: Tokens, train: bool
    ) -> tuple[Float[Array, "b _ _ {self.features}"], Tokens]:
        x, middle = ConvBlock(
            self.features, self.stride, self.project, self.dtype, name="conv_block"
        )(x, train)
        h, w = middle.shape[1] // self.cell, middle.shape[2] // self.cell
        down = Down(tokens.shape[-1], self.cell, self.dtype, name="down")(middle)
        # The reference puts the class token in front of the pooled maps: it is added to itself.
        down = jnp.concatenate([tokens[:, :1], down], 1)
        tokens = TransBlock(self.heads, self.drop_path, self.dtype, name="trans_block")(
            tokens + down, train
        )
        grid = tokens[:, 1:].reshape(tokens.shape[0], h, w, tokens.shape[-1])
        up = Up(self.features // 4, self.cell, self.dtype, name="up")(grid, train)
        x, _ = ConvBlock(
            self.features, 2 if self.last else 1, self.last, self.dtype, name="fusion_block"
        )(x, train, up)
        return x, tokens


class Encoder(nn.Module):
    """Five maps of the convolutional branch, at strides 2, 4, 8, 16, 32 (1, 1, 2, 4, 8 small_stem).

    The stem, the ends of the three stages of equal width, and the last block, which halves the map
    once more. `branches` gives the transformer's tokens as well.
    """

    ratio: int = 1
    depth: int = 12
    embed_dim: int = 384
    heads: int = 6
    width: int = 64
    small_stem: bool = False
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        first = self.width * self.ratio
        return (self.width, first, 2 * first, 4 * first, 4 * first)

    @property
    def strides(self) -> tuple[int, ...]:
        return (1, 1, 2, 4, 8) if self.small_stem else (2, 4, 8, 16, 32)

    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        return self.branches(x, train)[0]

    @nn.compact
    def branches(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[list[Float[Array, "b _ _ _"]], Float[Array, "b n d"]]:
        """The maps, finest to coarsest, and the last tokens, the class token first."""
        patch = 4 if self.small_stem else 16
        if x.shape[1] % patch or x.shape[2] % patch:
            raise UserError(
                f"a Conformer{' with small_stem' if self.small_stem else ''} takes films whose "
                f"sides are multiples of {patch}, not {x.shape[1]}x{x.shape[2]}: "
                "give a size that is one, as :size=PIXELS of --config"
            )
        x = Stem(self.width, self.small_stem, self.dtype, name="stem")(x, train)
        maps = [x]
        if not self.small_stem:
            x = layers.max_pool(x)
        tokens = Conv(self.embed_dim, 4, 4, 0, bias=True, dtype=self.dtype, name="patch_embed")(x)
        tokens = tokens.reshape(x.shape[0], -1, self.embed_dim)
        cls = self.param("cls_token", layers.normal_002, (1, 1, self.embed_dim))
        cls = jnp.broadcast_to(cls.astype(self.dtype), (x.shape[0], 1, self.embed_dim))
        rates = layers.drop_path_rates(self.drop_path, self.depth)
        features = self.width * self.ratio
        x, _ = ConvBlock(features, 1, True, self.dtype, name="conv_block1")(x, train)
        tokens = TransBlock(self.heads, rates[0], self.dtype, name="trans_block1")(
            jnp.concatenate([cls, tokens], 1), train
        )
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        third = self.depth // 3
        for i in range(2, self.depth + 1):
            # Three stages of a third of the blocks each, twice as wide as the one before.
            stage = (i - 1) // third
            starts = stage > 0 and (i - 1) % third == 0
            x, tokens = block(
                features * 2**stage,
                4 // 2**stage,
                self.heads,
                2 if starts else 1,
                starts,
                i == self.depth,
                rates[i - 1],
                self.dtype,
                name=f"block{i}",
            )(x, tokens, train)
            if i % third == 0 or i == self.depth - 1:
                maps.append(x)
        return maps, tokens


class Heads(nn.Module):
    """A linear layer on the mean map, another on the normed class token: logits [2, b, k]."""

    num_classes: int
    dropout: float = 0.0

    def setup(self) -> None:
        self.conv_logits = Dense(self.num_classes)
        self.trans_logits = Dense(self.num_classes)
        self.norm = LayerNorm(HEAD_EPS)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, features: Map, tokens: Tokens, train: bool) -> Float[Array, "2 b k"]:
        cls = self.norm(tokens[:, 0])
        trans = self.trans_logits(self.drop(cls, deterministic=not train))
        return jnp.stack([self.conv(features, train), trans])

    def conv(self, features: Map, train: bool) -> Float[Array, "b k"]:
        """The convolutional branch's logits."""
        pooled = jnp.mean(features, (1, 2), dtype=jnp.float32)
        return self.conv_logits(self.drop(pooled, deterministic=not train))


class Conformer(nn.Module):
    """An encoder of two branches and a head on each; the methods are `layers.Classifier`'s."""

    encoder: Encoder
    head: Heads

    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> dict[str, Array]:
        """{logits f32[b, k], head_logits f32[2, b, k], features f32[b, h', w', d]}.

        `head_logits` are the convolutional and the transformer branch's, in this order. Each is
        trained by itself (the paper, section 3.3), so each is an answer on the scale of log-odds,
        and the prediction is their mean. The paper's is their sum: the same order of films, and
        log-odds twice as large as they should be.
        """
        maps, tokens = self.encoder.branches(image, train)
        features = maps[-1].astype(jnp.float32)
        both = self.head(features, tokens, train)
        return {"logits": both.mean(0), "head_logits": both, "features": features}

    def encode(
        self, image: Float[Array, "b h w c"], train: bool = False
    ) -> Sequence[Float[Array, "b _ _ _"]]:
        """The convolutional branch's maps, finest to coarsest."""
        return self.encoder(image, train)

    def classify(
        self, features: Float[Array, "b h w d"], train: bool = False
    ) -> Float[Array, "b k"]:
        """Half of the convolutional head's logits: what the last map gives to the prediction."""
        return self.head.conv(features, train) / 2


def _conformer(
    num_classes: int,
    ratio: int,
    dtype: str,
    small_stem: bool,
    drop_path: float,
    dropout: float,
    remat: bool,
    width: int,
    depth: int,
    embed_dim: int,
    heads: int,
) -> Conformer:
    layers.check_rates(drop_path=drop_path, dropout=dropout)
    if depth % 3 or depth < 6:
        raise UserError(f"a Conformer's depth must be a multiple of 3, 6 or more, not {depth}")
    if embed_dim % heads:
        raise UserError(f"embed_dim {embed_dim} does not divide into {heads} heads")
    encoder = Encoder(
        ratio=ratio,
        depth=depth,
        embed_dim=embed_dim,
        heads=heads,
        width=width,
        small_stem=small_stem,
        drop_path=drop_path,
        remat=remat,
        dtype=layers.compute_dtype(dtype),
    )
    return Conformer(encoder=encoder, head=Heads(num_classes, dropout))


def conformer_tiny(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 64,
    depth: int = 12,
    embed_dim: int = 384,
    heads: int = 6,
) -> Conformer:
    """Conformer-Ti: 23,524,704 parameters for 1,000 classes and 3 channels.

    The paper trains it with `drop_path=0.1`.
    """
    return _conformer(
        num_classes,
        1,
        dtype,
        small_stem,
        drop_path,
        dropout,
        remat,
        width,
        depth,
        embed_dim,
        heads,
    )


def conformer_small(
    num_classes: int,
    *,
    dtype: str = "float32",
    small_stem: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 64,
    depth: int = 12,
    embed_dim: int = 384,
    heads: int = 6,
) -> Conformer:
    """Conformer-S: 37,673,424 parameters for 1,000 classes and 3 channels.

    The paper trains it with `drop_path=0.1`.
    """
    return _conformer(
        num_classes,
        4,
        dtype,
        small_stem,
        drop_path,
        dropout,
        remat,
        width,
        depth,
        embed_dim,
        heads,
    )
