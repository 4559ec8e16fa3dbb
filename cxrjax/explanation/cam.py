"""Heat maps: where on the film the evidence for each label lies. Pure functions on outputs.

The encoder runs once; everything here starts from its last map before pooling. A network enters as
`head_fn: features f32[B,h,w,D] -> logits f32[B,K]`, the part after that map with its weights bound,
in evaluation mode (the films of a batch must not influence one another):

    outputs = model.apply(variables, image, train=False)
    heat = cam.grad_cam(head_fn, outputs["features"])         # [B, K, h, w], all labels at once

All maps come as [B, K, h, w]; put one `jax.jit` around model and map. `boxes` works on the host.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import ndimage

from cxrjax.errors import UserError

HeadFn = Callable[[Float[Array, "b h w d"]], Float[Array, "b k"]]
PredictFn = Callable[[Float[Array, "b H W c"]], Float[Array, "b k"]]


def logit_gradients(
    head_fn: HeadFn, features: Float[Array, "b h w d"]
) -> tuple[Float[Array, "b k"], Float[Array, "k b h w d"]]:
    """The logits and d logit_k / d features for every label k.

    One forward pass of the head; its backward pass alone is done per label, for all at once.
    """
    logits, pull_back = jax.vjp(head_fn, features.astype(jnp.float32))
    labels = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    one_label = jnp.broadcast_to(labels[:, None, :], (labels.shape[0], *logits.shape))
    (gradients,) = jax.vmap(pull_back)(one_label)
    return logits, gradients


def _weighted(
    features: Float[Array, "b h w d"], weights: Float[Array, "k b d"]
) -> Float[Array, "b k h w"]:
    maps = jnp.einsum(
        "bhwd,kbd->bkhw",
        features.astype(jnp.float32),
        weights,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(maps)


def linear_cam(
    head_fn: HeadFn, features: Float[Array, "b h w d"]
) -> tuple[Float[Array, "b k h w"], Float[Array, " b"]]:
    """Class activation maps of a head, and how far they are from adding up.

    M_k(y, x) = sum_d kernel[d, k] features(y, x, d) (Zhou et al., CVPR 2016, eq. 2). A head that is
    linear in the map has one gradient everywhere, and h w times that gradient is the kernel (where
    a head weighs places differently, each place has its own).

    Returns:
      maps, and for each film the largest |mean of the map + head_fn(0) - logit| over the labels: 0
      up to rounding where CAM explains the logit, larger where the head is not linear (a norm after
      the pooling, a hidden layer), so that there is no CAM.
    """
    logits, gradients = logit_gradients(head_fn, features)
    places = features.shape[1] * features.shape[2]
    maps = places * jnp.einsum(
        "bhwd,kbhwd->bkhw",
        features.astype(jnp.float32),
        gradients,
        precision=jax.lax.Precision.HIGHEST,
    )
    offset = head_fn(jnp.zeros_like(features, jnp.float32))
    return maps, jnp.abs(maps.mean((2, 3)) + offset - logits).max(1)


def grad_cam(head_fn: HeadFn, features: Float[Array, "b h w d"]) -> Float[Array, "b k h w"]:
    """Grad-CAM of all labels (Selvaraju et al., ICCV 2017, eq. 1 and 2).

    Weights are the gradients of the logit averaged over space; the map is the positive part of the
    weighted sum. For a linear head on averaged features it is relu(CAM) / (h w).
    """
    _, gradients = logit_gradients(head_fn, features)
    return _weighted(features, gradients.mean((2, 3)))


def grad_cam_plus_plus(
    head_fn: HeadFn, features: Float[Array, "b h w d"]
) -> Float[Array, "b k h w"]:
    """Grad-CAM++ of all labels (Chattopadhay et al., WACV 2018, eq. 10 and 19).

    With the score exp(logit), as in the paper, the second and third derivatives are the powers g^2
    and g^3 of the logit's gradient g, so that alpha = g^2 / (2 g^2 + sum_space(A) g^3), where A is
    the feature map, and the weight is sum_space(alpha relu(g)). The factor exp(logit), one number
    a map, is left out: it changes no comparison within a map.
    """
    _, g = logit_gradients(head_fn, features)
    space = features.astype(jnp.float32).sum((1, 2), keepdims=True)
    below = 2.0 * g**2 + space * g**3
    alpha = jnp.where(below == 0.0, 0.0, g**2 / jnp.where(below == 0.0, 1.0, below))
    return _weighted(features, (alpha * jax.nn.relu(g)).sum((2, 3)))


def occlusion(
    predict_fn: PredictFn,
    image: Float[Array, "b H W c"],
    grid: int = 14,
    patch: int | None = None,
    fill: int | float | None = None,
    chunk: int = 8,
) -> Float[Array, "b k grid grid"]:
    """How much each logit falls when a patch of the film is covered (Zeiler & Fergus, ECCV 2014).

    The film is cut into grid x grid cells; the patch is centred on each cell in turn (cut off at
    the border), so the map lies on the film as a feature map does.

    Args:
      predict_fn: image -> logits, weights bound, in evaluation mode.
      patch: side of the patch in pixels; two cells if not given.
      fill: the gray value that covers; each film's own mean if not given.
      chunk: positions per forward pass, that is `chunk * b` films at a time.

    Returns:
      logit(film) - logit(covered film): positive where the cell speaks for the label.
    """
    batch, height, width, _ = image.shape
    half_h = (patch or 2 * height / grid) / 2
    half_w = (patch or 2 * width / grid) / 2
    gray = image.mean((1, 2, 3), keepdims=True) if fill is None else jnp.asarray(fill, image.dtype)
    rows = jnp.arange(height) + 0.5
    cols = jnp.arange(width) + 0.5

    def covered(position: Array) -> Array:
        y = (position // grid + 0.5) * height / grid
        x = (position % grid + 0.5) * width / grid
        inside = (jnp.abs(rows - y) <= half_h)[:, None] & (jnp.abs(cols - x) <= half_w)
        return jnp.where(inside[None, :, :, None], gray, image)

    def logits_of(positions: Array) -> Array:
        films = jax.vmap(covered)(positions)
        return predict_fn(films.reshape(-1, *image.shape[1:])).reshape(chunk, batch, -1)

    chunk = min(chunk, grid * grid)
    steps = -(-grid * grid // chunk)
    positions = jnp.arange(steps * chunk) % (grid * grid)
    after = jax.lax.map(logits_of, positions.reshape(steps, chunk))
    after = after.reshape(steps * chunk, batch, -1)[: grid * grid]
    fall = predict_fn(image)[None] - after
    return fall.reshape(grid, grid, batch, -1).transpose(2, 3, 0, 1)


def align(
    heatmap: Float[Array, "*batch h w"],
    shift: tuple[int | float, int | float],
    size: tuple[int, int],
) -> Float[Array, "*batch H W"]:
    """A map moved by `shift` and brought to `size`, bilinear, edges held.

    Args:
      shift: (down, right) in fractions of the map, at most one cell: where what its cells tell of
        lies, beside where the cells are.
    """
    pad = 2
    padded = jnp.pad(heatmap, [(0, 0)] * (heatmap.ndim - 2) + [(pad, pad)] * 2, mode="edge")
    axes = (heatmap.ndim - 2, heatmap.ndim - 1)
    scale = [n / heatmap.shape[a] for n, a in zip(size, axes)]
    moved = [(d * heatmap.shape[a] - pad) * s for d, a, s in zip(shift, axes, scale)]
    return jax.image.scale_and_translate(
        padded, (*heatmap.shape[:-2], *size), axes, jnp.array(scale), jnp.array(moved), "linear",
        antialias=False,
    )


def spread(heatmap: Float[Array, "*batch h w"], width: float) -> Float[Array, "*batch h w"]:
    """Each place's heat spread over its surroundings as a Gaussian; what leaves the film is lost.

    A cell of a network's last map tells of all it sees, and where the evidence is small the cells
    round it shine as brightly as the one it lies in. Spread by the receptive field the map is
    highest where most of them agree (Liznerski et al., ICLR 2021, arXiv:2007.01760, section 3).

    Args:
      width: standard deviation in fractions of the map's sides; 0 changes nothing.
    """
    if width <= 0:
        return heatmap
    for axis in (-2, -1):
        n = heatmap.shape[axis]
        at = (jnp.arange(n) + 0.5) / n
        weight = jnp.exp(-((at[:, None] - at[None]) ** 2) / (2 * width**2))
        weight /= n * width * (2 * jnp.pi) ** 0.5
        heatmap = jnp.moveaxis(jnp.moveaxis(heatmap, axis, -1) @ weight, -1, axis)
    return heatmap


def boxes(
    heatmap: Float[np.ndarray, "h w"],
    threshold: int | float = 0.5,
    size: tuple[int | float, int | float] | None = None,
) -> Float[np.ndarray, "n 4"]:
    """Boxes round the regions that stand out, the region with most pixels first (host).

    A pixel stands out where it reaches `threshold` times the map's maximum; pixels that touch, also
    at a corner, form one region. A map without a positive value has no box.

    Args:
      size: (height, width) of the film in whose units the boxes are wanted; (1, 1) for fractions of
        the film, None for pixels of the heat map.

    Returns:
      (x0, y0, x1, y1), the edges of the outermost pixels: a region of one pixel has side 1.

    Raises:
      UserError: a threshold outside (0, 1], or a map with NaN or infinity.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"the threshold is a part of the maximum, in (0, 1], not {threshold}")
    heatmap = np.asarray(heatmap)
    if not np.isfinite(heatmap).all():
        raise UserError("the heat map has NaN or infinite values: did the network diverge?")
    top = heatmap.max(initial=0.0)
    if top <= 0:
        return np.zeros((0, 4))
    regions, _ = ndimage.label(heatmap >= threshold * top, structure=np.ones((3, 3)))
    slices = ndimage.find_objects(regions)
    found = [(cols.start, rows.start, cols.stop, rows.stop) for rows, cols in slices]
    pixels = np.bincount(regions.ravel())[1:]
    result = np.array(found, np.float64)[np.argsort(-pixels, kind="stable")]
    height, width = heatmap.shape
    scale_y, scale_x = (1.0, 1.0) if size is None else (size[0] / height, size[1] / width)
    return result * [scale_x, scale_y, scale_x, scale_y]
