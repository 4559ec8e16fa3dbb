"""The part of a network after its last map, found in the computation itself.

Gradient heat maps need `head_fn: features -> logits`, the network from its last map on. Every
network reports that map in its outputs, so the head need not be asked for: it is what lies between
`features` and `logits` in the traced computation. This holds for any network, a user's own and an
answer merged out of several networks included, whatever its head looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax import Array
from jax.extend.core import Literal

Head = Callable[[Array], Array]


def cut(
    forward: Callable[[Array], tuple[Array, Sequence[Array], Any]], image: Array
) -> tuple[Array, list[Array], list[Head | None], Any]:
    """Runs `forward` once and cuts it at each of the maps that it reports.

    Args:
      forward: image -> (logits, maps, anything else), traceable; the logits are computed from the
        very arrays that it returns as maps.
      image: what it takes.

    Returns:
      logits, maps, for each map the function map -> logits with all else as it was for this image
      (of a network with two branches the other branch stays), and what else `forward` returned. In
      place of the function stands None for a map that the logits do not depend on; a compiled
      function inside `forward` hides what happens in it.
    """
    closed, shapes = jax.make_jaxpr(forward, return_shape=True)(image)
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, image]))
    _run(jaxpr.eqns, values)
    logits, maps, _ = jax.tree.unflatten(jax.tree.structure(shapes), jaxpr.outvars)

    def head_after(at: Any) -> Head | None:
        changed, tail = {at}, []
        for equation in jaxpr.eqns:
            if any(not isinstance(v, Literal) and v in changed for v in equation.invars):
                tail.append(equation)
                changed.update(equation.outvars)
        if logits not in changed:
            return None

        def head_fn(features: Array) -> Array:
            replaced = {**values, at: features}
            _run(tail, replaced)
            return replaced[logits]

        return head_fn

    more = [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]
    more = jax.tree.unflatten(jax.tree.structure(shapes), more)[2]
    return values[logits], [values[m] for m in maps], [head_after(m) for m in maps], more


def _run(equations: Iterable[Any], values: dict[Any, Array]) -> None:
    """Computes the equations in order; `values` holds what is known and gains what they give."""
    for equation in equations:
        inputs = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        primitive = equation.primitive
        outputs = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
        values.update(
            zip(equation.outvars, outputs if primitive.multiple_results else [outputs])
        )
