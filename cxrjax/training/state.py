"""What a network in training is, and what is left of it for prediction."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state

from cxrjax.training import finetune


class TrainState(train_state.TrainState):
    """Flax's TrainState with batch statistics and, where asked for, an EMA of the weights.

    `batch_stats` is {} for networks without batch norm; `ema_params` is None without EMA; of what
    `freeze` names (see `finetune`) the running statistics stay as well.
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
        parts = new.opt_state if isinstance(new.opt_state, optax.MultiStepsState) else None
        t = (self.step if parts is None else parts.gradient_step - 1).astype(jnp.float32)
        decay = jnp.minimum(self.ema_decay, (1.0 + t) / (10.0 + t))
        if parts is not None:  # between two updates it stays
            decay = jnp.where(parts.mini_step == 0, decay, 1.0)
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, self.ema_params, new.params)
        return new.replace(ema_params=ema)


class EvalState(flax.struct.PyTreeNode):
    """What is left of a TrainState for prediction: restored without the optimizer."""

    params: Any
    batch_stats: Any
    ema_params: Any = None
