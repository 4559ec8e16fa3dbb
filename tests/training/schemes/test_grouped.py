"""Label groups: each network learns its own labels, and the merged answer has them all in order."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import chestxray14_grouped
from cxrjax import models
from cxrjax.data.sets.phantom import dataset
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate
from cxrjax.models import branched, groups
from cxrjax.models.layers import BatchNorm, Classifier, PoolHead
from cxrjax.training import checkpoint, loop, restored, steps
from cxrjax.training import experiment as experiments
from cxrjax.training.schemes import grouped, supervised
from tests import toy

SHUFFLED = (("Top", "Left"), ("Right",))
PLACES = ((2, 0), (1,))


class Linear(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, image, train):
        logits = nn.Dense(self.num_classes, name="head")(image.reshape(len(image), -1))
        return {"logits": logits, "features": image}


def linear(num_classes):
    return Linear(num_classes)


class Cells(nn.Module):
    """An encoder of one map without any convolution: quick to compile."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(5)(x.reshape(len(x), 2, -1, 2, 8).mean((2, 4))[..., None])
        return [BatchNorm(name="norm")(x, train)]


def cells(num_classes):
    return Classifier(encoder=Cells(), head=PoolHead(num_classes))


def experiment(grouping="manual", model="tests.training.schemes.test_grouped:linear", **fields):
    config = chestxray14_grouped.get_config(f"{grouping},model={model},data=tests.toy:,size=16")
    config.batch_size = config.eval_batch_size = 16
    config.train_for, config.evaluate_every = "4 steps", "2 steps"
    config.checkpoint_every, config.log_every = "2 steps", "2 steps"
    config.schedule.warmup = "0 steps"
    config.scheme.groups = () if grouping == "clustered" else SHUFFLED
    config.scheme.number, config.scheme.branch_width = 2, 6
    config.scheme.update(fields)
    return config


def films(**changes):
    opened = toy.load({"films": 96, "image_size": 16, "with_unknown": False})
    return dataclasses.replace(opened, **changes)


def make_batch(size=8):
    source = toy.Source(96, 16, False)
    records = [source[i] for i in range(size)]
    batch = {k: jnp.stack([jnp.asarray(r[k]) for r in records]) for k in ("image", "label")}
    return {**batch, "weight": jnp.ones(size).at[-1].set(0.0)}


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_merged_answer_is_in_the_order_of_the_labels():
    config = experiments.complete(experiment(), films())
    states = grouped.init(config, jax.random.key(0), make_batch())
    # Biases that name the label which each column answers to.
    for name, labels in zip(("group1", "group2"), PLACES):
        head = {"kernel": jnp.zeros((256, len(labels))), "bias": 10.0 * jnp.array(labels)}
        states[name] = states[name].replace(params={"head": head})
    outputs = grouped.make_predict(config)(states, make_batch()["image"])
    assert set(outputs) == {"merged"} and set(outputs["merged"]["features"]) == set(states)
    np.testing.assert_array_equal(outputs["merged"]["logits"], [[0.0, 10.0, 20.0]] * 8)


def test_each_group_is_the_network_trained_alone_on_its_labels():
    config = experiment()
    with config.ignore_type():
        config.loss.pos_weight = (1.0, 2.0, 3.0)
    config = experiments.complete(config, films())
    batch, key = make_batch(), jax.random.key(1)
    states = grouped.init(config, jax.random.key(0), batch)
    new, logs = jax.jit(grouped.make_step(config))(states, batch, key)
    for name, places, weights in (("group1", (2, 0), (3.0, 1.0)), ("group2", (1,), (2.0,))):
        alone = ConfigDict(config.to_dict())
        alone.scheme = ConfigDict({"name": "supervised"})
        alone.labels = tuple(toy.LABELS[i] for i in places)
        with alone.ignore_type():
            alone.loss.pos_weight = weights
        own = {**batch, "label": batch["label"][:, list(places)]}
        step = jax.jit(supervised.make_step(alone))
        after, log = step({"linear": states[name]}, own, key)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            new[name].params, after["linear"].params,
        )
        np.testing.assert_allclose(logs[f"{name}/loss"], log["loss"], rtol=1e-6)
    mean = (2 * logs["group1/loss"] + logs["group2/loss"]) / 3
    np.testing.assert_allclose(logs["loss"], mean, rtol=1e-6)


