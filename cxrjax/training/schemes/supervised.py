"""One network trained on its labels: the baseline that every other scheme is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from cxrjax.training import steps

SEEDS = True  # the step knows no seed but its key: see `training.seeds`


def name_of(config: Any) -> str:
    """The name under which the network's predictions are reported."""
    return config.model.name.rpartition(":")[2]


def make_models(config: Any) -> dict[str, nn.Module]:
    """{network name: its module}."""
    return {name_of(config): steps.make_model(config, dict(config.model))}


def init(config: Any, rng: Array, batch: steps.Batch) -> dict[str, steps.TrainState]:
    """{network name: its freshly initialised state}; see `steps.create_state`."""
    return {name_of(config): steps.create_state(config, rng, batch)}


def make_step(config: Any) -> Callable:
    """(states, batch, rng) -> (states, logs): one gradient step on `config.loss`."""
    name, loss_fn = name_of(config), steps.make_loss(config)

    def step(states, batch, rng):
        state = states[name]
        augment_key, dropout_key = jax.random.split(steps.step_key(rng, state.step))
        batch = steps.prepare_train(config, augment_key, batch)
        state, logs = steps.update(state, batch, dropout_key, loss_fn)
        return {name: state}, logs

    return step


def make_predict(config: Any) -> Callable:
    """(states, image) -> {network name: outputs} in evaluation mode."""
    ((name, model),) = make_models(config).items()

    def predict(states, image):
        return {name: steps.forward_eval(model, states[name], steps.prepare_eval(config, image))}

    return predict
