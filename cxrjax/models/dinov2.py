"""DINOv2's vision transformers (Oquab et al. 2024, arXiv:2304.07193): ViTs with layer scale.

RAD-DINO (Pérez-García et al. 2025, arXiv:2401.10815) is `dinov2_base` with weights of its own.
"""

from __future__ import annotations

from cxrjax.models import tokens
from cxrjax.models.tokens import Transformer

NAMES = ("dinov2_small", "dinov2_base")

LAYER_SCALE = 1e-5


def dinov2_small(
    num_classes: int,
    *,
    dtype: str = "float32",
    patch: int = 14,
    image_size: int = 0,
    registers: int = 0,
    pool: str = "cls",
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
) -> Transformer:
    """DINOv2 ViT-S/14: 22,056,192 parameters without a head, at 518x518x3.

    `registers=4` is the variant with registers (arXiv:2309.16588).
    """
    return tokens.make(
        num_classes, dropout, dtype, width=width, depth=depth, heads=heads, patch=patch,
        image_size=image_size, pool=pool, drop_path=drop_path, remat=remat, registers=registers,
        layer_scale=LAYER_SCALE,
    )


def dinov2_base(
    num_classes: int,
    *,
    dtype: str = "float32",
    patch: int = 14,
    image_size: int = 0,
    registers: int = 0,
    pool: str = "cls",
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
) -> Transformer:
    """DINOv2 ViT-B/14: 86,579,712 parameters without a head, at 518x518x3; see `dinov2_small`."""
    return tokens.make(
        num_classes, dropout, dtype, width=width, depth=depth, heads=heads, patch=patch,
        image_size=image_size, pool=pool, drop_path=drop_path, remat=remat, registers=registers,
        layer_scale=LAYER_SCALE,
    )
