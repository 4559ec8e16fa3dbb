"""The layers that every family is built of: convolutions, norms, pools, the classifier around them.

Everything is NHWC. Parameters and statistics are float32; `dtype` is the type computed in. Padding
is torch's: the same on both sides, and a stride that does not divide the size rounds down.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cxrjax.errors import UserError
from cxrjax.models import convolutions

Moments = tuple[Float[Array, " _"], Float[Array, " _"]]

# He et al. 2015 (arXiv:1502.01852), the mode that ResNets are trained from.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Transformers' and ConvNeXt's (they cut at 100 standard deviations, which is no cut).
normal_002 = nn.initializers.normal(0.02)
# torch's Linear: uniform within 1 / sqrt(fan_in).
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def compute_dtype(name: str) -> Any:
    """The type that the option `dtype` names ("float32" or "bfloat16").

    Raises:
      UserError: any other name.
    """
    known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if name not in known:
        raise UserError(f"dtype must be one of {', '.join(known)}, not {name!r}")
    return known[name]


def check_rates(**rates: float) -> None:
    """Holds that each named rate is a probability below one.

    Raises:
      UserError: a rate outside [0, 1).
    """
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f"{name} must be at least 0 and below 1, not {rate}")


class Conv(nn.Module):
    """A square convolution, torch-padded (`kernel // 2` on both sides unless `padding` is given).

    How it is computed is chosen in `convolutions`.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: int | None = None
    bias: bool = False
    depthwise: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = he_fan_out

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ {self.features}"]:
        k, s = self.kernel, self.stride
        pad = k // 2 if self.padding is None else self.padding
        inputs = 1 if self.depthwise else x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (k, k, inputs, self.features))
        x, kernel = jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype)
        smallest = min((n + 2 * pad - k) // s + 1 for n in x.shape[1:3])
        if smallest < 1:
            raise UserError(
                f"{'/'.join(self.path)}: a map of {x.shape[1]}x{x.shape[2]} is too small for a "
                f"{k}x{k} convolution; give larger films, or small_stem=True"
            )
        run = convolutions.depthwise if self.depthwise else convolutions.convolve
        y = run(x, kernel, s, pad)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + jnp.asarray(bias, self.dtype)
        return y


def batch_moments(x: Float[Array, "... c"]) -> Moments:
    """Mean and biased variance of each channel over all else, in float32 whatever x's type.

    One pass over x (E[x^2] - E[x]^2), which XLA fuses into a single reduction.
    """
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) in torch's conventions.

    Mean, variance, scale and bias are folded into one multiply-add per element,
    y = x * s + (bias - mean * s) with s = scale / sqrt(var + eps). Training normalises by the
    biased variance and, like torch, puts the UNBIASED one into the running average,
    running = momentum * running + (1 - momentum) * batch (torch's momentum is 1 - ours). Running
    statistics move only where the caller made "batch_stats" mutable. On a mesh the statistics are
    those of the whole batch.

    `moments`, if given, are the batch's mean and biased variance, already at hand (a DenseNet
    normalises the same map many times); they are used in training only.
    """

    eps: float = 1e-5
    momentum: float = 0.9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b c"], train: bool, moments: Moments | None = None
    ) -> Float[Array, "*b c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        ra_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        ra_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if train:
            mean, var = batch_moments(x) if moments is None else moments
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                count = x.size // channels
                unbiased = var * (count / max(count - 1, 1))
                step = 1 - self.momentum
                ra_mean.value += step * (lax.stop_gradient(mean) - ra_mean.value)
                ra_var.value += step * (lax.stop_gradient(unbiased) - ra_var.value)
        else:
            mean, var = ra_mean.value, ra_var.value
        s = scale * lax.rsqrt(var + self.eps)
        y = x.astype(jnp.float32) * s + (bias - mean * s)
        return y.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels (Ba et al. 2016, arXiv:1607.06450), in float32.

    Not flax's, although the formula is: of ConvNeXt-tiny and Conformer-tiny at 64 pixels (batch 8,
    2 CPU cores, flax 0.12) flax's with `use_fast_variance=False` gives the same logits, but
    gradients that differ in their rounding, so that no run would go on as it began; inference took
    61 and 54 ms for 52 and 50 with this one, a step 260 and 190 for 257 and 192.
    """

    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, -1, keepdims=True)
        y = x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)
        return (y * scale + bias).astype(self.dtype)


