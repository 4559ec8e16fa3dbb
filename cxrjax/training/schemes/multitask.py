"""One network, two tasks: what the classification and the Dice loss each contribute to a step.

    config.scheme.balance  'fixed'        config.loss's ce_weight and dice_weight, as in supervised
                                          training (report A: 1 and 0.01)
                           'uncertainty'  learned log variances s: sum of exp(-s) L + s / 2 (Kendall
                                          et al., CVPR 2018); they start at -ln(weight), that is at
                                          the fixed weights
                           'pcgrad'       gradient surgery (Yu et al., NeurIPS 2020) between the
                                          gradients of the weighted losses

Films without a mask add nothing to the Dice loss and its gradient. A batch in which no film has one
is a batch of plain classification.

The surgery is done on shared parameters. Which ones are shared is seen from the gradients: an array
that only one task reaches (a decoder's, a head's) takes that task's gradient as it is. Counted in,
the decoder would be moved by projections that have nothing to do with it, and its gradients would
shrink every projection in the trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from cxrjax.errors import UserError
from cxrjax.names import suggest
from cxrjax.training import losses, steps, task_weighting
from cxrjax.training.schemes import supervised

FIELDS = ("balance",)
EXAMPLE = "configs/covid_radiography.py"
BALANCES = ("fixed", "uncertainty", "pcgrad")
SEEDS = True  # the step knows no seed but its key: see `training.seeds`
LOG_VARS = "log_vars"  # beside the network's own parameters: saved and optimised with them

make_models = supervised.make_models
make_predict = supervised.make_predict


def make_loss(config: Any) -> losses.LossFn:
    """`config.loss`, held to be one whose tasks can be balanced.

    Raises:
      UserError: an unknown balance, or nothing to balance.
    """
    balance, loss = config.scheme.balance, steps.make_loss(config)
    if balance not in BALANCES:
        raise UserError(f"config.scheme.balance = {balance!r}" + suggest(balance, BALANCES))
    weights = getattr(loss, "weights", {})
    if balance != "fixed" and not (weights.get("class", 0) > 0 and weights.get("dice", 0) > 0):
        raise UserError(
            f"config.scheme.balance = {balance!r} needs two tasks: set config.loss.ce_weight and "
            "config.loss.dice_weight above 0"
        )
    return loss


def init(config: Any, rng: Array, batch: steps.Batch) -> dict[str, steps.TrainState]:
    """{network name: its freshly initialised state}, with the log variances where they are used."""
    loss = make_loss(config)
    states = supervised.init(config, rng, batch)
    if config.scheme.balance != "uncertainty":
        return states
    ((name, state),) = states.items()

    def with_log_vars(params):
        start = {t: -jnp.log(jnp.asarray(w, jnp.float32)) for t, w in loss.weights.items()}
        return {**params, LOG_VARS: start}

    params = with_log_vars(state.params)
    ema = None if state.ema_params is None else with_log_vars(state.ema_params)
    return {name: state.replace(params=params, ema_params=ema, opt_state=state.tx.init(params))}


def make_step(config: Any) -> Callable:
    """(states, batch, rng) -> (states, logs): one step on both tasks.

    logs: loss, loss_class, loss_dice, grad_norm; weight_<task> (uncertainty), or cosine: of the
    angle between the tasks' gradients over the shared parameters (pcgrad).
    """
    loss = make_loss(config)
    if config.scheme.balance == "fixed":
        return supervised.make_step(config)
    name = supervised.name_of(config)
    gradients = _by_uncertainty if config.scheme.balance == "uncertainty" else _by_surgery

    def step(states, batch, rng):
        state = states[name]
        augment_key, key = jax.random.split(steps.step_key(rng, state.step))
        batch = steps.prepare_train(config, augment_key, batch)
        grads, batch_stats, logs = gradients(state, batch, key, loss)
        state = state.apply_gradients(grads=grads, batch_stats=batch_stats)
        return {name: state}, {**logs, "grad_norm": optax.global_norm(grads)}

    return step


def _task_losses(state, params, batch, key, loss):
    """Unweighted losses f32[B] by task, their means for the logs, the new batch statistics."""
    outputs, batch_stats = steps.forward_train(state, params, batch["image"], key)
    films = loss.tasks(outputs, batch)
    if set(films) != set(loss.weights):
        raise UserError(
            "config.scheme.balance needs a network with a decoder, as resunet; "
            "config.scheme.balance='fixed' trains any"
        )
    means = {task: losses.batch_mean(x, batch["weight"]) for task, x in films.items()}
    return films, means, batch_stats


def _by_uncertainty(state, batch, key, loss):
    def objective(params):
        films, means, batch_stats = _task_losses(state, params, batch, key, loss)
        total = task_weighting.uncertainty_weighting(films, params[LOG_VARS], losses.present(batch))
        return losses.batch_mean(total, batch["weight"]), (means, batch_stats)

    gradient = jax.value_and_grad(objective, has_aux=True)
    (total, (means, batch_stats)), grads = gradient(state.params)
    weights = {f"weight_{t}": jnp.exp(-s) for t, s in state.params[LOG_VARS].items()}
    logs = {**{f"loss_{t}": x for t, x in means.items()}, **weights, "loss": total}
    return grads, batch_stats, logs


def _by_surgery(state, batch, key, loss):
    def objective(params):
        _, means, batch_stats = _task_losses(state, params, batch, key, loss)
        return {t: loss.weights[t] * x for t, x in means.items()}, (means, batch_stats)

    weighted, pull_back, (means, batch_stats) = jax.vjp(objective, state.params, has_aux=True)
    one_task = [{t: jnp.float32(t == task) for t in weighted} for task in weighted]
    by_task = [pull_back(cotangent)[0] for cotangent in one_task]
    grads, cosine = surgery(by_task, jax.random.fold_in(key, 1))
    logs = {f"loss_{t}": x for t, x in means.items()}
    return grads, batch_stats, {**logs, "cosine": cosine, "loss": sum(weighted.values())}


def surgery(grads: Sequence[Any], rng: PRNGKeyArray) -> tuple[Any, Float[Array, ""]]:
    """`losses.pcgrad` on the parameters that more than one task reaches, the plain sum elsewhere.

    Args:
      grads: one pytree of gradients per task.
      rng: key that orders the projections.

    Returns:
      The gradient to follow, and the cosine between the first two tasks' gradients over the
      shared parameters (0 where they share none).
    """
    reached = [jax.tree.map(lambda g: jnp.any(g != 0).astype(jnp.int32), g) for g in grads]
    shared = jax.tree.map(lambda *r: sum(r) > 1, *reached)

    def on_shared(tree):
        return jax.tree.map(lambda g, s: jnp.where(s, g, 0.0), tree, shared)

    parts = [on_shared(g) for g in grads]
    projected = task_weighting.pcgrad(parts, rng)
    merged = jax.tree.map(lambda p, s, *g: jnp.where(s, p, sum(g)), projected, shared, *grads)
    inner = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, parts[0], parts[1])))
    norms = optax.global_norm(parts[0]) * optax.global_norm(parts[1])
    return merged, inner / jnp.where(norms > 0, norms, 1.0)
