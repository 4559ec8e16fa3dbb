"""Norms folded into convolutions: the same answers, and nothing folded that is read elsewhere."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.models import conformer, densenet, folding, layers, resnet, resunet
from tests.models.test_convolutions import in_float64, off

Conv, BatchNorm = layers.Conv, layers.BatchNorm


class Pair(nn.Module):
    """A convolution and its norm."""

    options: dict
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(6, **self.options, name="conv")(x)
        return BatchNorm(eps=self.eps, name="norm")(x, train)


def moved(variables, seed=0):
    """Variables away from where they start, with norms that change a lot."""
    rng = np.random.default_rng(seed)

    def move(path, leaf):
        name = path[-1].key
        new = (rng.uniform(0.3, 3, leaf.shape) if name in ("scale", "var")
               else rng.normal(0, 0.5, leaf.shape) if name in ("mean", "bias") else leaf)
        return jnp.asarray(new, leaf.dtype)

    return jax.tree_util.tree_map_with_path(move, variables)


def predict_of(module):
    return lambda variables, x: module.apply(variables, x, train=False)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize("options", [
    {"kernel": 3}, {"kernel": 3, "stride": 2}, {"kernel": 1}, {"kernel": 3, "bias": True},
    {"kernel": 3, "depthwise": True},
], ids=str)
def test_a_pair_is_the_plain_sum_and_its_norm(options, eps):
    module = Pair(options, eps)
    x = jax.random.normal(jax.random.key(1), (3, 7, 9, 6))
    variables = moved(module.init(jax.random.key(0), x))
    kernel = np.asarray(variables["params"]["conv"]["kernel"], np.float64)
    if "depthwise" in options:
        kernel = np.stack([kernel[:, :, 0] * (np.arange(6) == i) for i in range(6)], 2)
    k, stride = options["kernel"], options.get("stride", 1)
    size = (3, *((n - 1) // stride + 1 for n in (7, 9)), 6)
    want, _, _ = in_float64(x, kernel, np.zeros(size), stride, k // 2)
    conv, norm = variables["params"]["conv"], variables["params"]["norm"]
    stats = variables["batch_stats"]["norm"]
    want = want + np.asarray(conv.get("bias", 0), np.float64)
    want = (want - np.asarray(stats["mean"], np.float64)) / np.sqrt(
        np.asarray(stats["var"], np.float64) + eps)
    want = want * np.asarray(norm["scale"], np.float64) + np.asarray(norm["bias"], np.float64)
    new, folded, norms = folding.fold(predict_of(module), variables, x)
    assert (folded, norms) == (1, 1)
    assert off(module.apply(new, x), want) < 1e-5
    # What is left of the norm is a bias.
    alone = Conv(6, **options).apply({"params": new["params"]["conv"]}, x)
    assert off(alone + new["params"]["norm"]["bias"], want) < 1e-5


class Not(nn.Module):
    """Norms that are not to be folded."""

    why: str

    @nn.compact
    def __call__(self, x, train=False):
        one, other = Conv(6, 3, name="one"), Conv(6, 3, name="other")
        norm, second = BatchNorm(name="norm"), BatchNorm(name="second")
        if self.why == "before the convolution":
            return one(nn.relu(norm(x, train)))
        if self.why == "read twice":
            y = one(x)
            return norm(y, train) + y
        if self.why == "given as well":
            y = one(x)
            return norm(y, train), y
        if self.why == "two norms":
            y = one(x)
            return norm(y, train) + second(y, train)
        if self.why == "one norm of two":
            return norm(one(x), train) + norm(other(x), train)
        if self.why == "a convolution of two":
            return norm(one(x), train) + second(one(nn.relu(x)), train)
        if self.why == "something between":
            return norm(nn.relu(one(x)), train)
        assert self.why == "in remat"
        return nn.remat(Pair)({"kernel": 3}, name="pair")(x)


@pytest.mark.parametrize("why", [
    "before the convolution", "read twice", "given as well", "two norms", "one norm of two",
    "a convolution of two", "something between", "in remat",
])
def test_what_is_read_elsewhere_stays(why):
    module = Not(why)
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 6))
    variables = moved(module.init(jax.random.key(0), x))
    new, folded, norms = folding.fold(predict_of(module), variables, x)
    assert folded == 0 and norms == (2 if why in ("two norms", "a convolution of two") else 1)
    jax.tree.map(np.testing.assert_array_equal, new, variables)


def test_several_networks_that_answer_twice_are_folded_once():
    """As peers with their mirrored films are."""
    module = Pair({"kernel": 3})
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 6))
    both = {name: moved(module.init(jax.random.key(0), x), seed) for seed, name in enumerate("ab")}

    def predict(both, x):
        answers = [module.apply(v, film) for v in both.values() for film in (x, x[:, :, ::-1])]
        return sum(answers)

    new, folded, norms = folding.fold(predict, both, jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert (folded, norms) == (2, 2)
    assert off(predict(new, x), np.asarray(predict(both, x))) < 1e-5


NETWORKS = {
    # stem; two blocks, the second with a shortcut of its own
    "resnet": (lambda: resnet.resnet18(3, width=8, depths=(1, 1)), 6, 6),
    # stem and the norms between a layer's two convolutions; not those before, nor the last
    "densenet": (lambda: densenet.densenet121(3, growth=8, depths=(2, 2)), 5, 11),
    "conformer": (lambda: conformer.conformer_tiny(3, depth=6), None, None),
    "resunet": (lambda: resunet.resunet(3, encoder="resnet18", num_masks=1), None, None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_the_same(name):
    make, folded, norms = NETWORKS[name]
    module = make()
    x = jax.random.normal(jax.random.key(1), (2, 64, 64, 1))
    variables = moved(jax.jit(lambda: module.init(jax.random.key(0), x))())
    answer = jax.jit(predict_of(module))
    new, *counts = folding.fold(predict_of(module), variables, x)
    if folded:
        assert counts == [folded, norms]
    assert counts[0] > 0 and counts[0] > counts[1] // 3
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, variables, new)
    assert all(jax.tree.leaves(same))
    wanted, found = answer(variables, x), answer(new, x)
    for key, value in wanted.items():
        assert off(found[key], np.asarray(value)) < 1e-5, key
