"""Optimizers and learning-rate schedules from a config; durations in steps or epochs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cxrjax.errors import UserError
from cxrjax.names import resolve_path, suggest

_DURATION = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*(steps?|epochs?)\s*$")


def to_steps(duration: str, steps_per_epoch: float | int, field: str = "duration") -> int:
    """'500 steps' or '2.5 epochs' as a number of steps.

    Args:
      duration: a number and its unit.
      steps_per_epoch: films in the training split divided by the batch size (need not be whole).
      field: the config field, for the message.

    Raises:
      UserError: no unit, or not a number.
    """
    match = _DURATION.match(str(duration))
    if match is None:
        raise UserError(
            f"config.{field} = {duration!r} is not a duration: give a number and its unit, "
            "as '500 steps' or '2.5 epochs'"
        )
    number, unit = float(match[1]), match[2]
    if unit.startswith("step"):
        if number != int(number):
            raise UserError(f"config.{field} = {duration!r}: steps come in whole numbers")
        return int(number)
    return round(number * steps_per_epoch)


def make_schedule(
    options: Mapping[str, Any], peak: float | int, total_steps: int, steps_per_epoch: float | int
) -> optax.Schedule:
    """Learning rate of each optimizer step: a linear warm-up from 0, then the named curve.

    Args:
      options: `name` is 'cosine' (Loshchilov & Hutter 2017, without restarts, down to
        `final` * peak), 'constant', or 'steps' (times `factor` at each of `boundaries`); `warmup`
        is a duration.
      peak: the learning rate at the end of the warm-up.
      total_steps: length of the training.
      steps_per_epoch: for durations given in epochs.
    """
    warmup = to_steps(options["warmup"], steps_per_epoch, "schedule.warmup")
    name = options["name"]
    after = max(total_steps - warmup, 1)
    if name == "cosine":
        curve = optax.cosine_decay_schedule(peak, after, alpha=options["final"])
    elif name == "constant":
        curve = optax.constant_schedule(peak)
    elif name == "steps":
        at = [
            to_steps(b, steps_per_epoch, "schedule.boundaries") - warmup
            for b in options["boundaries"]
        ]
        if any(b <= 0 for b in at):
            raise UserError("config.schedule.boundaries must come after the warm-up")
        curve = optax.piecewise_constant_schedule(peak, {b: options["factor"] for b in at})
    else:
        raise UserError(
            f"unknown schedule {name!r}" + suggest(name, ["cosine", "constant", "steps"])
        )
    if warmup <= 0:
        return curve
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), curve], [warmup])


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: kernels only, never biases, norms, layer scales or tokens.

    The first three are all arrays of fewer than two dimensions (He et al. 2019, "Bag of Tricks",
    3.1); tokens and position embeddings are known by name (Touvron et al. 2021, DeiT's code).
    """

    def decays(path, p):
        name = getattr(path[-1], "key", "") if path else ""
        return jnp.ndim(p) > 1 and name not in ("cls_token", "pos_embed")

    return jax.tree_util.tree_map_with_path(decays, params)


# Seen to here for every optimizer.
_OURS = ("name", "learning_rate", "accumulate", "clip_norm", "ema_decay")
_MASKS = ("mask", "weight_decay_mask")  # as optax calls them


def _from_path(
    path: str, rate: Callable, options: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The optimizer of a function of the user's, with the options that its signature names.

    Where it takes a mask of what decays, it is given ours.
    """
    make = resolve_path(path)
    parameters = list(inspect.signature(make).parameters.values())[1:]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters}
    own = {k: v for k, v in options.items() if k not in _OURS and (takes_any or k in named)}
    for mask in _MASKS:
        if mask in named:
            own.setdefault(mask, decay_mask)
    return make(rate, **own)


def make_optimizer(
    options: Mapping[str, Any],
    schedule_options: Mapping[str, Any],
    total_steps: int,
    steps_per_epoch: float | int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The gradient transformation of a config, and the learning rate at each batch.

    Args:
      options: `name` 'sgd' or 'adamw', or a dotted path to a function of the learning rate (a
        schedule) that is given those of the options below that it names ('optax:lion'), and
        `learning_rate`, `weight_decay` (decoupled for AdamW, added to the gradient for SGD),
        `momentum`, `nesterov`, `b1`, `b2`, `clip_norm` (0: off; of the whole gradient),
        `accumulate` (batches whose mean gradient makes one update).
      schedule_options: see `make_schedule`.
      total_steps: batches in the training.
      steps_per_epoch: batches in an epoch.
    """
    schedule = make_schedule(
        schedule_options, options["learning_rate"], total_steps, steps_per_epoch
    )
    every = int(options["accumulate"])
    if every < 1:
        raise UserError("config.optimizer.accumulate must be 1 or more")
    # Under accumulation the optimizer counts updates, the schedule is written in batches.
    rate: Callable = (lambda count: schedule(count * every)) if every > 1 else schedule

    chain = []
    if options["clip_norm"]:
        chain.append(optax.clip_by_global_norm(options["clip_norm"]))
    name = options["name"]
    if name == "sgd":
        if options["weight_decay"]:
            chain.append(optax.add_decayed_weights(options["weight_decay"], decay_mask))
        chain.append(optax.sgd(rate, options["momentum"] or None, options["nesterov"]))
    elif name == "adamw":
        chain.append(
            optax.adamw(
                rate,
                b1=options["b1"],
                b2=options["b2"],
                weight_decay=options["weight_decay"],
                mask=decay_mask,
            )
        )
    elif ":" in name:
        chain.append(_from_path(name, rate, options))
    else:
        raise UserError(f"unknown optimizer {name!r}" + suggest(name, ["sgd", "adamw"]))
    optimizer = optax.chain(*chain)
    if every > 1:
        optimizer = optax.MultiSteps(optimizer, every).gradient_transformation()
    return optimizer, schedule
