"""Durations, schedules and optimizers, against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxrjax.errors import UserError
from cxrjax.training import optim

SGD = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0,
       "nesterov": False, "b1": 0.9, "b2": 0.999, "clip_norm": 0.0, "accumulate": 1}
CONSTANT = {"name": "constant", "warmup": "0 steps", "final": 0.0, "boundaries": (), "factor": 0.1}


@pytest.mark.parametrize(
    "duration, steps", [("7 steps", 7), ("1 step", 1), ("2 epochs", 21), ("0.5 epoch", 5),
                        (" 1e3 steps", 1000)]
)
def test_durations(duration, steps):
    assert optim.to_steps(duration, 10.5) == steps


@pytest.mark.parametrize("duration", ["7", "seven steps", "1.5 steps", "-3 epochs", ""])
def test_durations_that_are_none(duration):
    with pytest.raises(UserError, match="config.train_for"):
        optim.to_steps(duration, 10, "train_for")


def test_warmup_then_cosine():
    options = {**CONSTANT, "name": "cosine", "warmup": "4 steps", "final": 0.1}
    rate = optim.make_schedule(options, 2.0, 12, 10)
    # Linear 0 -> 2 over 4 steps; then 2 * (0.9 * (1 + cos(pi t / 8)) / 2 + 0.1).
    np.testing.assert_allclose(
        [rate(s) for s in (0, 2, 4, 8, 12)], [0.0, 1.0, 2.0, 1.1, 0.2], rtol=1e-6
    )


def test_steps_schedule_counts_from_the_start_of_training():
    options = {**CONSTANT, "name": "steps", "warmup": "2 steps",
               "boundaries": ("5 steps", "1 epoch")}
    rate = optim.make_schedule(options, 1.0, 20, 10)
    np.testing.assert_allclose(
        [rate(s) for s in (2, 4, 6, 9, 11)], [1.0, 1.0, 0.1, 0.1, 0.01], rtol=1e-6
    )


def test_weight_decay_spares_biases_and_norms():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2),
              "cls_token": jnp.ones((1, 1, 2))}
    tx, _ = optim.make_optimizer({**SGD, "weight_decay": 0.5}, CONSTANT, 10, 10)
    zero = {k: jnp.zeros_like(v) for k, v in params.items()}
    updates, _ = tx.update(zero, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05 * np.ones((2, 2)), rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], np.zeros(2))
    np.testing.assert_array_equal(updates["scale"], np.zeros(2))
    np.testing.assert_array_equal(updates["cls_token"], np.zeros((1, 1, 2)))


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    tx, _ = optim.make_optimizer({**SGD, "clip_norm": 1.0}, CONSTANT, 10, 10)
    updates, _ = tx.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.06], rtol=1e-6)  # 0.1 * 3 / 5
    np.testing.assert_allclose(updates["b"], [-0.08], rtol=1e-6)


def test_accumulation_is_one_update_with_the_mean_gradient_at_the_schedule_of_batches():
    schedule = {**CONSTANT, "warmup": "4 steps"}
    tx, rate = optim.make_optimizer({**SGD, "accumulate": 2}, schedule, 8, 8)
    params = jnp.array([1.0])
    state = tx.init(params)
    for gradient in (1.0, 3.0, 5.0, 7.0):
        updates, state = tx.update(jnp.array([gradient]), state, params)
        params = optax.apply_updates(params, updates)
    # Update 0 at batch 0 (rate 0), update 1 at batch 2 (rate 0.05), mean gradient 6.
    np.testing.assert_allclose(params, [1.0 - 0.05 * 6.0], rtol=1e-6)
    np.testing.assert_allclose(rate(2), 0.05, rtol=1e-6)


def test_adamw_first_step_by_hand():
    options = {**SGD, "name": "adamw", "weight_decay": 0.1}
    tx, _ = optim.make_optimizer(options, CONSTANT, 10, 10)
    params = jnp.full((1, 1), 2.0)
    updates, _ = tx.update(jnp.full((1, 1), 0.3), tx.init(params), params)
    # Bias-corrected first step is g / |g| = 1, plus decoupled decay 0.1 * 2.
    np.testing.assert_allclose(updates, [[-0.1 * (1 + 0.2)]], rtol=1e-5)


def any_options(learning_rate, **options):
    assert set(options) == {"weight_decay", "momentum", "nesterov", "b1", "b2"}
    return optax.sgd(learning_rate)


@pytest.mark.parametrize("name", ["optax:sgd", "tests.training.test_optim:any_options"])
def test_an_optimizer_by_its_path_gets_the_options_that_it_takes(name):
    schedule, params = {**CONSTANT, "warmup": "2 steps"}, jnp.ones(1)
    options = {**SGD, "name": name, "accumulate": 2, "clip_norm": 1.0, "ema_decay": 0.9}
    ours, theirs = (optim.make_optimizer({**options, "name": n}, schedule, 8, 8)[0]
                    for n in ("sgd", name))
    states = [tx.init(params) for tx in (ours, theirs)]
    for gradient in (1.0, 3.0, 0.5, 0.1):
        gradient = jnp.array([gradient])
        a, states[0] = ours.update(gradient, states[0], params)
        b, states[1] = theirs.update(gradient, states[1], params)
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert a != 0


def test_an_optimizer_by_its_path_decays_what_ours_do():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx, _ = optim.make_optimizer(
        {**SGD, "name": "optax:lion", "weight_decay": 0.5}, CONSTANT, 10, 10
    )
    zero = {k: jnp.zeros_like(v) for k, v in params.items()}
    moved, _ = tx.update(zero, tx.init(params), params)
    assert float(jnp.abs(moved["kernel"]).min()) > 0 and not moved["bias"].any()


def test_adam_by_its_path():
    optim.make_optimizer({**SGD, "name": "optax:adam"}, CONSTANT, 10, 10)


@pytest.mark.parametrize(
    "optimizer, schedule, words",
    [({**SGD, "name": "adamm"}, CONSTANT, "did you mean 'adamw'"),
     (SGD, {**CONSTANT, "name": "cosin"}, "did you mean 'cosine'"),
     ({**SGD, "accumulate": 0}, CONSTANT, "accumulate"),
     (SGD, {**CONSTANT, "name": "steps", "warmup": "5 steps", "boundaries": ("3 steps",)},
      "boundaries")],
)
def test_mistakes(optimizer, schedule, words):
    with pytest.raises(UserError, match=words):
        optim.make_optimizer(optimizer, schedule, 10, 10)
