"""Mutual learning against a slow reference in NumPy, solo training, and what it costs."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from scipy.special import expit, log_softmax, softmax

from configs import chestxray14_mutual
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate
from cxrjax.models.layers import BatchNorm
from cxrjax.training import checkpoint, loop, steps, validation
from cxrjax.training import experiment as experiments
from cxrjax.training.schemes import mutual, supervised
from cxrjax.training.schemes._answers import mean_probability
from tests import toy

SGD = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.01, "clip_norm": 0.0}
# A small rate: AdamW divides by |g|, and so magnifies float32's rounding of the smallest gradients.
ADAMW = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "clip_norm": 0.0}


class Mlp(nn.Module):
    """Linear, batch norm, ReLU, linear: small enough to be written out in NumPy below."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, image, train):
        x = nn.Dense(self.width, use_bias=False, name="first")(image.reshape(len(image), -1))
        x = nn.relu(BatchNorm(name="norm")(x, train))
        return {"logits": nn.Dense(self.num_classes, name="last")(x)}


def mlp(num_classes, *, width=6):
    return Mlp(num_classes, width)


def complete(cohort, task="multilabel", **fields):
    """A completed config; cohort: {name: {model, optimizer, seed}}, fields: of the scheme."""
    loss = "bce" if task == "multilabel" else "softmax_ce"
    config = experiments.base("tests.toy:", "tests.toy:create", 16, loss)
    config.batch_size, config.train_for = 8, "10 steps"
    config.schedule = ConfigDict({"name": "constant", "warmup": "0 steps"})
    config.scheme = ConfigDict({
        "name": "mutual", "networks": tuple(cohort), "order": "sequential", "peers": "mean",
        "kl_weight": 1.0, "temperature": 1.0, "kl_labels": "mean", **fields,
    })
    config.networks = ConfigDict(cohort)
    films = toy.load({"films": 96, "image_size": 16, "with_unknown": False})
    return experiments.complete(config, dataclasses.replace(films, task=task))


def make_batch(task="multilabel", size=8, count=None, side=16, unknown=True):
    """Films with one of weight 0 and, for independent labels, unknown ones."""
    shape = (count, size) if count else (size,)
    keys = jax.random.split(jax.random.key(5), 2)
    image = jax.random.uniform(keys[0], (*shape, side, side, 1))
    truth = jax.random.uniform(keys[1], (*shape, 3))
    if task == "multilabel":
        label = (truth < 0.4).astype(jnp.float32)
        label = label.at[..., 0, 1].set(jnp.nan).at[..., 2, :].set(jnp.nan) if unknown else label
    else:
        label = jax.nn.one_hot(truth.argmax(-1), 3)
    return {"image": image, "label": label, "weight": jnp.ones(shape).at[..., -1].set(0.0)}


def at(batch, index):
    return jax.tree.map(lambda x: x[index], batch)


def close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(x, y, **tolerance, err_msg=jax.tree_util.keystr(path))


# --- the reference: float64, every answer computed anew whenever somebody asks for it