# --- one trunk, a branch each


@pytest.fixture(scope="module")
def branches():
    """A branched network for three labels, its variables, films, and how it answers."""
    net = models.create(
        "branched", 3, trunk=f"{__name__}:cells", positions=PLACES, branch_width=6
    )
    image = jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    variables = jax.jit(net.init)(jax.random.key(0), image)
    return net, variables, image, jax.jit(lambda v: net.apply(v, image))


def test_branches_answer_in_order_from_the_last_map_of_the_trunk(branches):
    net, variables, image, ask = branches
    out = ask(variables)
    again = net.apply(variables, out["features"], method="classify")
    np.testing.assert_allclose(again, out["logits"], rtol=1e-5, atol=1e-6)
    # Without weights a branch answers its biases: group 1 is labels 2 and 0, group 2 label 1.
    head = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    head["head1"]["logits"]["bias"] = jnp.array([20.0, 0.0])
    head["head2"]["logits"]["bias"] = jnp.array([10.0])
    changed = {**variables, "params": {**variables["params"], "head": head}}
    np.testing.assert_array_equal(ask(changed)["logits"], [[0.0, 10.0, 20.0]] * 2)


def test_a_branch_moves_its_own_labels_and_the_trunk_all(branches):
    _, variables, _, ask = branches

    def moved(part, name):
        params = dict(variables["params"])
        params[part] = {**params[part], name: jax.tree.map(lambda x: x + 1.0, params[part][name])}
        difference = ask({**variables, "params": params})["logits"] - ask(variables)["logits"]
        return (np.abs(np.asarray(difference)).max(0) > 0).tolist()

    assert moved("head", "conv2") == [False, True, False]
    assert moved("head", "head1") == [True, False, True]
    assert moved("encoder", "Dense_0") == [True, True, True]


@pytest.mark.parametrize("trunk", ["resnet50", "densenet121", "convnext_tiny", "conformer_tiny"])
def test_any_encoder_can_be_the_trunk(trunk):
    net = models.create("branched", 3, trunk=trunk, positions=PLACES)
    image = jnp.zeros((1, 64, 64, 1))
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    out = jax.eval_shape(net.apply, variables, image)
    assert out["logits"].shape == (1, 3)
    plain = jax.eval_shape(models.create(trunk, 3).init, jax.random.key(0), image)
    ours = jax.tree.map(jnp.shape, variables["params"]["encoder"])
    assert ours == jax.tree.map(jnp.shape, plain["params"]["encoder"])


def test_branches_start_from_the_trunk_of_another_run(tmp_path):
    config = experiment("branches", "tests.training.schemes.test_grouped:cells")
    plain = ConfigDict(config.to_dict())
    plain.scheme = ConfigDict({"name": "supervised"})
    plain.train_for = "2 steps"
    loop.train(plain, tmp_path)
    config.init_from = str(tmp_path)
    config = experiments.complete(config, films())
    state = grouped.init(config, jax.random.key(0), make_batch())["merged"]
    run = restored.restore(tmp_path).states["cells"]
    equal(state.params["encoder"], run.params["encoder"])
    equal(state.batch_stats["encoder"], run.batch_stats["encoder"])
    assert {"conv1", "norm1", "head1", "conv2"} < set(state.params["head"])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"positions": ((0, 1),)}, "do not hold each of 3"),
        ({"positions": ((0, 1), (1, 2))}, "do not hold each of 3"),
        ({"trunk": "tests.toy:create"}, "has no encoder"),
        ({"trunk": "resnet19"}, "resnet18"),
        ({"widht": 3}, "did you mean 'width'"),
    ],
)
def test_branches_that_cannot_be_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        branched.branched(3, **options)


# --- found groups


