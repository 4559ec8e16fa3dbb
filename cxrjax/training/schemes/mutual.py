"""Deep Mutual Learning: K networks on the same films, each taught by the labels and by its peers.

Zhang et al., CVPR 2018. With z_k the logits of network k in training mode, its loss on a batch is

    batch_mean( config.loss(z_k, y)  +  kl_weight * T^2 * mean_{j != k} KL(p_j || p_k) ),

p = softmax(z / T) of one-of-N labels, or sigmoids. No gradient reaches the peers j.

    config.scheme.networks     names, in the order of their updates
    config.scheme.order        'sequential': the networks are updated in turn, and each answers
                               again with its NEW weights before the next one is updated (the
                               paper's algorithm 1). 'simultaneous': all answer, all are updated.
    config.scheme.peers        'mean' over the K - 1 peers (the paper, eq. 9), or their 'sum' (the
                               authors' code)
    config.scheme.kl_weight, .temperature
    config.scheme.kl_labels    independent labels: 'mean' of their Bernoulli KLs, or 'sum'. Our
                               label losses are means over the labels; with 'mean' the objective is
                               therefore (sum of cross-entropies + sum of KLs) / number of labels.
    config.networks.<name>     model: {name, options}; optimizer: what differs from
                               config.optimizer; seed: of its initial weights and its dropout,
                               config.seed + 1000 k if left out; init_from: instead of
                               config.init_from. A second network of one architecture has a name
                               of its own ('resnet18_2').

Cost. No network answers twice with the same weights: its answer for the peers before it in the
order is the forward pass that its own gradient is later pulled back through (jax.vjp). Sequential:
K forward and backward passes and K - 1 further forward passes, (4K - 1) / 3 single steps at 2
forwards a backward: 7/3 for a pair. Simultaneous: K single steps. The price is memory: the saved
activations of all networks live together.

Randomness. The films, their order and their augmentation follow config.seed; the initial weights
and the dropout of a network follow its own seed, as they would if it were trained alone with that
seed. A network has one dropout key per step, for all its answers in that step; a shared forward
pass is so exactly what a repeated one would be. With kl_weight 0 each network is the one that
supervised training with its seed gives on these films.

A peer that only answers keeps its batch statistics: those of the pass that its gradient goes
through are kept, those of its other answers dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import FrozenConfigDict

from cxrjax.errors import UserError
from cxrjax.names import suggest
from cxrjax.training import losses, steps
from cxrjax.training.schemes._answers import mean_probability

FIELDS = ("networks", "order", "peers", "kl_weight", "temperature", "kl_labels")
EXAMPLE = "configs/chestxray14_mutual.py"
ENSEMBLE = "ensemble"
_CHOICES = {
    "order": ("sequential", "simultaneous"),
    "peers": ("mean", "sum"),
    "kl_labels": ("mean", "sum"),
}


class Network(NamedTuple):
    """One member of the cohort: options of its model and optimizer, and where it starts."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    seed: int
    init_from: str


def networks(config: Any) -> dict[str, Network]:
    """The cohort in the order of its updates.

    Raises:
      UserError: no network, a name twice, or a name without options in `config.networks`.
    """
    names, options = tuple(config.scheme.networks), dict(config.networks)
    if not names:
        raise UserError("config.scheme.networks is empty: name the networks of the cohort")
    for name in names:
        if names.count(name) > 1 or name == ENSEMBLE:
            raise UserError(
                f"config.scheme.networks: {name!r} cannot be the name of two networks: give the "
                f"second one another, as '{name}_2'"
            )
        if name not in options:
            raise UserError(f"config.networks has no {name!r}" + suggest(name, options))
    found = {}
    for k, name in enumerate(names):
        own = options[name]
        found[name] = Network(
            model=dict(own.model),
            optimizer={**dict(config.optimizer), **dict(own.get("optimizer") or {})},
            seed=own.get("seed", config.seed + 1000 * k),
            init_from=own.get("init_from", config.init_from),
        )
    return found


def make_models(config: Any) -> dict[str, nn.Module]:
    """{network name: its module}."""
    return {name: steps.make_model(config, net.model) for name, net in networks(config).items()}


def check(config: Any) -> None:
    """Raises UserError where an option of `config.scheme` is none."""
    for field, known in _CHOICES.items():
        if config.scheme[field] not in known:
            raise UserError(
                f"config.scheme.{field} = {config.scheme[field]!r}"
                + suggest(config.scheme[field], known)
            )
    if config.scheme.temperature <= 0:
        raise UserError("config.scheme.temperature must be above 0")


