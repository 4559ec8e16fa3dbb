"""A linear head on a frozen network: films are read and encoded once, the head learns from that.

What the head reads (`embed`: the pooled map, or a transformer's pooled token) is computed for every
training and validation film before the first step, in evaluation mode and without augmentation,
and kept in memory; a step costs one product of matrices. What is saved is the whole network, so
that evaluation, prediction and explanation see no difference from a supervised run.

The usual judgement of a pre-trained encoder (Oquab et al. 2024, DINOv2, arXiv:2304.07193,
section 7.1; Pérez-García et al. 2025, RAD-DINO, arXiv:2401.10815, on chest films).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from cxrjax.data import input_pipeline, progress
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.training import losses, steps
from cxrjax.training.schemes import supervised

HEAD = "head"


class Encoded:
    """A source whose films, where they were encoded, are their vectors, as maps f32[1, 1, d]."""

    def __init__(self, source: Any, vectors: Mapping[int, Mapping[str, Any]]):
        self._source, self._vectors = source, vectors

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._vectors[index] if index in self._vectors else self._source[index]


def complete(config: Any, films: Films) -> dict[str, Any]:
    """Nothing to add; refuses what would be without effect.

    Raises:
      UserError: frozen parts named beside the encoder, or a network with a decoder.
    """
    if config.optimizer.get("freeze"):
        raise UserError(
            "scheme 'linear_probe' trains the head alone: leave config.optimizer.freeze empty"
        )
    if "num_masks" in config.model:
        raise UserError(
            f"config.scheme 'linear_probe' trains no decoder: choose "
            f"{config.model.get('encoder', 'a classifier')} instead of {config.model.name}"
        )
    return {}


def make_models(config: Any) -> dict[str, Any]:
    """{network name: its module}."""
    return supervised.make_models(config)


def init(config: Any, rng: jax.Array, batch: steps.Batch) -> dict[str, steps.TrainState]:
    """{network name: its state}, all but the head frozen."""
    options = {**dict(config.optimizer), "freeze": ("encoder",)}
    name = supervised.name_of(config)
    return {name: steps.create_state(config, rng, batch, optimizer_options=options)}


def prepare(config: Any, films: Films, states: Any, mesh: jax.sharding.Mesh) -> Films:
    """The films with those of training and validation encoded, which is done here and once."""
    name = supervised.name_of(config)
    model, state = steps.make_model(config, dict(config.model)), states[name]

    def embed(states: Any, image: Any) -> dict[str, dict[str, Any]]:
        variables = {"params": states.params, "batch_stats": states.batch_stats}
        image = steps.prepare_eval(config, image)
        return {name: {"vector": model.apply(variables, image, method="embed")}}

    compiled = steps.jit_predict(embed, mesh, ("vector",))
    positions = np.concatenate([films.splits["train"], films.splits["val"]])
    size = config.eval_batch_size
    batches = input_pipeline.eval_batches(films, positions, size, config.threads)
    kept: dict[int, Any] = {}
    total = -(-len(positions) // size)
    for batch, ids in progress.of(batches, "encoding", total, "batch"):
        out = steps.ask(compiled, state, batch["image"], mesh)
        vectors = np.asarray(out[name]["vector"], np.float32)
        for vector, label, film in zip(vectors, batch["label"], ids):
            position = int(positions[len(kept)])
            kept[position] = {"image": vector[None, None], "label": label, "id": film}
    return dataclasses.replace(films, source=Encoded(films.source, kept), masks=())


def _is_vector(image: Any) -> bool:
    return image.shape[1:3] == (1, 1) and image.dtype == np.float32


def make_step(config: Any) -> Callable:
    """(states, batch, rng) -> (states, logs): one gradient step of the head on encoded films."""
    name, loss_fn = supervised.name_of(config), steps.make_loss(config)
    model = steps.make_model(config, dict(config.model))

    def step(states, batch, rng):
        state = states[name]
        _, dropout_key = jax.random.split(steps.step_key(rng, state.step))

        def objective(head):
            variables = {"params": {**state.params, HEAD: head}, "batch_stats": state.batch_stats}
            logits = model.apply(
                variables, batch["image"], True, method="classify", rngs={"dropout": dropout_key}
            )
            film_losses, logs = loss_fn({"logits": logits}, batch)
            return losses.batch_mean(film_losses, batch["weight"]), logs

        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, logs), grads = gradient(state.params[HEAD])
        zeros = jax.tree.map(jax.numpy.zeros_like, state.params)
        state = state.apply_gradients(grads={**zeros, HEAD: grads})
        return {name: state}, {**logs, "loss": loss, "grad_norm": optax.global_norm(grads)}

    return step


def make_predict(config: Any) -> Callable:
    """(states, image) -> {network name: outputs} in evaluation mode, of films or of what `prepare`
    made of them."""
    name, model = supervised.name_of(config), steps.make_model(config, dict(config.model))
    whole = supervised.make_predict(config)

    def predict(states, image):
        if not _is_vector(image):
            return whole(states, image)
        state = states[name]
        params = state.params if state.ema_params is None else state.ema_params
        run = functools.partial(model.apply, method="classify")
        logits = run({"params": params, "batch_stats": state.batch_stats}, image, False)
        return {name: {"logits": logits}}

    return predict
