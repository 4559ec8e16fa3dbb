"""Label groups: a classifier for each group of labels, all trained together, one merged answer.

    config.scheme.kind        'separate': a whole network for each group; the networks share films
                              and nothing else. 'branches': one trunk, and a branch for each group
                              (`models/branched.py`), `branch_width` channels wide.
    config.scheme.groups      names of the labels of each group, or () to find them
    config.scheme.clustering  how they are found: 'cooccurrence' of the labels of the TRAINING
                              films, or 'features' that the classifiers of a trained network look
                              for (`workdir`, its `checkpoint`)
    config.scheme.number      of groups to find

Groups that were found are part of the completed config (`config.scheme.found`), so that evaluation
needs neither the training labels nor the other run. Only the merged answer is evaluated, under the
name 'merged'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float
from ml_collections import FrozenConfigDict

from cxrjax.data import input_pipeline
from cxrjax.errors import UserError
from cxrjax.models import groups
from cxrjax.names import suggest
from cxrjax.training import restored, steps

FIELDS = ("kind", "groups")
EXAMPLE = "configs/chestxray14_grouped.py"
FOUND = ("scheme.found",)
MERGED = "merged"
KINDS = ("separate", "branches")
CLUSTERINGS = ("cooccurrence", "features")


class Part(NamedTuple):
    """One network: the labels that it answers to, by position, and a config for it alone."""

    positions: tuple[int, ...]
    config: Any


def complete(config: Any, films: Any) -> dict[str, Any]:
    """The groups, checked where they are given and found where they are not.

    Raises:
      UserError: an unknown option, one-of-N labels, or groups that do not partition the labels.
    """
    scheme = config.scheme
    if scheme.kind not in KINDS:
        raise UserError(f"config.scheme.kind = {scheme.kind!r}" + suggest(scheme.kind, KINDS))
    if films.task != "multilabel":
        raise UserError(
            f"scheme 'grouped' is for independent labels, and {config.dataset.name} is {films.task}"
        )
    if scheme.groups:
        groups.positions(scheme.groups, films.labels)
        return {"scheme": {"found": ()}}
    found = _find(config, films)
    logging.info("label groups: %s", "; ".join(", ".join(group) for group in found))
    return {"scheme": {"found": found}}


def _find(config: Any, films: Any) -> tuple[tuple[str, ...], ...]:
    scheme = config.scheme
    if scheme.clustering == "cooccurrence":
        labels = input_pipeline.labels_of(films, films.splits["train"])
        return groups.by_cooccurrence(labels, films.labels, scheme.number, config.seed)
    if scheme.clustering == "features":
        vectors = classifier_vectors(scheme.workdir, scheme.checkpoint, films.labels)
        return groups.by_features(vectors, films.labels, scheme.number, config.seed)
    raise UserError(
        f"config.scheme.groups is empty and config.scheme.clustering = {scheme.clustering!r}"
        + suggest(scheme.clustering, CLUSTERINGS)
    )


def classifier_vectors(
    workdir: str, which: str, labels: tuple[str, ...]
) -> Float[np.ndarray, "k d"]:
    """What each label's classifier of a trained network looks for: the columns of its last layer.

    Of several networks, or heads, the columns stand side by side.

    Raises:
      UserError: the run answers to other labels, or ends in no linear layer with one column each.
    """
    if not workdir:
        raise UserError("config.scheme.workdir is empty: clustering by features needs a training")
    run = restored.restore(workdir, which)
    if tuple(run.meta["labels"]) != tuple(labels):
        raise UserError(
            f"the run in {workdir} answers to {', '.join(run.meta['labels'])}, the films have "
            f"{', '.join(labels)}"
        )
    kernels = []
    for state in run.states.values():
        params = state.params if state.ema_params is None else state.ema_params
        for path, leaf in flax.traverse_util.flatten_dict(params).items():
            if path[-1] == "kernel" and leaf.ndim == 2 and leaf.shape[1] == len(labels):
                kernels.append(np.asarray(leaf, np.float64))
    if not kernels:
        raise UserError(
            f"the run in {workdir} has no linear layer with a column for each of {len(labels)} "
            "labels: take one of scheme 'supervised'"
        )
    return np.concatenate(kernels).T


def parts(config: Any) -> dict[str, Part]:
    """The networks by name: 'group1', ... of kind 'separate', 'merged' of kind 'branches'."""
    positions = groups.positions(config.scheme.groups or config.scheme.found, config.labels)
    fields = config.to_dict()
    if config.scheme.kind == "branches":
        model = {
            **fields["model"],
            "name": "branched",
            "trunk": config.model.name,
            "positions": positions,
            "branch_width": config.scheme.branch_width,
        }
        # A run or file to start from is that of the trunk: see `init`.
        own = FrozenConfigDict({**fields, "model": model, "init_from": ""})
        return {MERGED: Part(tuple(range(len(config.labels))), own)}
    found = {}
    for number, group in enumerate(positions, start=1):
        loss = {
            option: tuple(value[i] for i in group)
            if isinstance(value, list | tuple) and len(value) == len(config.labels) else value
            for option, value in fields["loss"].items()
        }
        labels = tuple(config.labels[i] for i in group)
        own = FrozenConfigDict({**fields, "labels": labels, "loss": loss})
        found[f"group{number}"] = Part(group, own)
    return found


def make_models(config: Any) -> dict[str, nn.Module]:
    """{network name: its module}; a group's network has the logits of its labels alone."""
    return {n: steps.make_model(p.config, dict(p.config.model)) for n, p in parts(config).items()}


