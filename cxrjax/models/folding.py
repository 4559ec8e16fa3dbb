"""Batch norms folded into the convolutions before them: the same answers by fewer operations.

In evaluation a batch norm is a multiply-add per channel, y = x * s + (bias - mean * s) with
s = scale / sqrt(var + eps). Right after a convolution the product belongs to the kernel (Jacob et
al. 2018, arXiv:1712.05877, eq. 14), and a bias is left. Which norm follows which convolution is
seen from the computation itself, so that any network built of `layers` is folded, and any number of
them that answer together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from cxrjax.models import layers

_MARK = "convolution "  # and its number: what it gives, in the traced program


class _Conv(NamedTuple):
    """Which leaves of the variables a convolution reads; -1: one that it has not."""

    kernel: int
    bias: int = -1


class _Norm(NamedTuple):
    """Which leaves a batch norm reads."""

    scale: int
    bias: int
    mean: int
    var: int
    eps: float


def fold(predict: Callable[..., Any], variables: Any, *args: Any) -> tuple[Any, int, int]:
    """Variables with which `predict` answers the same while norms have nothing to multiply by.

    A norm is folded where nothing else reads what its convolution gives, and where both read their
    arrays as they lie in `variables`. The others (before a convolution, as half of a DenseNet's;
    inside `remat` or `vmap`) stay.

    Args:
      predict: (variables, *args) -> anything, in evaluation mode.
      variables: any tree of arrays.
      args: arrays, or their shapes.

    Returns:
      variables: of the same structure, shapes and types. Of what was folded the kernels (and biases
        of convolutions) are times s, scales are one, means zero, variances one less eps.
      folded: how many norms.
      norms: how many there are.
    """
    leaves, structure = jax.tree.flatten(variables)
    convs: list[_Conv | None] = []  # by call
    norms: list[tuple[_Norm | None, int | None]] = []  # by call, with the number of the convolution

    def watched(variables: Any, *args: Any) -> Any:
        with nn.intercept_methods(_watch(jax.tree.leaves(variables), convs, norms)):
            return predict(variables, *args)

    reads = _reads(jax.make_jaxpr(watched)(variables, *args).jaxpr)
    follows = {after: norm for norm, after in norms if reads[after] == 1}
    partners: dict[Any, set[Any]] = defaultdict(set)
    for number, conv in enumerate(convs):
        partners[conv].add(follows.get(number))
    for norm, after in norms:
        partners[norm].add(convs[after] if reads[after] == 1 else None)
    seen = {norm for norm, _ in norms if norm is not None}
    folded = 0
    for norm in seen:
        (conv, *others) = partners[norm]
        if conv is not None and not others and partners[conv] == {norm}:
            _put(leaves, conv, norm)
            folded += 1
    elsewhere = sum(norm is None for norm, _ in norms)  # inside `remat` or `vmap`, by call
    return jax.tree.unflatten(structure, leaves), folded, len(seen) + elsewhere


def _watch(leaves: list[Any], convs: list[_Conv | None], norms: list[Any]) -> Callable:
    """An interceptor that writes down calls, and marks what convolutions give."""
    place = {id(leaf): number for number, leaf in enumerate(leaves)}
    given: dict[int, tuple[int, Any]] = {}  # keeps what it knows by its id

    def found(kind: type, module: nn.Module, **more: Any) -> Any:
        arrays = {name: place.get(id(array)) for own in module.variables.values()
                  for name, array in own.items()}
        return None if None in arrays.values() else kind(**arrays, **more)

    def watch(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, layers.BatchNorm):
            norm = found(_Norm, module, eps=module.eps)
            norms.append((norm, given.get(id(args[0]), (None,))[0]))
        if not isinstance(module, layers.Conv):
            return call(*args, **kwargs)
        number = len(convs)
        convs.append(found(_Conv, module))
        out = checkpoint_name(call(*args, **kwargs), f"{_MARK}{number}")
        given[id(out)] = number, out
        return out

    return watch


def _reads(jaxpr: core.Jaxpr) -> Counter:
    """{number of a convolution: how often what it gives is read}; 1 of one that a norm alone reads.

    A program inside the program (a loop, a compiled part) counts by itself.
    """
    uses = Counter(v for eqn in jaxpr.eqns for v in eqn.invars if not isinstance(v, core.Literal))
    uses.update(v for v in jaxpr.outvars if not isinstance(v, core.Literal))
    found: Counter = Counter()
    for eqn in jaxpr.eqns:
        name = str(eqn.params.get("name", "")) if eqn.primitive.name == "name" else ""
        if name.startswith(_MARK):
            found[int(name.removeprefix(_MARK))] += uses[eqn.outvars[0]]
        for inner in _inside(eqn.params.values()):
            found.update(_reads(inner))
    return found


def _inside(values: Any) -> Iterator[core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inside(value)


def _put(leaves: list[Any], conv: _Conv, norm: _Norm) -> None:
    """Changes the arrays of one pair, computed in float64."""
    scale, bias, mean, var = (np.asarray(leaves[i], np.float64) for i in norm[:4])
    s = scale / np.sqrt(var + norm.eps)
    new = {i: np.asarray(leaves[i], np.float64) * s for i in conv if i >= 0}
    new |= {norm.scale: np.ones_like(s), norm.bias: bias - mean * s, norm.mean: np.zeros_like(s),
            norm.var: np.full_like(s, 1 - norm.eps)}
    for number, value in new.items():
        leaves[number] = value.astype(leaves[number].dtype)
