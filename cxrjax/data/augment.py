"""Augmentation inside the compiled step, of a film and its masks together.

Each idea is a pure function of one film, a key and a strength; `augment` applies those that the
options name to a batch. What moves pixels (flip, rotation, scale, shift) is drawn as ONE affine map
per film, so film and mask are sampled once, at the same places. Strength 0 leaves a step out.

Film i of a batch is changed by (key, i) alone, whatever the other films or the size of the batch;
every step has a key of its own, so switching one on does not change what the others draw.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cxrjax import names
from cxrjax.errors import UserError

# Strength of each step (off) and the largest that makes sense.
DEFAULTS = {
    "rotate": 0.0,  # degrees: angle in [-rotate, rotate]
    "scale": 0.0,  # fraction: magnified by [1 / (1 + scale), 1 + scale], even on the log scale
    "shift": 0.0,  # fraction of the side: both axes in [-shift, shift]
    "flip": False,  # left for right, half of the films
    "gamma": 0.0,  # image ** [1 / (1 + gamma), 1 + gamma], even on the log scale
    "contrast": 0.0,  # distance from the film's mean times [1 / (1 + contrast), 1 + contrast]
    "brightness": 0.0,  # plus [-brightness, brightness]
    "noise": 0.0,  # Gaussian, its standard deviation in [0, noise]
    "cutout": 0.0,  # one rectangle with sides of this fraction, filled with the film's mean
}
_LIMITS = {"rotate": 180.0, "shift": 1.0, "brightness": 1.0, "noise": 1.0, "cutout": 1.0}


def augment(
    rng: PRNGKeyArray,
    image: Float[Array, "b h w c"],
    mask: Float[Array, "b h w m"] | None,
    options: Mapping[str, Any],
) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w m"] | None]:
    """Change every film of a batch at random, and its masks by the same movement.

    `flip` belongs off where left and right matter (the heart's side, situs inversus, side markers,
    findings that are labelled by side), which is why it is off unless asked for; data sets say so
    in `Films.allow_flip`.

    Args:
      rng: key of this step; the same key gives the same films.
      image: in [0, 1], and so is the answer. What comes into view from beyond the film is black.
      mask: 0 or 1, and so is the answer (1 where the moved mask, bilinear, is above one half); 0
        beyond the film. None if there is none. Steps that change gray values leave it alone, and so
        does `cutout`: what is behind the rectangle is still there.
      options: strengths by name, see `DEFAULTS`; those left out are off. All off: nothing changes.

    Raises:
      UserError: an unknown option or an impossible strength.
    """
    on = {name: value for name, value in validate(options).items() if value}
    if not on:
        return image, mask
    films, height, width, channels = image.shape
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(films))

    if on.keys() & {"rotate", "scale", "shift", "flip"}:
        matrix = jax.vmap(lambda key: random_affine(key, (height, width), on))(keys)
        both = image if mask is None else jnp.concatenate([image, mask], axis=-1)
        both = jax.vmap(warp)(both, matrix)
        image = both[..., :channels]
        if mask is not None:
            mask = (both[..., channels:] > 0.5).astype(mask.dtype)

    for number, (name, change) in enumerate(_GRAY.items()):
        if name in on:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            image = jax.vmap(functools.partial(change, strength=on[name]))(own, image)
    return jnp.clip(image, 0.0, 1.0), mask


def validate(options: Mapping[str, Any]) -> dict[str, float | bool]:
    """All strengths, those not given being off; call it before training starts.

    Raises:
      UserError: an unknown option (with a suggestion) or an impossible strength.
    """
    strengths = dict(DEFAULTS)
    for name, value in options.items():
        if name not in DEFAULTS:
            raise UserError(f"unknown augmentation {name!r}" + names.suggest(name, DEFAULTS))
        if name == "flip":
            if not isinstance(value, bool):
                raise UserError(f"augmentation flip={value!r}: give True or False")
            strengths[name] = value
            continue
        limit = _LIMITS.get(name, math.inf)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"augmentation {name}={value!r}: give a number (0 is off)")
        if not (0 <= value <= limit and math.isfinite(value)):
            most = "or more" if limit == math.inf else f"to {limit:g}"
            raise UserError(f"augmentation {name}={value!r}: give 0 {most}")
        strengths[name] = float(value)
    return strengths


# --- movements


def random_affine(
    rng: PRNGKeyArray, size: tuple[int, int], options: Mapping[str, Any]
) -> Float[Array, "2 3"]:
    """A map for `warp`: mirrored, then rotated and magnified about the centre, then shifted."""
    angle_key, scale_key, shift_key, flip_key = jax.random.split(jax.random.fold_in(rng, 100), 4)
    angle = jnp.deg2rad(options.get("rotate", 0.0)) * _symmetric(angle_key)
    zoom = _factor(scale_key, options.get("scale", 0.0))
    shift = options.get("shift", 0.0) * _symmetric(shift_key, (2,)) * jnp.array(size)
    mirrored = jax.random.bernoulli(flip_key) & bool(options.get("flip", False))
    side = jnp.where(mirrored, -1.0, 1.0)
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    return jnp.array([[cos, sin * side, shift[0]], [-sin, cos * side, shift[1]]])


def warp(image: Float[Array, "h w c"], matrix: Float[Array, "2 3"]) -> Float[Array, "h w c"]:
    """Sample a film at affinely mapped places: bilinear, 0 beyond its edge.

    Pixel (y, x) of the answer is the film at  matrix @ (y, x, 1), all counted in pixels from the
    centre ((h - 1) / 2, (w - 1) / 2). Exact where that is a pixel. Half a pixel outside, a film
    fades to 0 as if black pixels went on beyond it.

    The channels share the four look-ups, which is why this beats
    `jax.scipy.ndimage.map_coordinates`, and three shears are slower than both on a CPU.
    """
    height, width, channels = image.shape
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    y = jnp.arange(height)[:, None] - centre_y
    x = jnp.arange(width)[None, :] - centre_x
    from_y = matrix[0, 0] * y + matrix[0, 1] * x + matrix[0, 2] + centre_y
    from_x = matrix[1, 0] * y + matrix[1, 1] * x + matrix[1, 2] + centre_x
    # A black rim, one pixel before and two after: places further out are moved onto it, and all
    # four neighbours of every place exist without a test.
    from_y = jnp.clip(from_y, -1, height) + 1
    from_x = jnp.clip(from_x, -1, width) + 1
    pitch = width + 3
    pixels = jnp.pad(image, ((1, 2), (1, 2), (0, 0))).reshape(-1, channels)
    top, left = jnp.floor(from_y), jnp.floor(from_x)
    down, right = (from_y - top)[..., None], (from_x - left)[..., None]
    first = top.astype(jnp.int32) * pitch + left.astype(jnp.int32)

    def neighbours(index: Array) -> Array:
        a = pixels.at[index].get(mode="promise_in_bounds")
        b = pixels.at[index + 1].get(mode="promise_in_bounds")
        return a * (1 - right) + b * right

    return neighbours(first) * (1 - down) + neighbours(first + pitch) * down


# --- gray values of one film


def gamma(rng: PRNGKeyArray, image: Float[Array, "h w c"], strength: float) -> Array:
    """image ** g, g between 1 / (1 + strength) and 1 + strength."""
    return image ** _factor(rng, strength)


def contrast(rng: PRNGKeyArray, image: Float[Array, "h w c"], strength: float) -> Array:
    """Stretch the distances from the film's mean by 1 / (1 + strength) to 1 + strength."""
    mean = jnp.mean(image)
    return jnp.clip(mean + (image - mean) * _factor(rng, strength), 0.0, 1.0)


