"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929), as timm defines them."""

from __future__ import annotations

from cxrjax.models import tokens
from cxrjax.models.tokens import Transformer

NAMES = ("vit_small", "vit_base")


def vit_small(
    num_classes: int,
    *,
    dtype: str = "float32",
    patch: int = 16,
    image_size: int = 0,
    pool: str = "cls",
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
) -> Transformer:
    """ViT-S: 22,050,664 parameters for 1,000 classes and films of 224x224x3.

    `pool` is 'cls' or 'mean' (timm's global_pool='avg'); see `tokens.Encoder` for the rest.
    """
    return tokens.make(
        num_classes, dropout, dtype, width=width, depth=depth, heads=heads, patch=patch,
        image_size=image_size, pool=pool, drop_path=drop_path, remat=remat,
    )


def vit_base(
    num_classes: int,
    *,
    dtype: str = "float32",
    patch: int = 16,
    image_size: int = 0,
    pool: str = "cls",
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
) -> Transformer:
    """ViT-B: 86,567,656 parameters for 1,000 classes and films of 224x224x3; see `vit_small`."""
    return tokens.make(
        num_classes, dropout, dtype, width=width, depth=depth, heads=heads, patch=patch,
        image_size=image_size, pool=pool, drop_path=drop_path, remat=remat,
    )
