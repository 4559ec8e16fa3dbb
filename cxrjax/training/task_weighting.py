"""How the losses of several tasks become one update: learned uncertainty, gradient surgery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def uncertainty_weighting(
    losses: Mapping[str, Float[Array, "*s"]],
    log_vars: Mapping[str, Float[Array, ""]],
    present: Mapping[str, Float[Array, "*s"]] | None = None,
) -> Float[Array, "*s"]:
    """sum_i exp(-s_i) L_i + s_i / 2  with learned s_i = ln sigma_i^2 (Kendall et al., CVPR 2018).

    The form for classification (eq. 10), where L_i is a negative log-likelihood; the Dice loss is
    treated like one. s_i = 0 is the plain sum.

    Args:
      losses: per film or already averaged, by task.
      log_vars: s_i by task, learned along with the network.
      present: share of the films that have the task (per film: 1.0 or 0.0; see `present`). It
        scales s_i / 2, without which s_i would fall for ever on films that have no such label.
    """
    if set(losses) != set(log_vars):
        raise ValueError(f"losses of {sorted(losses)} but log variances of {sorted(log_vars)}")
    total = jnp.zeros_like(next(iter(losses.values())))
    for task, loss in losses.items():
        share = 1.0 if present is None else present[task]
        total += jnp.exp(-log_vars[task]) * loss + share * log_vars[task] / 2
    return total


def pcgrad(grads: Sequence[Any], rng: PRNGKeyArray) -> Any:
    """Gradient surgery: the sum of the task gradients after conflicts are projected away.

    Yu et al., NeurIPS 2020, algorithm 1: the gradient of each task i goes through the ORIGINAL
    gradients g_j of the others in random order; where their inner product is negative, its part
    along g_j is removed. Inner products run over the whole pytree.

    The projected gradients stay in the span of the originals, so only their coefficients are kept:
    the cost is one Gram matrix and one weighted sum, and no copy of the gradients is made.

    Args:
      grads: one pytree of gradients per task, all of the same structure.
      rng: key that orders the projections (it only matters from three tasks on).
    """
    count = len(grads)
    gram = jnp.stack([jnp.stack([_tree_dot(a, b) for b in grads]) for a in grads])

    def surgery(i: int, key: Array) -> Array:
        def project(coefficients: Array, j: Array) -> tuple[Array, None]:
            inner, norm = coefficients @ gram[:, j], gram[j, j]
            remove = (inner < 0) & (j != i)
            scale = jnp.where(remove, inner / jnp.where(norm > 0, norm, 1.0), 0.0)
            return coefficients.at[j].add(-scale), None

        start = jnp.zeros(count).at[i].set(1.0)
        return jax.lax.scan(project, start, jax.random.permutation(key, count))[0]

    keys = jax.random.split(rng, count)
    total = sum(surgery(i, keys[i]) for i in range(count))
    return jax.tree.map(
        lambda *leaves: sum(total[i].astype(leaf.dtype) * leaf for i, leaf in enumerate(leaves)),
        *grads,
    )


def _tree_dot(a: Any, b: Any) -> Array:
    dots = jax.tree.map(lambda x, y: jnp.vdot(x.astype(jnp.float32), y.astype(jnp.float32)), a, b)
    return sum(jax.tree.leaves(dots))