def brightness(rng: PRNGKeyArray, image: Float[Array, "h w c"], strength: float) -> Array:
    """Add one number between -strength and strength to the film."""
    return jnp.clip(image + strength * _symmetric(rng), 0.0, 1.0)


def noise(rng: PRNGKeyArray, image: Float[Array, "h w c"], strength: float) -> Array:
    """Add Gaussian noise whose standard deviation is drawn between 0 and strength."""
    level_key, noise_key = jax.random.split(rng)
    level = strength * jax.random.uniform(level_key)
    return jnp.clip(image + level * jax.random.normal(noise_key, image.shape), 0.0, 1.0)


def cutout(rng: PRNGKeyArray, image: Float[Array, "h w c"], strength: float) -> Array:
    """Fill one rectangle of `strength` times the sides with the film's mean.

    Its centre is any pixel of the film, so it may hang over the edge (DeVries & Taylor 2017).
    """
    inside = True
    for axis, key in enumerate(jax.random.split(rng)):
        size = image.shape[axis]
        side = round(strength * size)
        start = jax.random.randint(key, (), 0, size) - side // 2
        place = jnp.arange(size)
        covered = (place >= start) & (place < start + side)
        inside = inside & jnp.expand_dims(covered, 1 - axis)
    return jnp.where(inside[..., None], jnp.mean(image), image)


# The order in which they are applied; a new one goes last, or the others' keys change.
_GRAY = {
    "gamma": gamma,
    "contrast": contrast,
    "brightness": brightness,
    "noise": noise,
    "cutout": cutout,
}


def _symmetric(rng: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(rng, shape, minval=-1.0, maxval=1.0)


def _factor(rng: PRNGKeyArray, strength: float) -> Array:
    """A factor between 1 / (1 + strength) and 1 + strength, as often below 1 as above."""
    return jnp.exp(math.log1p(strength) * _symmetric(rng))
