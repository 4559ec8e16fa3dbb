"""What the vision transformers are built of: patches to tokens, blocks, the encoder, the head.

Dosovitskiy et al. 2021 (arXiv:2010.11929): tokens of square patches, a class token in front, blocks
that normalise before attention and before the MLP. The families differ in a few switches
(`Encoder`): layer scale and registers (DINOv2), rotary positions and SwiGLU (EVA-02).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cxrjax.errors import UserError
from cxrjax.models import layers
from cxrjax.models.layers import Conv, Dense, DropPath, LayerNorm

POOLS = ("cls", "mean")
QUARTERS = 4  # maps that a decoder climbs through: the tokens after each quarter of the blocks

Tokens = Float[Array, "b n d"]


def rotary(grid: tuple[int, int], reference: int, size: int) -> Float[np.ndarray, "2 n s"]:
    """Sines and cosines of axial rotary positions (Su et al. 2021, arXiv:2104.09864, eq. 34).

    The first half of a head's channels turns with the row, the second with the column; of each
    half, channels 2i and 2i + 1 turn together at the rate 10000^(-i / (size / 4)). A grid of
    another size is stretched over the `reference` x `reference` positions trained with (EVA-02).

    Args:
      grid: rows and columns of tokens.
      reference: of a side, 0 for no stretching.
      size: channels of a head, a multiple of 4.
    """
    rates = 10000.0 ** -(np.arange(size // 4) / (size // 4))
    sides = [np.arange(n) * (reference / n if reference else 1.0) for n in grid]
    at = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2, 1)
    angles = np.repeat((at * rates).reshape(len(at), -1), 2, -1)
    return np.float32([np.sin(angles), np.cos(angles)])


def turn(
    x: Float[Array, "b n g s"], table: Float[Array | np.ndarray, "2 m s"]
) -> Float[Array, "b n g s"]:
    """Turns the last m of n tokens by `rotary`'s angles; those in front of them stay."""
    front = x.shape[1] - table.shape[1]
    kept, x = x[:, :front], x[:, front:]
    sin, cos = (jnp.asarray(t, jnp.float32)[:, None] for t in table)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    crossed = jnp.stack([-pairs[..., 1], pairs[..., 0]], -1).reshape(x.shape)
    return jnp.concatenate([kept, (x * cos + crossed * sin).astype(x.dtype)], 1)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

    `key_bias`: whether the keys have a bias (it shifts all scores of a query alike, EVA leaves it
    out). `norm`: a LayerNorm before the projection.
    """

    heads: int
    key_bias: bool = True
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Tokens, positions: Float[Array | np.ndarray, "2 m s"] | None, watch: bool
    ) -> tuple[Tokens, Float[Array, "b n n"] | None]:
        """Also gives the weights, averaged over the heads, where `watch`."""
        b, n, d = x.shape
        if self.key_bias:
            qkv = Dense(3 * d, dtype=self.dtype, name="qkv")(x)
        else:
            kernel = self.param("qkv", layers.normal_002, (d, 3 * d))
            q_bias, v_bias = (self.param(f"{c}_bias", nn.initializers.zeros, (d,)) for c in "qv")
            bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
            qkv = jnp.asarray(x, self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, d // self.heads), 2, 0)
        if positions is not None:
            q, k = turn(q, positions), turn(k, positions)
        y = jax.nn.dot_product_attention(q, k, v).reshape(b, n, d)
        if self.norm:
            y = LayerNorm(dtype=self.dtype, name="norm")(y)
        weights = None
        if watch:
            scores = jnp.einsum("bngs,bmgs->bgnm", q, k) / (d // self.heads) ** 0.5
            weights = jax.nn.softmax(scores.astype(jnp.float32), -1).mean(1)
        return Dense(d, dtype=self.dtype, name="project")(y), weights


class Mlp(nn.Module):
    """Wider by `ratio`, GELU, back."""

    ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        inner = int(x.shape[-1] * self.ratio)
        y = layers.gelu(Dense(inner, dtype=self.dtype, name="expand")(x))
        return Dense(x.shape[-1], dtype=self.dtype, name="project")(y)


class SwiGlu(nn.Module):
    """silu(gate) * value (Shazeer 2020, arXiv:2002.05202, eq. 6), an optional norm, back.

    Gate and value lie side by side in `expand`, `ratio` times the tokens' width each.
    """

    ratio: float = 8 / 3
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        inner = int(x.shape[-1] * self.ratio)
        gate, value = jnp.split(Dense(2 * inner, dtype=self.dtype, name="expand")(x), 2, -1)
        y = jax.nn.silu(gate) * value
        if self.norm:
            y = LayerNorm(dtype=self.dtype, name="norm")(y)
        return Dense(x.shape[-1], dtype=self.dtype, name="project")(y)


class Block(nn.Module):
    """x + attention(norm(x)), then + mlp(norm(x)), each times a layer scale where there is one."""

    heads: int
    ratio: float = 4.0
    layer_scale: float = 0.0
    swiglu: bool = False
    key_bias: bool = True
    mlp_norm: bool = False
    attention_norm: bool = False
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    def _scaled(self, y: Tokens, number: int) -> Tokens:
        if not self.layer_scale:
            return y
        start = nn.initializers.constant(self.layer_scale)
        scale = self.param(f"layer_scale{number}", start, (y.shape[-1],))
        return y * scale.astype(self.dtype)

    @nn.compact
    def __call__(
        self, x: Tokens, train: bool, positions: Float[Array | np.ndarray, "2 m s"] | None = None,
        watch: bool = False,
    ) -> tuple[Tokens, Float[Array, "b n n"] | None]:
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        attention = Attention(
            self.heads, self.key_bias, self.attention_norm, self.dtype, name="attention"
        )
        y, weights = attention(y, positions, watch)
        x = x + DropPath(self.drop_path, name="drop_path1")(self._scaled(y, 1), train)
        y = LayerNorm(dtype=self.dtype, name="norm2")(x)
        if self.swiglu:
            y = SwiGlu(self.ratio, self.mlp_norm, self.dtype, name="mlp")(y)
        else:
            y = Mlp(self.ratio, self.dtype, name="mlp")(y)
        return x + DropPath(self.drop_path, name="drop_path2")(self._scaled(y, 2), train), weights


class Seen(NamedTuple):
    """What an encoder saw in a film.

    Attributes:
      features: the map that the pooled token is computed from: the last tokens where they are
        averaged, else the tokens that the last block's attention reads.
      pooled: one token for the film.
      maps: the patch tokens after each quarter of the blocks, on their grid; the last one normed.
      rollout: how far the pooled token looks at each patch (evaluation only), see `roll_out`.
    """

    features: Float[Array, "b h w d"]
    pooled: Float[Array, "b d"]
    maps: list[Float[Array, "b h w d"]]
    rollout: Float[Array, "b h w"] | None


def roll_out(
    weights: Sequence[Float[Array, "b n n"]], start: Float[np.ndarray, " n"]
) -> Float[Array, "b n"]:
    """Attention rollout (Abnar & Zuidema, ACL 2020, eq. 1): how the input's tokens reach the end.

    The weights of a block, and the residual path around it as an equal share of the identity, are
    one mixing matrix; the product of all of them is applied to `start`, the shares that the last
    tokens have in the answer. Rows sum to 1.
    """
    share = jnp.broadcast_to(jnp.asarray(start, jnp.float32), weights[0].shape[:2])
    for w in reversed(weights):
        share = 0.5 * share + 0.5 * jnp.einsum("bn,bnm->bm", share, w)
    return share


class Encoder(nn.Module):
    """Tokens of a film through `depth` blocks; as an encoder of maps it has one, the last.

    Attributes:
      patch: side of a patch; films' sides must be multiples of it.
      image_size: side of the films that the position embeddings are for; 0 for those of `init`.
        For other films they are resampled as they are read.
      registers: tokens between the class token and the patches (Darcet et al. 2024,
        arXiv:2309.16588), without position embedding.
      rope: rotary positions over a grid of `rope` x `rope`; 0 for none.
      pool: 'cls' answers from the normed class token, 'mean' from the mean of the patch tokens,
        which the head norms.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 16
    image_size: int = 0
    pool: str = "cls"
    registers: int = 0
    layer_scale: float = 0.0
    ratio: float = 4.0
    swiglu: bool = False
    key_bias: bool = True
    mlp_norm: bool = False
    attention_norm: bool = False
    rope: int = 0
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def channels(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def strides(self) -> tuple[int, ...]:
        return (self.patch,)

    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        return self.look(x, train).maps[-1:]

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 n d"]:
        """Of the class token and the patches."""
        side = self.image_size // self.patch
        made = (side, side) if side else grid
        shape = (1, 1 + made[0] * made[1], self.width)
        embed = self.param("pos_embed", layers.normal_002, shape)
        if made == grid:
            return embed
        patches = embed[:, 1:].reshape(1, *made, self.width)
        patches = jax.image.resize(patches, (1, *grid, self.width), "cubic")
        return jnp.concatenate([embed[:, :1], patches.reshape(1, -1, self.width)], 1)

    @nn.compact
    def look(self, image: Float[Array, "b h w c"], train: bool) -> Seen:
        """See `Seen`."""
        b, p, d = image.shape[0], self.patch, self.width
        if image.shape[1] % p or image.shape[2] % p:
            raise UserError(
                f"a transformer with patches of {p} takes films whose sides are multiples of {p}, "
                f"not {image.shape[1]}x{image.shape[2]}: give a size that is one, as :size=PIXELS "
                "of --config"
            )
        grid = (image.shape[1] // p, image.shape[2] // p)
        embed = Conv(
            d, p, p, 0, bias=True, dtype=self.dtype, kernel_init=layers.uniform_fan_in,
            name="patch_embed",
        )
        x = embed(image).reshape(b, -1, d)
        cls = self.param("cls_token", layers.normal_002, (1, 1, d)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(cls, (b, 1, d)), x], 1)
        x = x + self._positions(grid).astype(self.dtype)
        if self.registers:
            register = self.param("reg_token", layers.normal_002, (1, self.registers, d))
            register = jnp.broadcast_to(register.astype(self.dtype), (b, self.registers, d))
            x = jnp.concatenate([x[:, :1], register, x[:, 1:]], 1)
        front = 1 + self.registers
        turns = rotary(grid, self.rope, d // self.heads) if self.rope else None

        def to_map(tokens: Array) -> Array:
            return tokens[:, front:].reshape(b, *grid, d)

        block = nn.remat(Block, static_argnums=(2, 4)) if self.remat else Block
        rates = layers.drop_path_rates(self.drop_path, self.depth)
        quarters = {max(1, round(self.depth * q / QUARTERS)) for q in range(1, QUARTERS)}
        maps, weights, features = [], [], None
        for i in range(1, self.depth + 1):
            if i == self.depth and self.pool == "cls":
                # Taken apart and joined again: what explains an answer starts from this very map.
                features = to_map(x).astype(jnp.float32)
                back = features.reshape(b, -1, d).astype(self.dtype)
                x = jnp.concatenate([x[:, :front], back], 1)
            x, seen = block(
                self.heads, self.ratio, self.layer_scale, self.swiglu, self.key_bias,
                self.mlp_norm, self.attention_norm, rates[i - 1], self.dtype, name=f"block{i}",
            )(x, train, turns, not train)
            weights.append(seen)
            if i in quarters and i < self.depth:
                maps.append(to_map(x))
        shares = np.zeros(front + grid[0] * grid[1], np.float32)
        if self.pool == "cls":
            x = LayerNorm(dtype=self.dtype, name="norm")(x)
            pooled = x[:, 0].astype(jnp.float32)
            shares[0] = 1
        else:
            features = to_map(x).astype(jnp.float32)
            pooled = features.mean((1, 2))
            shares[front:] = 1 / (grid[0] * grid[1])
        rollout = None
        if not train:
            rollout = roll_out(weights, shares)[:, front:].reshape(b, *grid)
        return Seen(features, pooled, [*maps, to_map(x)], rollout)


class TokenHead(nn.Module):
    """The pooled token, normed where the encoder did not, dropout, linear: logits in float32."""

    num_classes: int
    dropout: float = 0.0
    norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b k"]:
        x = x.astype(jnp.float32)
        if self.norm:
            x = LayerNorm(name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.num_classes, name="logits")(x)


class Transformer(nn.Module):
    """An encoder of tokens and a head over the pooled one; the methods are `layers.Classifier`'s.

    `features` lie on the patches' grid, and the logits are computed from them (`Seen.features`).
    """

    encoder: Encoder
    head: TokenHead

    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> dict[str, Array]:
        """{logits f32[b, k], features f32[b, h', w', d], in evaluation rollout f32[b, h', w']}."""
        return self.answer(self.encoder.look(image, train), train)

    def answer(self, seen: Seen, train: bool) -> dict[str, Array]:
        """The outputs for what the encoder saw."""
        out = {"logits": self.head(seen.pooled, train), "features": seen.features}
        return out if seen.rollout is None else {**out, "rollout": seen.rollout}

    def encode(
        self, image: Float[Array, "b h w c"], train: bool = False
    ) -> Sequence[Float[Array, "b _ _ _"]]:
        """The patches' last tokens on their grid."""
        return self.encoder(image, train)

    def embed(self, image: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b d"]:
        """What the head reads."""
        return self.encoder.look(image, train).pooled

    def classify(
        self, features: Float[Array, "b h w d"], train: bool = False
    ) -> Float[Array, "b k"]:
        """Logits of the mean of a map: of `embed`'s as a map of one cell."""
        return self.head(features.mean((1, 2), dtype=jnp.float32), train)


def make(num_classes: int, dropout: float, dtype: str, **options: Any) -> Transformer:
    """A transformer from `Encoder`'s options.

    Raises:
      UserError: options that make no network.
    """
    encoder = Encoder(dtype=layers.compute_dtype(dtype), **options)
    layers.check_rates(drop_path=encoder.drop_path, dropout=dropout)
    if encoder.pool not in POOLS:
        raise UserError(f"pool must be one of {', '.join(POOLS)}, not {encoder.pool!r}")
    unit = 4 * encoder.heads if encoder.rope else encoder.heads
    if encoder.width % unit:
        raise UserError(f"width {encoder.width} is no multiple of {unit} ({encoder.heads} heads)")
    if encoder.patch < 1 or encoder.depth < 1 or encoder.image_size % encoder.patch:
        raise UserError(
            f"patch {encoder.patch} and depth {encoder.depth} must be at least 1, and image_size "
            f"{encoder.image_size} a multiple of the patch"
        )
    return Transformer(encoder, TokenHead(num_classes, dropout, norm=encoder.pool == "mean"))
