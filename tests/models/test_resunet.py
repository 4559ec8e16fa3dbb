"""Networks that classify and segment: shapes, what depends on what, and what is not computed."""

import functools
import types

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models import cross_stitch, mtan, resunet, weights
from cxrjax.training import experiment, steps
from cxrjax.training.schemes import supervised
from tests import toy_masks

TINY = {"width": 8, "depths": (1, 1)}
SHARING = {
    "resunet": {"encoder": "resnet18", **TINY},
    "cross_stitch": {"encoder": "resnet18", **TINY},
    "mtan": {"encoder": "resnet18", **TINY},
}
KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def some_variables(shapes):
    """Plausible weights without the time that compiling `init` takes."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.8, 1.2, leaf.shape).astype(np.float32)
        if "_from_" in name:
            return np.full(leaf.shape, 0.9 if len(set(name.split("_"))) == 2 else 0.1, np.float32)
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.05
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(value, shapes)


@functools.cache
def tiny(name):
    """A small network of each way to share, its variables, and its answers on odd-sized films."""
    net = models.create(name, 3, num_masks=2, decoder_width=16, **SHARING[name])
    image = normal(2, 45, 38, 1)
    variables = some_variables(jax.eval_shape(net.init, KEY, image))
    apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
    return types.SimpleNamespace(
        net=net, image=image, variables=variables, apply=apply, out=apply(variables, image)
    )


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize("name", SHARING)
def test_masks_have_the_size_of_the_film(name):
    out = tiny(name).out
    assert out["mask_logits"].shape == (2, 45, 38, 2) and out["logits"].shape == (2, 3)
    assert out["mask_logits"].dtype == out["logits"].dtype == jnp.float32
    assert out["features"].shape == (2, 6, 5, 16)


@pytest.mark.parametrize("small_stem", [False, True])
@pytest.mark.parametrize("encoder", resunet.ENCODERS)
def test_every_encoder_carries_a_decoder_at_every_size(encoder, small_stem):
    tiny_options = {
        "resnet18": TINY, "resnet50": TINY, "convnext_tiny": TINY,
        "densenet121": {"width": 8, "growth": 4, "depths": (1, 1, 1, 1)},
        "densenet169": {"width": 8, "growth": 4, "depths": (1, 1, 1, 1)},
    }[encoder]
    net = models.create("resunet", 2, encoder=encoder, num_masks=3, small_stem=small_stem,
                        decoder_width=16, **tiny_options)
    for height, width in ((64, 64), (67, 50), (33, 95)):
        film = jax.ShapeDtypeStruct((1, height, width, 1), jnp.float32)
        out = jax.eval_shape(lambda x: net.init_with_output(KEY, x)[0], film)
        assert out["mask_logits"].shape == (1, height, width, 3)


def test_the_class_is_the_plain_classifiers():
    t = tiny("resunet")
    plain = models.create("resnet18", 3, **TINY)
    out, theirs = jax.jit(plain.init_with_output)(KEY, t.image)
    ours = jax.jit(t.net.init)(KEY, t.image)
    for collection in theirs:
        for key, value in flat(theirs[collection]).items():
            # the decoder does not disturb the initial weights
            np.testing.assert_allclose(flat(ours[collection])[key], value, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        t.apply(ours, t.image)["logits"], out["logits"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", SHARING)
def test_each_task_reaches_its_own_weights_and_the_shared_ones(name):
    t = tiny(name)

    def both(params):
        out = t.net.apply({**t.variables, "params": params}, t.image)
        return jnp.sum(out["logits"][:, 0]), jnp.sum(out["mask_logits"] ** 2)

    @jax.jit
    def reached(params):
        _, pull_back = jax.vjp(both, params)
        zero, one = jnp.float32(0), jnp.float32(1)
        grads = pull_back((one, zero))[0], pull_back((zero, one))[0]
        return jax.tree.map(lambda g: jnp.any(g != 0), grads)

    by_class, by_mask = (
        {key for key, touched in flat(tree).items() if touched}
        for tree in reached(t.variables["params"])
    )
    every = set(flat(t.variables["params"]))
    assert by_class | by_mask == every
    only_class = {k for k in every if k.startswith(("head/", "class_attention/"))}
    only_mask = {k for k in every if k.startswith(("decoder/", "mask_attention/"))}
    if name == "cross_stitch":  # the last unit's mix for the other network is of no use to a task
        only_class |= {k for k in every if k.startswith("encoder/stitch2/class_")}
        only_mask |= {k for k in every if k.startswith("encoder/stitch2/mask_")}
    assert every - by_mask == only_class
    assert every - by_class == only_mask


def test_a_class_alone_costs_no_decoder():
    config = experiment.base("tests.toy_masks:", "resunet", 64)
    with config.unlocked():
        config.model.update({**SHARING["resunet"], "decoder_width": 64})
    films = toy_masks.load({"films": 60, "image_size": 64, "masked": 1.0})
    mesh, sample = steps.make_mesh(), {"image": np.zeros((1, 64, 64, 1), np.uint8)}

    def flops(config, keep):
        config = experiment.complete(config, films)
        states = jax.eval_shape(lambda: supervised.init(config, KEY, sample))
        predict = steps.jit_predict(supervised.make_predict(config), mesh, keep)
        film = jax.ShapeDtypeStruct((4, 64, 64, 1), jnp.uint8)
        return predict.lower(states, film).compile().cost_analysis()["flops"]

    class_only, both = flops(config, ("logits",)), flops(config, ("logits", "mask_logits"))
    with config.unlocked():
        config.model = {"name": "resnet18", "dtype": "float32", **TINY}
    bare = flops(config, ("logits",))
    assert class_only <= 1.02 * bare
    assert both > 1.5 * bare  # the decoder is there to be left out


def test_a_network_has_as_many_masks_as_the_films():
    config = types.SimpleNamespace(labels=("a", "b"), masks=("lungs", "heart", "clavicles"))
    net = steps.make_model(config, {"name": "resunet", "num_masks": 0, **SHARING["resunet"]})
    assert net.decoder.num_masks == 3
    with pytest.raises(UserError, match="model.name='resnet18'"):
        config.masks = ()
        steps.make_model(config, {"name": "resunet", **SHARING["resunet"]})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"encoder": "conformer_tiny"}, "resnet50"),
        ({"encoder": "resnet18", "growth": 4}, "no option 'growth'"),
        ({"encoder": "resnet18", "decoder_width": 0}, "decoder_width"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(UserError, match=words):
        models.create("resunet", 2, num_masks=1, **options)


def test_bfloat16_computes_and_answers_in_float32():
    net = models.create("resunet", 2, num_masks=1, decoder_width=8, dtype="bfloat16",
                        **SHARING["resunet"])
    film = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    out, variables = jax.eval_shape(lambda x: net.init_with_output(KEY, x), film)
    assert out["mask_logits"].dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))


def test_weights_of_a_published_classifier_enter_the_trunk(tmp_path, monkeypatch):
    config = types.SimpleNamespace(
        labels=("a", "b", "c"), masks=("lungs",), init_from=str(tmp_path / "w.pth"),
        model={"name": "resunet", **SHARING["resunet"], "decoder_width": 8},
        optimizer=dict(experiment.base("tests.toy_masks:", "resunet", 32).optimizer),
        schedule={"name": "constant", "warmup": "0 steps"}, total_steps=1, steps_per_epoch=1.0,
    )
    theirs = some_variables(jax.eval_shape(
        models.create("resnet18", 3, **TINY).init, KEY, normal(1, 32, 32, 1)
    ))
    tensors = weights.to_torch("resnet18", theirs)
    monkeypatch.setattr(weights, "load_state_dict", lambda path: tensors)
    state = steps.create_state(config, KEY, {"image": np.zeros((1, 32, 32, 1))})
    for key, value in flat(theirs["params"]).items():
        np.testing.assert_array_equal(flat(state.params)[key], value)
    assert "decoder" in state.params


# ---- the decoder's pieces


def test_enlarge_repeats_crops_and_completes():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    assert resunet.enlarge(x, 3, 4)[0, ..., 0].tolist() == [
        [0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3],
    ]
    assert resunet.enlarge(x, 2, 5)[0, ..., 0].tolist() == [[0, 0, 1, 1, 1], [2, 2, 3, 3, 3]]
    np.testing.assert_array_equal(resunet.enlarge(x, 2, 2), x)


def test_shrink_is_the_mean_of_cells():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    # cells [[0 1 3 4], [2 2 5 5]], [[6 7 6 7], [8 8 8 8]]
    assert resunet.shrink(x, 2)[0, ..., 0].tolist() == [[2.0, 3.5], [6.5, 8.0]]


def test_fit_brings_a_map_to_the_next_ones_size():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    assert mtan.fit(x, 2, 2).shape == (1, 2, 2, 1) and mtan.fit(x, 3, 3).shape == (1, 3, 3, 1)
    np.testing.assert_array_equal(mtan.fit(x, 5, 5), x)
    assert mtan.fit(x, 2, 2)[0, 0, 0, 0] == 3.0  # of 0 1 5 6


# ---- cross-stitch units


def test_a_stitch_mixes_the_two_maps_channel_by_channel():
    params = {
        "class_from_class": jnp.array([0.9, 1.0]), "class_from_mask": jnp.array([0.1, 0.0]),
        "mask_from_class": jnp.array([0.5, 0.0]), "mask_from_mask": jnp.array([0.25, 2.0]),
    }
    a, b = jnp.array([[[[1.0, 2.0]]]]), jnp.array([[[[10.0, 20.0]]]])
    for_class, for_mask = cross_stitch.Stitch().apply({"params": params}, (a, b))
    np.testing.assert_allclose(for_class.ravel(), [1.9, 2.0], rtol=1e-6)
    np.testing.assert_allclose(for_mask.ravel(), [3.0, 40.0], rtol=1e-6)


def test_unmixed_the_two_networks_are_a_classifier_and_a_unet():
    t = tiny("cross_stitch")
    params = flat(t.variables["params"])
    for key in params:
        if "/stitch" in key:
            to, _, source = key.rpartition("/")[2].split("_")
            params[key] = jnp.full_like(params[key], float(to == source))
    unmixed = {**t.variables, "params": flax.traverse_util.unflatten_dict(params, sep="/")}
    out = t.apply(unmixed, t.image)

    def one(task):
        """A `resunet` with the weights of one of the two networks."""
        collections = {}
        for collection, tree in unmixed.items():
            moved = {k.replace(f"encoder/{task}_", "encoder/"): v for k, v in flat(tree).items()
                     if "/stitch" not in k and (f"/{task}_" in k or not k.startswith("encoder"))}
            collections[collection] = flax.traverse_util.unflatten_dict(moved, sep="/")
        return tiny("resunet").apply(collections, t.image)

    np.testing.assert_allclose(out["logits"], one("class")["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out["mask_logits"], one("mask")["mask_logits"], rtol=1e-4, atol=1e-4)
    assert np.abs(out["logits"] - t.out["logits"]).max() > 1e-4  # mixing does something


# ---- task attention


def test_with_open_masks_task_attention_is_the_shared_trunk():
    t, params = tiny("mtan"), flat(tiny("mtan").variables["params"])
    for key, value in params.items():
        if "attention/mask" in key and "_norm/" in key:  # sigmoid(60) = 1 in float32
            params[key] = jnp.full_like(value, 60.0 if key.endswith("bias") else 0.0)
    opened = {**t.variables, "params": flax.traverse_util.unflatten_dict(params, sep="/")}
    trunk = {c: {k: v for k, v in tree.items() if "attention" not in k}
             for c, tree in opened.items()}
    expected, out = tiny("resunet").apply(trunk, t.image), t.apply(opened, t.image)
    for key in ("logits", "mask_logits", "features"):
        np.testing.assert_allclose(out[key], expected[key], rtol=1e-4, atol=1e-5)
        assert np.abs(t.out[key] - expected[key]).max() > 1e-3


def test_attention_reads_what_the_level_before_attended_to():
    module = mtan.TaskAttention()
    maps = [normal(1, 8, 8, 4), normal(1, 4, 4, 8, seed=1)]
    shapes = jax.eval_shape(lambda m: module.init(KEY, m, False), maps)
    variables = some_variables(shapes)
    apply = jax.jit(lambda maps: module.apply(variables, maps, False))
    first, second = apply(maps)
    assert first.shape == maps[0].shape and second.shape == maps[1].shape
    # a map times a mask between 0 and 1
    share = np.asarray(second / maps[1])
    assert share.min() > 0 and share.max() < 1
    changed = apply([-maps[0], maps[1]])[1]
    assert np.abs(changed - second).max() > 1e-4