def test_groups_are_found_among_the_training_films_alone():
    rng = np.random.default_rng(0)
    label = (rng.random((96, 3)) < 0.3).astype(np.float32)
    label[:64, 2] = label[:64, 0]  # in training Top comes with Left
    label[64:, 2] = label[64:, 1]  # elsewhere with Right
    table = {"id": films().table["id"]}
    table.update({f"label/{name}": label[:, k] for k, name in enumerate(toy.LABELS)})
    config = experiments.complete(experiment("clustered"), films(table=table))
    assert config.scheme.found == (("Left", "Top"), ("Right",)) and config.scheme.groups == ()


def test_groups_are_found_from_what_a_trained_network_looks_for(tmp_path):
    plain = experiments.base("tests.toy:", "tests.training.schemes.test_grouped:linear", 16)
    plain.batch_size = plain.eval_batch_size = 16
    plain.train_for, plain.schedule.warmup = "2 steps", "0 steps"
    loop.train(plain, tmp_path)
    vectors = grouped.classifier_vectors(str(tmp_path), "best", toy.LABELS)
    kernel = restored.restore(tmp_path).states["linear"].params["head"]["kernel"]
    np.testing.assert_array_equal(vectors, np.asarray(kernel, np.float64).T)
    config = experiment("clustered", clustering="features", workdir=str(tmp_path))
    completed = experiments.complete(config, films())
    assert completed.scheme.found == groups.by_features(vectors, toy.LABELS, 2, config.seed)
    with pytest.raises(UserError, match="answers to Left"):
        grouped.classifier_vectors(str(tmp_path), "best", ("Left", "Top", "Right"))


def test_a_run_keeps_the_groups_that_it_found(tmp_path):
    config = experiment("clustered")
    loop.train(config, tmp_path / "whole")
    loop.train(config, tmp_path / "parts", stop_at=2)
    loop.train(config, tmp_path / "parts")
    saved, _, whole, _ = checkpoint.restore_variables(tmp_path / "whole", "latest")
    equal(whole, checkpoint.restore_variables(tmp_path / "parts", "latest")[2])
    found = [tuple(group) for group in saved["scheme"]["found"]]
    assert sorted(label for group in found for label in group) == sorted(toy.LABELS)
    assert set(whole) == {"group1", "group2"}
    result = evaluate.evaluate(tmp_path / "whole")
    assert set(result["networks"]) == {"merged"}
    assert result["networks"]["merged"]["macro"]["classes"] == 3


def test_the_manual_groups_are_those_of_the_findings():
    config = chestxray14_grouped.get_config("manual,data=phantom,size=64")
    opened = films(labels=dataset.LABELS)
    config = experiments.complete(config, opened)
    assert config.scheme.groups == groups.CHESTXRAY14
    widths = {name: len(part.config.labels) for name, part in grouped.parts(config).items()}
    assert widths == {"group1": 6, "group2": 4, "group3": 2, "group4": 2}


@pytest.mark.parametrize(
    "fields, changes, words",
    [
        ({"kind": "seperate"}, {}, "did you mean 'separate'"),
        ({"groups": ()}, {"clustering": "labels"}, "cooccurrence"),
        ({"groups": (("Left", "Top"),)}, {}, "Right"),
        ({"groups": (("Left", "Tpo"), ("Right",))}, {}, "did you mean 'Top'"),
        ({"groups": (), "clustering": "features"}, {}, "config.scheme.workdir is empty"),
    ],
)
def test_mistakes_get_one_clear_line(fields, changes, words):
    with pytest.raises(UserError, match=words):
        experiments.complete(experiment(**fields, **changes), films())


def test_one_of_n_labels_are_not_grouped():
    with pytest.raises(UserError, match="is multiclass"):
        experiments.complete(experiment(), films(task="multiclass"))
    with pytest.raises(UserError, match="did you mean 'clustered'"):
        chestxray14_grouped.get_config("cluster")


def test_step_count_and_keys_do_not_depend_on_the_number_of_groups():
    # Two steps in one call are two calls, dropout keys included.
    config = experiments.complete(experiment(), films())
    batch, key = make_batch(), jax.random.key(1)
    states = grouped.init(config, jax.random.key(0), batch)
    step = grouped.make_step(config)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), batch)
    together, _ = jax.jit(steps.scan_steps(step))(states, twice, key)
    one = jax.jit(step)
    single, _ = one(one(states, batch, key)[0], batch, key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), together, single
    )