def init(config: Any, rng: Array, batch: steps.Batch) -> dict[str, steps.TrainState]:
    """{network name: its freshly initialised state}; `rng` is that of networks with config.seed."""
    check(config)
    states = {}
    for name, net in networks(config).items():
        key = rng if net.seed == config.seed else steps.keys_of(net.seed)[0]
        start = FrozenConfigDict({**config.to_dict(), "init_from": net.init_from})
        state = steps.create_state(start, key, batch, net.model, net.optimizer, name)
        # Copies: two networks that start equal must not share buffers, which are donated.
        states[name] = jax.tree.map(jnp.copy, state)
    return states


def divergence(
    config: Any, own: Float[Array, "b k"], peers: Sequence[Float[Array, "b k"]]
) -> Float[Array, " b"]:
    """T^2 KL(peer || own) of each film, over the peers as `config.scheme` says; 0 without peers.

    T^2 keeps the size of the gradient when the temperature T changes (Hinton et al. 2015).
    """
    scheme, total = config.scheme, jnp.zeros(own.shape[0])
    for peer in peers:
        peer = jax.lax.stop_gradient(peer)
        if config.task == "multilabel":
            per_label = losses.kl_bernoulli(peer, own, scheme.temperature)
            total += per_label.mean(-1) if scheme.kl_labels == "mean" else per_label.sum(-1)
        else:
            total += losses.kl_softmax(peer, own, scheme.temperature)
    if scheme.peers == "mean" and peers:
        total /= len(peers)
    return scheme.temperature**2 * total


def make_step(config: Any) -> Callable:
    """(states, batch, rng) -> (states, logs): one step of every network on one batch.

    logs: `loss` is the mean over the networks; `<network>/loss`, `/kl` (before its weight),
    `/grad_norm` and what the loss logs, for each of them.
    """
    check(config)
    cohort, loss_fn = networks(config), steps.make_loss(config)
    names = tuple(cohort)

    def step(states, batch, rng):
        now = states[names[0]].step
        augment_key, _ = jax.random.split(steps.step_key(rng, now))
        batch = steps.prepare_train(config, augment_key, batch)
        keys, answers, pull_backs, batch_stats = {}, {}, {}, {}
        for name, net in cohort.items():
            own = rng if net.seed == config.seed else steps.keys_of(net.seed)[1]
            _, keys[name] = jax.random.split(steps.step_key(own, now))
            state = states[name]
            answers[name], pull_backs[name], batch_stats[name] = jax.vjp(
                lambda params, s=state, k=keys[name]: steps.forward_train(
                    s, params, batch["image"], k
                ),
                state.params,
                has_aux=True,
            )

        states, logs = dict(states), {}
        # What each network's peers know of it: in sequential order this changes on the way.
        seen = {name: outputs["logits"] for name, outputs in answers.items()}
        for name in names:
            peers = [seen[other] for other in names if other != name]

            def objective(outputs, peers=peers):
                labels, log = loss_fn(outputs, batch)
                kl = divergence(config, outputs["logits"], peers)
                loss = losses.batch_mean(labels + config.scheme.kl_weight * kl, batch["weight"])
                return loss, {**log, "kl": losses.batch_mean(kl, batch["weight"])}

            gradient = jax.value_and_grad(objective, has_aux=True)
            (loss, log), cotangents = gradient(answers[name])
            (grads,) = pull_backs[name](cotangents)
            states[name] = states[name].apply_gradients(
                grads=grads, batch_stats=batch_stats[name]
            )
            if config.scheme.order == "sequential" and name != names[-1]:
                outputs, _ = steps.forward_train(
                    states[name], states[name].params, batch["image"], keys[name]
                )
                seen[name] = outputs["logits"]
            log = {**log, "loss": loss, "grad_norm": optax.global_norm(grads)}
            logs.update({f"{name}/{key}": value for key, value in log.items()})
        logs["loss"] = sum(logs[f"{name}/loss"] for name in names) / len(names)
        return states, logs

    return step


def make_predict(config: Any) -> Callable:
    """(states, image) -> {network name: outputs} in evaluation mode, and their 'ensemble'.

    The ensemble's probabilities are the mean of the networks' probabilities.
    """
    models = make_models(config)

    def predict(states, image):
        image = steps.prepare_eval(config, image)
        outputs = {n: steps.forward_eval(m, states[n], image) for n, m in models.items()}
        if len(outputs) > 1:
            logits = jnp.stack([out["logits"] for out in outputs.values()])
            outputs[ENSEMBLE] = {"logits": mean_probability(logits, config.task)}
        return outputs

    return predict