class Reference:
    """One network of the cohort: weights, running statistics and optimizer written out."""

    def __init__(self, state, optimizer):
        tree = jax.tree.map(lambda x: np.asarray(x, np.float64), (state.params, state.batch_stats))
        (self.p, self.stats), self.optimizer, self.t = tree, optimizer, 0
        names = ("trace",) if optimizer["name"] == "sgd" else ("mu", "nu")
        self.slots = {n: jax.tree.map(np.zeros_like, self.p) for n in names}

    def answer(self, x):
        """Logits in training mode, and what the backward pass and the statistics need."""
        h = x @ self.p["first"]["kernel"]
        mean, var = h.mean(0), h.var(0)
        unit = (h - mean) / np.sqrt(var + 1e-5)
        y = unit * self.p["norm"]["scale"] + self.p["norm"]["bias"]
        z = np.maximum(y, 0) @ self.p["last"]["kernel"] + self.p["last"]["bias"]
        return z, (unit, y, mean, var)

    def learn(self, x, dz):
        """One optimizer step on the gradient `dz` of the logits; running statistics move."""
        _, (unit, y, mean, var) = self.answer(x)
        n = len(x)
        relu = np.maximum(y, 0)
        dy = dz @ self.p["last"]["kernel"].T * (y > 0)
        du = dy * self.p["norm"]["scale"]
        dh = (du - du.mean(0) - unit * (du * unit).mean(0)) / np.sqrt(var + 1e-5)
        grads = {
            "first": {"kernel": x.T @ dh},
            "norm": {"scale": (dy * unit).sum(0), "bias": dy.sum(0)},
            "last": {"kernel": relu.T @ dz, "bias": dz.sum(0)},
        }
        running = self.stats["norm"]
        self.stats = {"norm": {"mean": 0.9 * running["mean"] + 0.1 * mean,
                               "var": 0.9 * running["var"] + 0.1 * var * n / (n - 1)}}
        self.t += 1
        rate, decay = self.optimizer["learning_rate"], self.optimizer["weight_decay"]
        for layer, arrays in grads.items():
            for name, g in arrays.items():
                w = self.p[layer][name]
                decayed = decay * w * (w.ndim > 1)
                if self.optimizer["name"] == "sgd":  # Nesterov, decay as part of the gradient
                    g = g + decayed
                    m = self.slots["trace"][layer][name] = (
                        0.9 * self.slots["trace"][layer][name] + g
                    )
                    self.p[layer][name] = w - rate * (g + 0.9 * m)
                else:  # AdamW, decoupled decay
                    m = 0.9 * self.slots["mu"][layer][name] + 0.1 * g
                    v = 0.999 * self.slots["nu"][layer][name] + 0.001 * g * g
                    self.slots["mu"][layer][name], self.slots["nu"][layer][name] = m, v
                    m_hat, v_hat = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
                    self.p[layer][name] = w - rate * (m_hat / (np.sqrt(v_hat) + 1e-8) + decayed)


def logit_gradient(z, peers, label, weight, task, scheme):
    """d loss / d z of  batch mean(label loss + kl_weight T^2 sum or mean_j KL(p_j || p))."""
    temperature, dz = scheme.temperature, np.zeros_like(z)
    for i in range(len(z)):
        if weight[i] == 0:
            continue
        known = ~np.isnan(label[i])
        if task == "multilabel":
            if known.any():
                dz[i, known] = (expit(z[i]) - label[i])[known] / known.sum()
        else:
            dz[i] = softmax(z[i]) - label[i]
        for peer in peers:
            if task == "multilabel":
                pull = temperature * (expit(z[i] / temperature) - expit(peer[i] / temperature))
                pull = pull / len(pull) if scheme.kl_labels == "mean" else pull
            else:
                pull = temperature * (softmax(z[i] / temperature) - softmax(peer[i] / temperature))
            if scheme.peers == "mean":
                pull = pull / len(peers)
            dz[i] += scheme.kl_weight * pull
        dz[i] *= weight[i] / weight.sum()
    return dz


def reference_step(cohort, batch, config):
    image = np.asarray(batch["image"], np.float64)
    x = ((image - config.normalize.mean) / config.normalize.std).reshape(len(image), -1)
    label, weight = np.asarray(batch["label"], np.float64), np.asarray(batch["weight"])
    before = {name: net.answer(x)[0] for name, net in cohort.items()}
    for name, net in cohort.items():
        peers = []
        for other, peer in cohort.items():
            if other != name:
                sequential = config.scheme.order == "sequential"
                peers.append(peer.answer(x)[0] if sequential else before[other])
        z = net.answer(x)[0]
        net.learn(x, logit_gradient(z, peers, label, weight, config.task, config.scheme))


THREE = {
    "b": {"model": {"name": f"{__name__}:mlp", "width": 5}, "optimizer": SGD},
    "a": {"model": {"name": f"{__name__}:mlp", "width": 6}, "optimizer": ADAMW},
    "c": {"model": {"name": f"{__name__}:mlp", "width": 5}, "optimizer": ADAMW},
}


