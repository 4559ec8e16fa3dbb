"""When a training stops before its end: on request, and when its numbers are not finite."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def sound(states: Any) -> jax.Array:
    """bool[]: every weight of the states is finite, and nothing else in them is NaN."""
    # An optimizer's state may begin with an infinity.
    weights = [state.params for state in states.values() if hasattr(state, "params")]
    good = [jnp.isfinite(x).all() for x in jax.tree.leaves(weights)]
    numbers = [x for x in jax.tree.leaves(states) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack(good + [~jnp.isnan(x).any() for x in numbers]).all()


def fault_of(logs: Mapping[str, Any], states: Any = None) -> str:
    """What a call left that is not finite, in words; '' where all is well.

    Args:
      logs: of the call: losses and gradient norms.
      states: after it; None to judge by the logs alone. They are needed before a save, because the
        loss is that of the weights before the last update.
    """
    found = {k: np.asarray(v) for k, v in jax.device_get(dict(logs)).items()}
    for what in ("loss", "grad_norm"):
        for key, values in found.items():
            if key.rpartition("/")[2] == what and not np.isfinite(values).all():
                return f"the {key} is {values[~np.isfinite(values)].flat[0]}"
    return "" if states is None or sound(states) else "the weights are not finite"


class StopRequest:
    """Ctrl-C or SIGTERM, kept until the step is done: half a step is no state to save.

    `with StopRequest() as stop`: signals do in it what is said here, and after it what they did
    before. A second Ctrl-C ends the process as usual.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        self.forget()

    def _note(self, *_: Any) -> None:
        self.requested = True
        self.forget()

    def forget(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
