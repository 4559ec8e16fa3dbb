"""The compiled step: loops, devices, padding and EMA change nothing that they should not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.errors import UserError
from cxrjax.training import experiment, steps
from cxrjax.training.optim import make_optimizer
from cxrjax.training.schemes import supervised
from tests import toy


def toy_config(batch_size, warmup="2 steps"):
    config = experiment.base("tests.toy:", "tests.toy:create", 16)
    config.batch_size, config.train_for = batch_size, "10 steps"
    config.schedule.warmup = warmup
    films = toy.load({"films": 96, "image_size": 16, "with_unknown": False})
    return experiment.complete(config, films)


@pytest.fixture(scope="module")
def config():
    return toy_config(batch_size=8)


def batches(count, size=8):
    source = toy.Source(count * size, 16, True)
    records = [source[i] for i in range(count * size)]
    stack = {k: np.stack([r[k] for r in records]).reshape(count, size, *np.shape(records[0][k]))
             for k in ("image", "label")}
    return {**jax.tree.map(jnp.asarray, stack), "weight": jnp.ones((count, size))}


def first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_a_loop_of_steps_is_the_steps_one_by_one(config):
    data, key = batches(4), jax.random.key(1)
    step = supervised.make_step(config)
    start = supervised.init(config, jax.random.key(0), first(data))
    together, logs = jax.jit(steps.scan_steps(step))(start, data, key)
    rolled, _ = jax.jit(steps.scan_steps(step, unroll=False))(start, data, key)
    single, one = start, jax.jit(step)
    for i in range(4):
        single, log = one(single, jax.tree.map(lambda x, i=i: x[i], data), key)
        np.testing.assert_allclose(log["loss"], logs["loss"][i], rtol=1e-5)
    close(together, single, rtol=1e-5, atol=1e-6)
    close(together, rolled, rtol=1e-5, atol=1e-6)


def test_a_film_of_weight_zero_has_no_gradient():
    config = toy_config(8, warmup="0 steps")  # the first step of a warmup moves nothing
    data = first(batches(1))
    state = supervised.init(config, jax.random.key(0), data)["create"]
    loss_fn = steps.make_loss(config)
    prepared = steps.prepare_train(config, jax.random.key(2), data)
    weight = jnp.ones(8).at[-3:].set(0.0)
    update = jax.jit(lambda batch: steps.update(state, batch, jax.random.key(3), loss_fn)[0].params)
    labels = prepared["label"], prepared["label"].at[-3:].set(1.0), prepared["label"].at[:3].set(1)
    same, padded, seen = (update({**prepared, "label": x, "weight": weight}) for x in labels)
    close(same, padded, rtol=0, atol=0)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(seen)))


def test_unknown_labels_leave_no_trace_and_no_nan(config):
    data = first(batches(1))
    data["label"] = data["label"].at[0].set(jnp.nan)
    states = supervised.init(config, jax.random.key(0), data)
    states, logs = jax.jit(supervised.make_step(config))(states, data, jax.random.key(1))
    assert np.isfinite(logs["loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states["create"].params))


def test_ema_follows_the_weights_by_hand(config):
    state = steps.create_state(config, jax.random.key(0), first(batches(1)),
                               optimizer_options={**config.optimizer, "ema_decay": 0.999})
    gradient = jax.tree.map(jnp.ones_like, state.params)
    state = state.replace(step=jnp.asarray(5, jnp.int32))
    new = state.apply_gradients(grads=gradient)
    decay = min(0.999, 6 / 15)
    expected = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.params, new.params)
    close(new.ema_params, expected, rtol=1e-6, atol=1e-7)


def test_accumulation_moves_the_ema_with_the_updates(config):
    """Five updates by equal gradients: in four parts each they give the same weights and EMA."""
    results = []
    for every in (1, 4):
        options = {**config.optimizer, "name": "sgd", "momentum": 0.0, "accumulate": every}
        constant = {"name": "constant", "warmup": "0 steps"}
        tx, _ = make_optimizer(options, constant, 20, 10)
        start = {"w": jnp.arange(4.0)}
        state = steps.TrainState.create(
            apply_fn=dict, params=start, tx=tx, batch_stats={}, ema_params=start, ema_decay=0.9
        ).replace(step=jnp.asarray(0, jnp.int32))
        for part in range(5 * every):
            state = state.apply_gradients(grads={"w": jnp.full(4, float(1 + part // every))})
        results.append((state.params, state.ema_params))
    close(*results, rtol=1e-6)


def test_prediction_uses_the_ema_where_there_is_one(config):
    data = first(batches(1))
    model = steps.make_model(config, dict(config.model))
    state = supervised.init(config, jax.random.key(0), data)["create"]
    other = jax.tree.map(lambda p: p + 1.0, state.params)
    image = steps.prepare_eval(config, data["image"])
    with_ema = steps.forward_eval(model, state.replace(ema_params=other), image)
    plain = steps.forward_eval(model, state.replace(params=other), image)
    close(with_ema["logits"], plain["logits"], rtol=0, atol=0)


def test_uint8_and_float_films_are_the_same():
    image = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(steps.to_unit(image), steps.to_unit(image / 255.0), rtol=1e-7)


def test_batch_size_must_divide():
    steps.check_batch_size(12, 4)
    with pytest.raises(UserError, match="config.batch_size = 12 .* 8 devices; use 16"):
        steps.check_batch_size(12, 8)


def fingerprint(devices):
    """Losses of four steps on a mesh of the devices."""
    config, mesh, data = toy_config(batch_size=16), steps.make_mesh(devices), batches(4, 16)
    states = steps.replicate(supervised.init(config, jax.random.key(0), first(data)), mesh)
    run = steps.jit_steps(supervised.make_step(config), mesh)
    data = {k: np.asarray(v) for k, v in data.items()}
    states, logs = run(states, steps.shard(data, mesh, axis=1), jax.random.key(1))
    return [float(x) for x in logs["loss"]]


def test_one_device_and_eight_agree(on_eight_devices):
    one = fingerprint(jax.devices()[:1])
    assert len(set(one)) == 4
    np.testing.assert_allclose(one, on_eight_devices["tests.training.test_steps"], atol=1e-5)


def test_a_film_and_its_mirror_image_get_one_answer():
    """Means by hand; a mirrored film has the same logits and the mirrored mask."""

    def predict(states, image):
        return {"net": {"logits": image[:, 0, :2, 0], "mask_logits": 2 * image, "features": image}}

    image = np.arange(12.0).reshape(1, 3, 4, 1)
    both = steps.with_mirror(predict)
    out, mirrored = both({}, image)["net"], both({}, image[:, :, ::-1])["net"]
    np.testing.assert_array_equal(out["logits"], [[(0 + 3) / 2, (1 + 2) / 2]])
    np.testing.assert_array_equal(out["logits"], mirrored["logits"])
    np.testing.assert_array_equal(out["mask_logits"], 2 * image)
    np.testing.assert_array_equal(out["mask_logits"], mirrored["mask_logits"][:, :, ::-1])
    np.testing.assert_array_equal(out["features"], image)
