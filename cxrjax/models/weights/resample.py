"""Position embeddings and patch kernels for films and patches of another size, as timm does it."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float


def cubic_matrix(old: int, new: int) -> Float[np.ndarray, "{new} {old}"]:
    """Resizes a line of `old` samples to `new`: rows of weights.

    Keys' cubic (1981, a = -1/2) at pixel centres, widened by the factor of a reduction (against
    aliasing) and normed at the edges: what PIL, and torch with antialias=True, call bicubic.
    """
    scale = old / new
    width = max(scale, 1.0)
    centers = (np.arange(new) + 0.5) * scale - 0.5
    x = np.abs((np.arange(old)[None] - centers[:, None]) / width)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


def position_embeddings(
    embed: Float[np.ndarray, "1 n d"], grid: tuple[int, int], front: int
) -> Float[np.ndarray, "1 m d"]:
    """Embeddings of a square grid brought to `grid`; the first `front` tokens stay.

    Raises:
      ValueError: the patches make no square.
    """
    kept, patches = embed[:, :front], embed[0, front:]
    side = math.isqrt(len(patches))
    if side * side != len(patches):
        raise ValueError(f"{len(patches)} patches make no square")
    patches = patches.reshape(side, side, -1)
    rows, columns = (cubic_matrix(side, n) for n in grid)
    patches = np.einsum("yi,xj,ijd->yxd", rows, columns, patches, optimize=True)
    return np.concatenate([kept, patches.reshape(1, -1, embed.shape[-1])], 1).astype(np.float32)


def patch_kernel(
    kernel: Float[np.ndarray, "o i h w"], new: tuple[int, int]
) -> Float[np.ndarray, "o i _ _"]:
    """A patch embedding for larger or smaller patches (Beyer et al., FlexiViT, CVPR 2023, eq. 4).

    The pseudo-inverse of the resizing: on a film resized like the patches the answer is the same.
    """
    old = kernel.shape[2:]
    # The resizing is a Kronecker product, and so is its pseudo-inverse.
    rows, columns = (np.linalg.pinv(cubic_matrix(o, n)) for o, n in zip(old, new))
    out = np.einsum("iy,jx,ocij->ocyx", rows, columns, kernel.astype(np.float64), optimize=True)
    return out.astype(np.float32)