def init(config: Any, rng: Array, batch: steps.Batch) -> dict[str, steps.TrainState]:
    """{network name: its freshly initialised state}, each from a key of its own.

    `config.init_from` gives each separate network all but its last layer where labels differ, and
    branches their trunk.
    """
    states = {
        name: steps.create_state(part.config, jax.random.fold_in(rng, number), batch, name=name)
        for number, (name, part) in enumerate(parts(config).items())
    }
    if config.scheme.kind == "branches" and config.init_from:
        trunk = steps.create_state(config, rng, batch)
        states[MERGED] = _graft(states[MERGED], trunk)
    return states


def _graft(state: steps.TrainState, trunk: steps.TrainState) -> steps.TrainState:
    """The state with the encoder of another one."""
    params = {**state.params, "encoder": trunk.params["encoder"]}
    batch_stats = dict(state.batch_stats)
    if "encoder" in trunk.batch_stats:
        batch_stats["encoder"] = trunk.batch_stats["encoder"]
    ema = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    # Some optimizers begin with the weights (schedule-free ones).
    opt_state = state.tx.init(params)
    return state.replace(params=params, batch_stats=batch_stats, ema_params=ema,
                         opt_state=opt_state)


def make_step(config: Any) -> Callable:
    """(states, batch, rng) -> (states, logs): one step of every network on one batch.

    logs: those of each network as `<network>/<what>`, and `loss`, their mean weighted by the
    labels that each answers to.
    """
    cohort = parts(config)
    loss_fns = {name: steps.make_loss(part.config) for name, part in cohort.items()}
    total = len(config.labels)

    def step(states, batch, rng):
        now = next(iter(states.values())).step
        augment_key, dropout_key = jax.random.split(steps.step_key(rng, now))
        batch = steps.prepare_train(config, augment_key, batch)
        new, logs, loss = {}, {}, 0.0
        for number, (name, part) in enumerate(cohort.items()):
            own = {**batch, "label": batch["label"][:, list(part.positions)]}
            key = jax.random.fold_in(dropout_key, number)
            new[name], log = steps.update(states[name], own, key, loss_fns[name])
            logs.update({f"{name}/{what}": value for what, value in log.items()})
            loss += len(part.positions) / total * log["loss"]
        return new, {**logs, "loss": loss}

    return step


def make_predict(config: Any) -> Callable:
    """(states, image) -> {'merged': outputs} in evaluation mode, labels in their own order.

    Of separate networks `features` are {network: its last map}; branches give all their outputs.
    """
    cohort, models = parts(config), make_models(config)
    positions = tuple(part.positions for part in cohort.values())

    def predict(states: Mapping[str, Any], image: Array) -> dict[str, Any]:
        image = steps.prepare_eval(config, image)
        outputs = {n: steps.forward_eval(m, states[n], image) for n, m in models.items()}
        if config.scheme.kind == "branches":
            return outputs
        logits = groups.merge([out["logits"] for out in outputs.values()], positions)
        features = {name: out["features"] for name, out in outputs.items()}
        return {MERGED: {"logits": logits, "features": features}}

    return predict