@pytest.fixture(scope="module")
def fresh():
    """The three networks of the comparison with the reference, before their first step."""
    return mutual.init(complete(THREE), jax.random.key(0), make_batch(side=5))


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("order", ["sequential", "simultaneous"])
@pytest.mark.parametrize("count, peers", [(2, "mean"), (3, "mean"), (3, "sum")])
def test_steps_agree_with_the_reference(fresh, task, order, count, peers):
    config = complete(
        dict(list(THREE.items())[:count]), task, order=order, peers=peers, kl_weight=0.7,
        temperature=2.0, kl_labels="sum" if count == 2 else "mean",
    )
    states = {name: fresh[name] for name in config.scheme.networks}
    cohort = {
        name: Reference(state, {**config.optimizer, **THREE[name]["optimizer"]})
        for name, state in states.items()
    }
    step = jax.jit(mutual.make_step(config))
    batches = make_batch(task, count=2, side=5)
    for i in range(2):
        states, _ = step(states, at(batches, i), jax.random.key(1))
        reference_step(cohort, at(batches, i), config)
    for name, net in cohort.items():
        close(states[name].params, net.p, rtol=1e-5, atol=1e-5)
        close(states[name].batch_stats, net.stats, rtol=1e-5, atol=1e-5)
        for slot, expected in net.slots.items():
            found = optax.tree_utils.tree_get(states[name].opt_state, slot)
            close(found, expected, rtol=1e-5, atol=1e-5)


# --- a cohort of two architectures, one with dropout and two heads, the other with batch norm


class TwoHeads(nn.Module):
    """As Conformer: the label loss is over both heads, the answer is their mean."""

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, image, train):
        x = image.reshape(len(image), -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        both = jnp.stack([nn.Dense(self.num_classes)(x), nn.Dense(self.num_classes)(x)])
        return {"logits": both.mean(0), "head_logits": both}


def two_heads(num_classes, *, dropout=0.3):
    return TwoHeads(num_classes, dropout)


MIXED = {
    "heads": {"model": {"name": f"{__name__}:two_heads"}},
    "mlp": {"model": {"name": f"{__name__}:mlp"}, "optimizer": SGD, "seed": 11},
}


def test_t_steps_in_one_call_are_t_calls():
    config = complete(MIXED)
    augmented = ConfigDict(config.to_dict())
    augmented.augment.brightness = 0.2
    batches, key = make_batch(count=3), jax.random.key(1)
    step = mutual.make_step(augmented)
    start = mutual.init(config, jax.random.key(0), at(batches, 0))
    together, logs = jax.jit(steps.scan_steps(step, unroll=False))(start, batches, key)
    single, one = start, jax.jit(step)
    for i in range(3):
        single, log = one(single, at(batches, i), key)
        np.testing.assert_allclose(log["loss"], logs["loss"][i], rtol=1e-5)
    close(together, single, rtol=1e-5, atol=1e-6)
    assert {"heads/loss", "heads/kl", "mlp/loss", "mlp/grad_norm"} < logs.keys()


def run(scheme, config, key, states, batches):
    step = jax.jit(scheme.make_step(config))
    for i in range(len(batches["image"])):
        states, _ = step(states, at(batches, i), key)
    return states


def test_without_the_kl_each_network_is_the_one_trained_alone():
    config = complete(MIXED, kl_weight=0.0)
    batches = make_batch(count=4)
    init_key, step_key = steps.keys_of(config.seed)
    states = mutual.init(config, init_key, at(batches, 0))
    states = run(mutual, config, step_key, states, batches)
    for name, net in mutual.networks(config).items():
        solo = ConfigDict(config.to_dict())
        solo.seed, solo.optimizer = net.seed, ConfigDict(net.optimizer)
        solo.model = ConfigDict(net.model)
        init_key, step_key = steps.keys_of(net.seed)
        alone = supervised.init(solo, init_key, at(batches, 0))
        (alone,) = run(supervised, solo, step_key, alone, batches).values()
        close(states[name].params, alone.params, rtol=0, atol=1e-6)
        close(states[name].batch_stats, alone.batch_stats, rtol=0, atol=1e-6)
        close(states[name].opt_state, alone.opt_state, rtol=0, atol=1e-6)


def test_identical_peers_have_nothing_to_teach_each_other():
    twin = {"model": {"name": f"{__name__}:mlp"}, "seed": 3}
    config = complete({"one": twin, "two": twin}, order="simultaneous")
    batches, mesh = make_batch(count=3), steps.make_mesh(jax.devices()[:1])
    states = steps.replicate(mutual.init(config, jax.random.key(0), at(batches, 0)), mesh)
    # jit_steps donates the states: twins that shared their buffers would fail here.
    together = steps.jit_steps(mutual.make_step(config), mesh, unroll=False)
    states, logs = together(states, steps.shard(batches, mesh, axis=1), jax.random.key(1))
    assert np.all(np.abs(logs["one/kl"]) < 1e-9) and np.all(np.abs(logs["two/kl"]) < 1e-9)
    close(states["one"].params, states["two"].params, rtol=0, atol=0)
    close(logs["one/loss"], logs["two/loss"], rtol=0, atol=0)


def test_in_turn_the_second_twin_learns_from_the_first_ones_new_weights():
    twin = {"model": {"name": f"{__name__}:mlp"}, "seed": 3}
    config = complete({"one": twin, "two": twin}, order="sequential")
    batch = make_batch()
    states = mutual.init(config, jax.random.key(0), batch)
    new, logs = jax.jit(mutual.make_step(config))(states, batch, jax.random.key(1))
    prepared = steps.prepare_train(config, jax.random.key(2), batch)

    def answer(state):
        outputs, _ = steps.forward_train(
            state, state.params, prepared["image"], jax.random.key(3)
        )
        return np.asarray(outputs["logits"], np.float64)

    p, q = expit(answer(new["one"])), expit(answer(states["two"]))
    kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1)[:-1].mean()
    assert abs(float(logs["one/kl"])) < 1e-9 and kl > 1e-3
    np.testing.assert_allclose(logs["two/kl"], kl, rtol=1e-4)


