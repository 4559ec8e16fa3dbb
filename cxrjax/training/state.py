"""What a network in training is, what is left of it for prediction, and both as plain trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.serialization
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

from cxrjax.training import finetune


class TrainState(train_state.TrainState):
    """Flax's TrainState with batch statistics and, where asked for, an EMA of the weights.

    `batch_stats` is {} for networks without batch norm; `ema_params`, with which a network is
    evaluated, is None without EMA, and what the optimizer says where it averages the weights itself
    (see `averaged`); of what `freeze` names (see `finetune`) the running statistics stay as well.
    """

    # Looser types than flax's: init gives a dict, and trees of other leaves pass through here too.
    step: Any
    params: Any = flax.struct.field(pytree_node=True)
    batch_stats: Any = None
    ema_params: Any = None
    ema_decay: float = flax.struct.field(pytree_node=False, default=0.0)
    freeze: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

    def apply_gradients(self, *, grads: Any, **kwargs: Any) -> TrainState:
        """One optimizer update, or a part of one under accumulation; the EMA follows new weights.

        The decay of update t is min(ema_decay, (1 + t) / (10 + t)), so that the first ones do not
        drag the initial weights along (as tf.train.ExponentialMovingAverage with num_updates).
        """
        new = super().apply_gradients(grads=grads, **kwargs)
        if self.freeze:
            stats = finetune.keep_statistics(self.batch_stats, new.batch_stats, self.freeze)
            new = new.replace(batch_stats=stats)
        if self.ema_params is None:
            return new
        average = averaged(new.opt_state, new.params)
        if average is not None:
            return new.replace(ema_params=average)
        parts = new.opt_state if isinstance(new.opt_state, optax.MultiStepsState) else None
        t = (self.step if parts is None else parts.gradient_step - 1).astype(jnp.float32)
        decay = jnp.minimum(self.ema_decay, (1.0 + t) / (10.0 + t))
        if parts is not None:  # between two updates it stays
            decay = jnp.where(parts.mini_step == 0, decay, 1.0)
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, self.ema_params, new.params)
        return new.replace(ema_params=ema)


def averaged(opt_state: Any, params: Any) -> Any:
    """The weights to evaluate of a schedule-free optimizer; None of any other one.

    It trains y = (1 - b1) z + b1 x and means x, the average of z (Defazio et al. 2024,
    arXiv:2405.15682, eq. 2 to 4): x = (y - (1 - b1) z) / b1, as `optax.contrib` gives it. What is
    frozen has no z and stays.
    """
    def own(node: Any) -> bool:
        return {"b1", "weight_sum", "z"} <= set(getattr(node, "_fields", ()))

    found = [node for node in jax.tree.leaves(opt_state, is_leaf=own) if own(node)]
    if not found:
        return None
    b1 = found[0].b1

    def mean(y: Any, z: Any) -> Any:
        return y if isinstance(z, optax.MaskedNode) else (y - (1.0 - b1) * z) / b1

    return jax.tree.map(mean, params, found[0].z)


class EvalState(flax.struct.PyTreeNode):
    """What is left of a TrainState for prediction: restored without the optimizer."""

    params: Any
    batch_stats: Any
    ema_params: Any = None


_PREDICTS = ("params", "batch_stats", "ema_params")  # of a state, what prediction needs


def to_tree(states: Any) -> dict[str, Any]:
    """States as nested dictionaries of arrays, without empty nodes."""
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(states))
    return flax.traverse_util.unflatten_dict({k: v for k, v in flat.items() if v is not None})


def from_tree(states: Any, tree: Mapping[str, Any]) -> Any:
    """The inverse of `to_tree`, into the structure of `states`."""
    flat = flax.traverse_util.flatten_dict(
        flax.serialization.to_state_dict(states), keep_empty_nodes=True
    )
    restored = flax.traverse_util.flatten_dict(tree)
    return flax.serialization.from_state_dict(
        states, flax.traverse_util.unflatten_dict({k: restored.get(k, v) for k, v in flat.items()})
    )


def for_prediction(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Weights, batch statistics and averages of the networks among the states of `to_tree`."""
    return {
        name: {part: own[part] for part in _PREDICTS if part in own}
        for name, own in tree.items() if "params" in own
    }


def of_this_process(array: Any) -> Any:
    """Of an array that every device of several processes has whole a copy on the host."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(array)
    return array
