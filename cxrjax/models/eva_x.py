"""EVA-X (Yao et al. 2025, npj Digital Medicine; arXiv:2405.05237): EVA-02 trained on chest films.

EVA-02 (Fang et al. 2023, arXiv:2303.11331): SwiGLU, rotary positions beside learned ones, keys
without bias, the mean of the patch tokens. The base network also norms inside its MLP.
"""

from __future__ import annotations

from cxrjax.models import tokens
from cxrjax.models.tokens import Transformer

NAMES = ("eva_x_tiny", "eva_x_small", "eva_x_base")

GRID = 14  # patches along a side of the films that EVA-X was trained on


def _eva_x(num_classes: int, dropout: float, dtype: str, **options) -> Transformer:
    return tokens.make(
        num_classes, dropout, dtype, pool="mean", ratio=8 / 3, swiglu=True, key_bias=False,
        rope=GRID, **options,
    )


def eva_x_tiny(
    num_classes: int,
    *,
    dtype: str = "float32",
    patch: int = 16,
    image_size: int = 0,
    attention_norm: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
) -> Transformer:
    """EVA-X-Ti: 5,527,886 parameters for 14 labels and films of 224x224x3."""
    return _eva_x(
        num_classes, dropout, dtype, width=width, depth=depth, heads=heads, patch=patch,
        image_size=image_size, attention_norm=attention_norm, drop_path=drop_path, remat=remat,
    )


def eva_x_small(
    num_classes: int,
    *,
    dtype: str = "float32",
    patch: int = 16,
    image_size: int = 0,
    attention_norm: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
) -> Transformer:
    """EVA-X-S: 21,672,590 parameters for 14 labels and films of 224x224x3."""
    return _eva_x(
        num_classes, dropout, dtype, width=width, depth=depth, heads=heads, patch=patch,
        image_size=image_size, attention_norm=attention_norm, drop_path=drop_path, remat=remat,
    )


def eva_x_base(
    num_classes: int,
    *,
    dtype: str = "float32",
    patch: int = 16,
    image_size: int = 0,
    attention_norm: bool = False,
    drop_path: float = 0.0,
    dropout: float = 0.0,
    remat: bool = False,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
) -> Transformer:
    """EVA-X-B: 85,861,646 parameters for 14 labels and films of 224x224x3."""
    return _eva_x(
        num_classes, dropout, dtype, width=width, depth=depth, heads=heads, patch=patch,
        image_size=image_size, attention_norm=attention_norm, drop_path=drop_path, remat=remat,
        mlp_norm=True,
    )