# --- cost


def test_flops_are_those_of_no_forward_pass_done_twice():
    small = {"name": "resnet18", "width": 8, "depths": (1, 1), "small_stem": True}
    batch = make_batch()
    flops = {}
    for order in ("supervised", "sequential", "simultaneous"):
        config = complete({"one": {"model": small}, "two": {"model": small}})
        config = ConfigDict(config.to_dict())
        config.model = ConfigDict(small)
        config.scheme.order = "sequential" if order == "supervised" else order
        scheme = supervised if order == "supervised" else mutual
        states = jax.eval_shape(
            lambda c=config, s=scheme: s.init(c, jax.random.key(0), batch)
        )
        # As written: the compiler may share work, but it was seen not to (benchmarks compile).
        step = jax.jit(scheme.make_step(config)).lower(states, batch, jax.random.key(1))
        flops[order] = step.cost_analysis()["flops"]
    assert flops["sequential"] <= 2.35 * flops["supervised"]
    assert flops["simultaneous"] <= 2.02 * flops["supervised"]
    # A bound from below as well, or a cost analysis that sees no convolution would pass.
    assert flops["sequential"] > 2.25 * flops["supervised"]
    assert flops["supervised"] > 1e6


# --- devices


def fingerprint(devices):
    """Losses of three steps on a mesh of the devices, and the size of every array after them."""
    config, mesh, data = complete(MIXED), steps.make_mesh(devices), make_batch(size=16, count=3)
    states = steps.replicate(mutual.init(config, jax.random.key(0), at(data, 0)), mesh)
    together = steps.jit_steps(mutual.make_step(config), mesh, unroll=False)
    data = {k: np.asarray(v) for k, v in data.items()}
    states, logs = together(states, steps.shard(data, mesh, axis=1), jax.random.key(1))
    sizes = [float(np.abs(x).sum()) for x in jax.tree.leaves(jax.device_get(states))]
    return [*(float(x) for x in logs["loss"]), *sizes]


def test_one_device_and_eight_agree(on_eight_devices):
    one = fingerprint(jax.devices()[:1])
    eight = on_eight_devices["tests.training.schemes.test_mutual"]
    np.testing.assert_allclose(one, eight, rtol=1e-5, atol=1e-5)


# --- a whole run


def experiment():
    config = chestxray14_mutual.get_config(
        f"{__name__}:two_heads,tests.training.schemes.test_mutual:mlp,data=tests.toy:,size=16"
    )
    config.batch_size = config.eval_batch_size = 16
    config.train_for, config.evaluate_every = "6 steps", "2 steps"
    config.checkpoint_every, config.log_every = "3 steps", "2 steps"
    config.schedule.warmup = "2 steps"
    config.networks.mlp.model.width = 4
    return config


