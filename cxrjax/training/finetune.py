"""What fine-tuning needs of the optimizer: a rate for each layer, and parts that stay as they are.

Where a parameter stands is read off its path, the same for every network of ours: the encoder's
stem and tokens come first, then its blocks in order, then what follows them, last the head.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from cxrjax.errors import UserError
from cxrjax.names import suggest

_BLOCK = re.compile(r"encoder/(?:stage(\d+)/)?(?:block|layer)(\d+)(?:/|$)")
_BETWEEN = re.compile(r"encoder/(downsample|transition)(\d+)(?:/|$)")


def _place(path: str) -> tuple[int, int, int] | None:
    """(stage, block, 0) of what lies inside a block; None for what does not."""
    if match := _BLOCK.match(path):
        return int(match[1] or 1), int(match[2]), 0
    if match := _BETWEEN.match(path):
        # ConvNeXt's downsampling stands before the stage of its number, a DenseNet's transition
        # behind it.
        stage = int(match[2]) + (match[1] == "transition")
        return stage, 1, 0
    return None


def depths(params: Mapping[str, Any]) -> tuple[Any, int]:
    """How deep each parameter lies: 0 for stem, patches and tokens, i for block i, and, one deeper
    than the last block, what comes behind the blocks (norms, head, decoder).

    As in BEiT (Bao et al. 2022, arXiv:2106.08254, its code), which MAE and EVA-X follow.

    Returns:
      The tree of depths, and the largest.
    """
    paths = {key: "/".join(key) for key in traverse_util.flatten_dict(dict(params))}
    places = sorted({place for path in paths.values() if (place := _place(path))})
    last = len(places) + 1
    number = {place: i for i, place in enumerate(places, start=1)}

    def depth(path: str) -> int:
        if place := _place(path):
            return number[place]
        behind = not path.startswith("encoder/") or path.startswith("encoder/norm")
        return last if behind else 0

    flat = {key: depth(path) for key, path in paths.items()}
    return traverse_util.unflatten_dict(flat), last


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Updates times decay^(largest depth - depth): the head at the full rate, the stem slowest.

    Behind an optimizer it scales the learning rate of each layer, weight decay included
    (Clark et al. 2020, ELECTRA, arXiv:2003.10555, section 3.2).
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        tree, last = depths(updates)
        return jax.tree.map(lambda u, d: u * decay ** (last - d), updates, tree), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def patterns(text: str | Sequence[str]) -> tuple[str, ...]:
    """`config.optimizer.freeze` as a tuple: 'encoder/stem*,encoder/stage1/*' or a list of them."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(p.strip() for p in parts if p.strip())


def _matches(path: str, chosen: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, p) or path.startswith(f"{p.rstrip('/')}/") for p in chosen)


def frozen(tree: Mapping[str, Any], chosen: Sequence[str]) -> Any:
    """Which leaves stay: True where a pattern is the path, holds it, or lies above it.

    Patterns are file patterns over paths: 'encoder' is all of the encoder, 'encoder/block[1-6]/*'
    its first six blocks, '*/norm*' every norm.
    """
    flat = traverse_util.flatten_dict(dict(tree))
    return traverse_util.unflatten_dict({k: _matches("/".join(k), chosen) for k in flat})


def check_freeze(params: Mapping[str, Any], chosen: Sequence[str]) -> None:
    """Raises what is wrong with the patterns.

    Raises:
      UserError: a pattern that is nobody's, or nothing left to train.
    """
    paths = ["/".join(k) for k in traverse_util.flatten_dict(dict(params))]
    for pattern in chosen:
        if not any(_matches(path, (pattern,)) for path in paths):
            tops = {p.rpartition("/")[0] for p in paths if p.count("/") <= 2} | {"encoder", "head"}
            raise UserError(
                f"config.optimizer.freeze: no parameter is called {pattern!r}"
                + suggest(pattern, sorted(tops - {""})[:20])
            )
    stay = [p for p in paths if _matches(p, chosen)]
    if len(stay) == len(paths):
        raise UserError("config.optimizer.freeze leaves nothing to train")


def without(tree: Any, chosen: Sequence[str]) -> Any:
    """The tree with zeros for what is frozen."""
    if not chosen:
        return tree
    stay = frozen(tree, chosen)
    return jax.tree.map(lambda x, s: jnp.zeros_like(x) if s else x, tree, stay)


def around(
    optimizer: optax.GradientTransformation, chosen: Sequence[str]
) -> optax.GradientTransformation:
    """An optimizer of what is not frozen alone: the rest has no moments, enters no clipped norm and
    is moved by no weight decay."""

    def trained(tree: Any) -> Any:
        return jax.tree.map(lambda stays: not stays, frozen(tree, chosen))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return without(updates, chosen), state

    rest = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(optax.masked(optimizer, trained), rest)


def keep_statistics(old: Any, new: Any, chosen: Sequence[str]) -> Any:
    """Running statistics, those of frozen parts as they were."""
    if not chosen or not new:
        return new
    return jax.tree.map(lambda o, n, s: o if s else n, old, new, frozen(new, chosen))
