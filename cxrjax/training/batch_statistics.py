"""Batch statistics of films as they are, with the weights that are evaluated and nothing dropped.

The statistics are those of all films together ("precise" batch normalisation, Wu & Johnson 2021,
arXiv:2105.07576): the mean of the batches' means, and the mean of their variances plus the variance
of their means. `--mode=recalibrate` computes them of a trained run, `config.recalibrate` while one
trains: at every validation, so that the checkpoint is chosen by what is evaluated later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cxrjax.data.sets.base import Films
from cxrjax.models.layers import DropPath
from cxrjax.names import scheme_of
from cxrjax.training import finetune, steps

FILMS = 1024  # at most: the statistics of more are the same to a percent


def some(number: int) -> np.ndarray:
    """Positions of at most FILMS of `number` films, drawn the same way each time."""
    order = np.random.default_rng(0).permutation(number)
    return order[:FILMS]


def _passed_on(
    call: Callable, args: tuple, kwargs: dict[str, Any], context: Any
) -> Any:
    """What drops nothing: dropout and drop path hand on what they are given, as in evaluation."""
    if isinstance(context.module, nn.Dropout | DropPath) and context.method_name == "__call__":
        return args[0] if args else kwargs["inputs"]
    return call(*args, **kwargs)


def moved(apply: Callable) -> Callable:
    """(params, running averages, image f32[B, H, W, C]) -> the averages after this batch."""

    def after(params, start, image):
        variables = {"params": params, "batch_stats": start}
        rngs = {"dropout": jax.random.key(0)}
        with nn.intercept_methods(_passed_on):
            return apply(variables, image, train=True, mutable=["batch_stats"], rngs=rngs)[1][
                "batch_stats"
            ]

    return after


class Statistics:
    """Sums of one network's batch means and variances, and their squares.

    A running average moves by a share of the way to the batch's value. From zero it shows that
    share of the value; from one it shows the share itself. No layer needs to be asked.
    """

    def __init__(self, apply: Callable, state: Any, compiled: Callable | None = None):
        params = state.params if state.ema_params is None else state.ema_params
        self._zero = jax.tree.map(jnp.zeros_like, state.batch_stats)
        self._moved = functools.partial(compiled or jax.jit(moved(apply)), params)
        self._share = None
        self._sum = self._squares = self._zero
        self._count = 0

    def add(self, image: Any) -> None:
        """Counts one batch f32[B, H, W, C], standardised."""
        new = self._moved(self._zero, image)
        if self._share is None:
            one = self._moved(jax.tree.map(jnp.ones_like, self._zero), image)
            self._share = jax.tree.map(lambda a, b: 1.0 - (b - a), new, one)
        value = jax.tree.map(jnp.divide, new, self._share)
        self._sum = jax.tree.map(jnp.add, self._sum, value)
        self._squares = jax.tree.map(lambda s, v: s + v * v, self._squares, value)
        self._count += 1

    def result(self) -> Any:
        """Mean and variance over all films, as batch_stats."""
        mean = jax.tree.map(lambda s: s / self._count, self._sum)
        spread = jax.tree.map(lambda q, m: q / self._count - m * m, self._squares, mean)
        flat, between = map(flax.traverse_util.flatten_dict, (mean, spread))
        return flax.traverse_util.unflatten_dict({
            key: value + jnp.maximum(between[(*key[:-1], "mean")], 0.0)
            if key[-1] == "var" else value for key, value in flat.items()
        })


def as_they_are(states: Any) -> Any:
    """The states with the running averages of the training."""
    return states


class OfTrainingFilms:
    """states -> states whose batch statistics are those of training films as they are.

    Networks without batch normalisation stay as they are. `said` is what reports say of it.

    Args:
      config: completed.
      films: the opened data set.
    """

    def __init__(self, config: Any, films: Films):
        chosen = films.splits["train"][some(len(films.splits["train"]))]
        size = config.batch_size
        whole = len(chosen) // size * size  # what is left over is left out
        self._config, self._films, self._batches = config, films, chosen[:whole].reshape(-1, size)
        self._models = scheme_of(config).make_models(config)
        self._compiled = {name: jax.jit(moved(m.apply)) for name, m in self._models.items()}
        self.said = f"batch statistics of {whole:,} films of the training split as they are"

    def __call__(self, states: Any) -> Any:
        sums = {
            name: Statistics(model.apply, states[name], self._compiled[name])
            for name, model in self._models.items()
            if name in states and getattr(states[name], "batch_stats", None)
        }
        for batch in self._batches if sums else ():
            image = np.stack([self._films.source[int(i)]["image"] for i in batch])
            shown = steps.prepare_eval(self._config, jnp.asarray(image))
            for own in sums.values():
                own.add(shown)
        return {name: _with(state, sums[name].result()) if name in sums else state
                for name, state in states.items()}


def _with(state: Any, batch_stats: Any) -> Any:
    """The state with new statistics; those of what is frozen stay."""
    kept = finetune.keep_statistics(state.batch_stats, batch_stats, state.freeze)
    return state.replace(batch_stats=kept)
