"""Rates by depth, frozen parts, the linear probe, and the scale that comes with weights."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from configs import chestxray14
from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models import weights
from cxrjax.training import checkpoint, experiment, finetune, loop, optim, steps, warm_start
from tests import toy
from tests.training.test_loop import toy_config

KEY = jax.random.key(0)
OPTIONS = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0,
           "nesterov": False, "clip_norm": 0.0, "accumulate": 1, "ema_decay": 0.0}
SCHEDULE = {"name": "constant", "warmup": "0 steps"}


def shapes(name, **options):
    net = models.create(name, 2, **options)
    return jax.eval_shape(net.init, KEY, jnp.zeros((1, 32, 32, 1)))["params"]


def test_depths_follow_the_blocks():
    params = shapes("vit_small", width=8, depth=2, heads=2)
    tree, last = finetune.depths(params)
    assert last == 3
    encoder = tree["encoder"]
    assert encoder["patch_embed"]["kernel"] == encoder["cls_token"] == encoder["pos_embed"] == 0
    assert encoder["block1"]["mlp"]["expand"]["bias"] == 1
    assert encoder["block2"]["norm1"]["scale"] == 2
    assert encoder["norm"]["scale"] == tree["head"]["logits"]["kernel"] == 3

    tree, last = finetune.depths(shapes("convnext_tiny", width=8, depths=(1, 2)))
    encoder = tree["encoder"]
    assert last == 4 and encoder["stem"]["conv"]["kernel"] == 0
    assert encoder["stage1"]["block1"]["layer_scale"] == 1
    assert encoder["downsample2"]["conv"]["kernel"] == 2
    assert encoder["stage2"]["block2"]["layer_scale"] == 3

    tree, last = finetune.depths(shapes("densenet121", width=8, growth=4, depths=(2, 1)))
    encoder = tree["encoder"]
    assert encoder["stage1"]["layer2"]["conv1"]["kernel"] == 2
    assert encoder["transition1"]["conv"]["kernel"] == encoder["stage2"]["layer1"]["conv1"][
        "kernel"] == 3
    assert encoder["norm"]["scale"] == last == 4


def one_step(options, params, grads):
    tx, _ = optim.make_optimizer({**OPTIONS, **options}, SCHEDULE, 10, 5)
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)


@pytest.fixture
def small():
    params = {"encoder": {"stem": {"kernel": jnp.ones((2, 2))},
                          "block1": {"kernel": jnp.ones((2, 2))}},
              "head": {"logits": {"kernel": jnp.ones((2, 2))}}}
    return params, jax.tree.map(jnp.ones_like, params)


def test_layer_decay_by_hand(small):
    new = one_step({"layer_decay": 0.5}, *small)
    np.testing.assert_allclose(new["head"]["logits"]["kernel"], 1 - 0.1)
    np.testing.assert_allclose(new["encoder"]["block1"]["kernel"], 1 - 0.05)
    np.testing.assert_allclose(new["encoder"]["stem"]["kernel"], 1 - 0.025)
    # AdamW's weight decay goes at the layer's rate as well.
    adamw = {"name": "adamw", "b1": 0.0, "b2": 0.0, "weight_decay": 0.5, "layer_decay": 0.5}
    new = one_step(adamw, *small)
    np.testing.assert_allclose(new["encoder"]["stem"]["kernel"], 1 - 0.025 * 1.5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_is_frozen_does_not_move_and_does_not_count(small, name):
    options = {"name": name, "freeze": "encoder/stem, */block1/*", "weight_decay": 0.5, "b1": 0.9,
               "b2": 0.999, "clip_norm": 1.0}
    params, grads = small
    grads["encoder"]["stem"]["kernel"] *= 1e6
    new = one_step(options, params, grads)
    np.testing.assert_array_equal(new["encoder"]["stem"]["kernel"], 1.0)
    np.testing.assert_array_equal(new["encoder"]["block1"]["kernel"], 1.0)
    if name == "sgd":  # the norm is the head's alone: 2, cut to 1
        np.testing.assert_allclose(new["head"]["logits"]["kernel"], 1 - 0.1 * (0.5 + 0.5))
    tx, _ = optim.make_optimizer({**OPTIONS, **options}, SCHEDULE, 10, 5)
    kept = [x.shape for x in jax.tree.leaves(tx.init(params)) if x.ndim]
    assert kept == [(2, 2)] * len(kept)
    assert len(kept) == (2 if name == "adamw" else 0)  # moments of the head alone


def test_the_defaults_are_the_optimizer_as_it_was(small):
    plain = one_step({}, *small)
    for off in ({"layer_decay": 0.0, "freeze": ""}, {"layer_decay": 1.0, "freeze": ()}):
        jax.tree.map(np.testing.assert_array_equal, one_step(off, *small), plain)


def test_a_pattern_that_is_nobodys_is_an_error(small):
    with pytest.raises(UserError, match="no parameter is called 'encoder/stam'"):
        finetune.check_freeze(small[0], ("encoder/stam",))
    with pytest.raises(UserError, match="nothing to train"):
        finetune.check_freeze(small[0], ("*",))
    config = experiment.base("phantom", "resnet18", 32)
    config.optimizer.layer_decay = 1.5
    with pytest.raises(UserError, match="layer_decay = 1.5"):
        experiment.check(config)


def test_running_statistics_of_frozen_parts_stay():
    old = {"encoder": {"norm": {"mean": jnp.zeros(2)}}, "head": {"mean": jnp.zeros(2)}}
    new = jax.tree.map(lambda x: x + 1, old)
    kept = finetune.keep_statistics(old, new, ("encoder",))
    assert kept["encoder"]["norm"]["mean"][0] == 0 and kept["head"]["mean"][0] == 1


def probe_config(**more):
    config = toy_config(**{"train_for": "6 steps", **more})
    with config.unlocked():
        config.model = {"name": "resnet18", "width": 4, "depths": (1,), "small_stem": True}
    config.scheme.name = "linear_probe"
    return config


def test_a_linear_probe_trains_the_head_on_films_encoded_once(tmp_path, monkeypatch):
    read = []
    item = toy.Source.__getitem__
    monkeypatch.setattr(toy.Source, "__getitem__",
                        lambda self, i: (read.append(i), item(self, i))[1])
    loop.train(probe_config(), tmp_path, stop_at=3)
    films = toy.load(probe_config().dataset.to_dict())
    first = int(films.splits["train"][0])
    encoded = [*films.splits["train"], *films.splits["val"]]
    # The very first film is also asked for its size, and the labels are read.
    assert all(read.count(int(i)) <= 3 for i in encoded if i != first)
    loop.train(probe_config(), tmp_path)
    config, _, networks, step = checkpoint.restore_variables(tmp_path, "latest")
    assert step == 6
    whole = experiment.complete(probe_config(), films)
    begun = steps.create_state(whole, steps.keys_of(whole.seed)[0],
                               {"image": np.zeros((1, 16, 16, 1), np.uint8)})
    now = networks["resnet18"]
    jax.tree.map(np.testing.assert_array_equal, now["params"]["encoder"], begun.params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, now["batch_stats"], begun.batch_stats)
    moved = now["params"]["head"]["logits"]["kernel"] - begun.params["head"]["logits"]["kernel"]
    assert np.abs(moved).max() > 1e-4


def test_a_probe_refuses_what_has_no_effect():
    config = probe_config(**{"optimizer.freeze": "encoder"})
    with pytest.raises(UserError, match="leave config.optimizer.freeze empty"):
        experiment.complete(config, toy.load(config.dataset.to_dict()))


def weights_file(path, classes=18, channels=1):
    net = models.create("densenet121", classes, width=4, growth=2, depths=(1, 1))
    variables = jax.jit(net.init)(KEY, jnp.zeros((1, 32, 32, channels)))
    save_file(weights.to_torch("densenet121", variables), path)


def test_the_scale_of_the_weights_is_taken_said_and_stored(tmp_path, caplog):
    weights_file(tmp_path / "xrv.safetensors")
    config = toy_config(init_from=str(tmp_path / "xrv.safetensors"))
    films = toy.load(config.dataset.to_dict())
    with caplog.at_level(logging.WARNING):
        plain = experiment.complete(config, films)
    assert plain.normalize.mean == 0.449 and "normalize.source=weights takes theirs" in caplog.text
    config.normalize.source = "weights"
    taken = experiment.complete(config, films)
    assert (taken.normalize.mean, taken.normalize.std) == (0.5, 1 / 2048)
    assert taken.normalize.source == "weights: torchxrayvision"
    film = jnp.uint8([[[[0], [255]]]])
    np.testing.assert_allclose(steps.prepare_eval(taken, film).ravel(), [-1024, 1024], rtol=1e-6)
    # A run that goes on needs the file no more.
    (tmp_path / "xrv.safetensors").unlink()
    again = experiment.complete(config, films, experiment.config_json(taken))
    assert again.normalize == taken.normalize
    with config.ignore_type():
        config.normalize = "weights"
    with pytest.raises(UserError, match="config.init_from = .*xrv.safetensors: no weights at"):
        experiment.complete(config, films)


def test_a_scale_that_nobody_says_is_an_error(tmp_path):
    config = toy_config(**{"normalize.source": "weights"})
    with pytest.raises(UserError, match="init_from is empty"):
        warm_start.normalization(config)
    config.normalize.source = "imagenet"
    with pytest.raises(UserError, match="'weights' or '' are known"):
        warm_start.normalization(config)
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    config.normalize.source, config.init_from = "weights", str(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="do not say on which scale"):
        warm_start.normalization(config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"normalize": {"mean": 1, "std": 2}}))
    config.init_from = str(tmp_path / "run")
    assert warm_start.normalization(config)["std"] == 2


def test_the_recipes_are_the_published_ones():
    config = chestxray14.get_config("eva_x_small")
    assert config.optimizer.layer_decay == 0.55 and config.optimizer.weight_decay == 0.05
    assert config.optimizer.learning_rate == 1e-3 * config.batch_size / 256
    assert (config.train_for, config.schedule.warmup, config.model.drop_path) == (
        "30 epochs", "5 epochs", 0.2)
    probe = chestxray14.get_config("dinov2_base,size=518,probe,normalize=weights")
    assert probe.scheme.name == "linear_probe" and probe.normalize.source == "weights"
    old = chestxray14.get_config("densenet121")
    assert old.optimizer.layer_decay == 0 and old.optimizer.freeze == ""
    assert old.normalize.source == "" and old.scheme.name == "supervised"


def test_an_error_keeps_its_lines_and_names_the_field(tmp_path):
    weights_file(tmp_path / "xrv.safetensors")
    net = models.create("resnet18", 2, width=4, depths=(1,))
    start = jax.eval_shape(net.init, KEY, jnp.zeros((1, 32, 32, 1)))
    with pytest.raises(UserError) as error:
        warm_start.load(tmp_path / "xrv.safetensors", "resnet18", ("a", "b"), start)
    assert str(error.value).startswith(f"config.init_from = {tmp_path}/xrv.safetensors: these")
    assert error.value.keep_lines and len(str(error.value).splitlines()) <= 12