# Flax's linear layer, its kernel drawn as transformers' and ConvNeXt's are.
Dense = functools.partial(nn.Dense, dtype=jnp.float32, kernel_init=normal_002)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382): in training a film's whole residual
    branch is dropped with probability `rate`, and scaled by 1 / (1 - rate) where it stays."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], train: bool) -> Float[Array, "b ..."]:
        if not train or self.rate == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates rising linearly from 0 at the first block to `rate` at the last of `depth` blocks."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def gelu(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """The exact Gaussian error linear unit, x * Phi(x) (Hendrycks & Gimpel, arXiv:1606.08415)."""
    return 0.5 * x * (1 + lax.erf(x * x.dtype.type(0.5**0.5)))


def _thirds(x: Array, axis: int) -> list[Array]:
    """The three stride-2 views of a padded axis whose maximum is the 3-wide pool."""
    count = (x.shape[axis] - 3) // 2 + 1
    return [lax.slice_in_dim(x, k, k + 2 * (count - 1) + 1, 2, axis) for k in range(3)]


def _max_of(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """The largest of three and which it is; of equals the first."""
    ab = jnp.maximum(a, b)
    return jnp.maximum(ab, c), jnp.where(c > ab, 2, (b > a).astype(jnp.int8))


def _hand_back(g: Array, which: Array, size: int, axis: int) -> Array:
    """The derivative of the 3-wide pool over an axis that is `size` long with its padding."""
    total = jnp.zeros((), g.dtype)
    for k in range(3):
        sides = [(0, 0, 0)] * g.ndim
        sides[axis] = (k, size - (k + 2 * (g.shape[axis] - 1) + 1), 1)
        total = total + lax.pad(jnp.where(which == k, g, 0), jnp.zeros((), g.dtype), sides)
    return total


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    """A 3x3 max-pool of stride 2 and padding 1 (the one after a ResNet's first convolution).

    Values and gradient are those of torch, which hands the gradient to the first of equal maxima.
    Along one axis and then the other, with the derivative written out, because XLA's own is slow.
    """
    x = convolutions.pad(x, 1, 1, -jnp.inf)
    for axis in (2, 1):
        a, b, c = _thirds(x, axis)
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x


def _max_pool_forward(x: Array) -> tuple[Array, Any]:
    y, across = _max_of(*_thirds(convolutions.pad(x, 1, 1, -jnp.inf), 2))
    z, down = _max_of(*_thirds(y, 1))
    return z, (across, down, x.shape[1] + 2, x.shape[2] + 2)


def _max_pool_backward(saved: Any, g: Array) -> tuple[Array]:
    across, down, height, width = saved
    g = _hand_back(_hand_back(g, down, height, 1), across, width, 2)
    return (g[:, 1:-1, 1:-1],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b _ _ c"]:
    """The mean of each `size` x `size` cell; rows and columns left over at the end are dropped."""
    h, w = x.shape[1] // size, x.shape[2] // size
    x = x[:, : h * size, : w * size].reshape(x.shape[0], h, size, w, size, x.shape[-1])
    return jnp.mean(x, (2, 4), dtype=jnp.float32).astype(x.dtype)


class Stem(nn.Module):
    """Convolution, norm, ReLU. `small`: 3x3 at stride 1 (for films of 28 to 64 pixels)."""

    features: int
    small: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = he_fan_out

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ _"]:
        kernel, stride = (3, 1) if self.small else (7, 2)
        x = Conv(
            self.features,
            kernel,
            stride,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train))


class PoolHead(nn.Module):
    """Mean over the map, an optional LayerNorm, dropout, linear: logits in float32."""

    num_classes: int
    dropout: float = 0.0
    norm: bool = False
    kernel_init: Callable = uniform_fan_in

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        x = jnp.mean(x, (1, 2), dtype=jnp.float32)
        if self.norm:
            x = LayerNorm(name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.num_classes, kernel_init=self.kernel_init, name="logits")(x)


class Classifier(nn.Module):
    """An encoder and a head over its last map.

    The methods are for `apply`: the whole, the maps alone (`method="encode"`), the vector that a
    linear head reads (`method="embed"`), and the logits that a given last map leads to
    (`method="classify"`).
    """

    encoder: nn.Module
    head: nn.Module

    def __call__(self, image: Float[Array, "b h w c"], train: bool = False) -> dict[str, Array]:
        """{logits f32[b, k], features f32[b, h', w', d]: the last map, before pooling}."""
        features = self.encode(image, train)[-1].astype(jnp.float32)
        return {"logits": self.classify(features, train), "features": features}

    def encode(
        self, image: Float[Array, "b h w c"], train: bool = False
    ) -> Sequence[Float[Array, "b _ _ _"]]:
        """The encoder's maps, finest to coarsest."""
        return self.encoder(image, train)

    def embed(self, image: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b d"]:
        """The last map's mean."""
        return jnp.mean(self.encode(image, train)[-1], (1, 2), dtype=jnp.float32)

    def classify(
        self, features: Float[Array, "b h w d"], train: bool = False
    ) -> Float[Array, "b k"]:
        """Logits from the last map."""
        return self.head(features, train)
