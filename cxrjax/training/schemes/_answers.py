"""One answer out of several networks' answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_probability(
    logits: Float[Array, "r b k"], task: str, temperature: float | int = 1.0
) -> Float[Array, "b k"]:
    """Logits whose probabilities are the mean of the members' probabilities.

    Probabilities are those of logits / temperature: sigmoids for 'multilabel', the softmax for
    'multiclass'. The mean is taken in logarithms, so that nothing saturates. The result is on the
    members' scale (to be divided by the temperature again); a single member comes back as it is.
    """
    members = logits.shape[0]
    if members == 1:
        return logits[0]
    z = logits / temperature
    if task == "multilabel":
        log_sum = jax.nn.logsumexp
        mean = log_sum(jax.nn.log_sigmoid(z), 0) - log_sum(jax.nn.log_sigmoid(-z), 0)
    else:
        mean = jax.nn.logsumexp(jax.nn.log_softmax(z), 0) - jnp.log(members)
    return temperature * mean