def test_a_run_resumes_exactly_and_reports_every_network_by_name(tmp_path, capsys):
    config = experiment()
    loop.train(config, tmp_path / "whole")
    assert re.search("convergence at epoch: .*mlp [0-9]", capsys.readouterr().out)
    loop.train(config, tmp_path / "parts", stop_at=3)
    loop.train(config, tmp_path / "parts")
    whole, parts = (
        jax.tree.map(np.asarray, checkpoint.restore_variables(tmp_path / name, "latest")[2])
        for name in ("whole", "parts")
    )
    close(whole, parts, rtol=0, atol=0)
    result = evaluate.evaluate(tmp_path / "whole")
    assert set(result["networks"]) == {"two_heads", "mlp", "ensemble"}
    assert set(result["run"]["convergence"]) == {"two_heads", "mlp", "ensemble"}
    page = (tmp_path / "whole" / "evaluation" / "test" / "report.md").read_text()
    assert "convergence" in page and "| ensemble |" in page


def test_convergence_is_told_in_epochs_for_each_network():
    rows = [{"step": 50 * (i + 1), "val/a/loss": a, "val/b/loss": b, "val/a/auroc": 0.5}
            for i, (a, b) in enumerate([(0.9, 0.9), (0.7, 0.8), (0.8, 0.7), (0.8, None)])]
    found = validation.convergence([{"step": 10, "train/loss": 1.0}, *rows], 100)
    assert found == {"a": 1.0, "b": 1.5}
    assert validation.convergence([{"step": 1, "val/a/loss": None}], 100) == {}


def test_a_network_of_the_config_follows_the_common_fields_until_it_has_its_own():
    config = chestxray14_mutual.get_config("resnet50,resnet18,resnet18,data=phantom,size=64")
    assert config.scheme.networks == ("resnet50", "resnet18", "resnet18_2")
    config.optimizer.learning_rate, config.seed = 5e-4, 7
    config.networks.resnet18.optimizer.learning_rate = 1e-4
    config.model.width, config.networks.resnet18_2.model.width = 32, 16
    networks = mutual.networks(config)
    rates = [net.optimizer["learning_rate"] for net in networks.values()]
    assert rates == [5e-4, 1e-4, 5e-4] and config.optimizer.learning_rate == 5e-4
    assert [net.seed for net in networks.values()] == [7, 1007, 2007]
    assert [net.model["width"] for net in networks.values()] == [32, 32, 16]
    assert [net.model["depths"][2] for net in networks.values()] == [6, 2, 2]
    assert list(networks) == list(config.scheme.networks)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"order": "sequentiel"}, "did you mean 'sequential'"),
        ({"peers": "avg"}, "config.scheme.peers"),
        ({"temperature": 0.0}, "above 0"),
        ({"networks": ("mlp", "mlp")}, "mlp_2"),
        ({"networks": ("heads", "mpl")}, "did you mean 'mlp'"),
        ({"networks": ()}, "name the networks"),
    ],
)
def test_mistakes_get_one_clear_line(fields, words):
    config = complete(MIXED, **fields)
    with pytest.raises(UserError, match=words):
        mutual.make_step(config)


def test_the_ensemble_is_the_mean_of_the_probabilities():
    logits = 3 * jax.random.normal(jax.random.key(0), (3, 5, 4))
    both = np.asarray(logits, np.float64)
    mean = mean_probability(logits, "multilabel")
    np.testing.assert_allclose(expit(mean), expit(both).mean(0), rtol=1e-5)
    mean = mean_probability(logits, "multiclass")
    np.testing.assert_allclose(softmax(mean, -1), softmax(both, -1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(log_softmax(mean, -1), mean, atol=1e-5)
    # At a temperature the softened probabilities are averaged, and the scale is kept.
    mean = mean_probability(logits, "multilabel", 4.0)
    np.testing.assert_allclose(expit(mean / 4), expit(both / 4).mean(0), rtol=1e-5)
    np.testing.assert_array_equal(mean_probability(logits[:1], "multilabel", 4.0), logits[0])
