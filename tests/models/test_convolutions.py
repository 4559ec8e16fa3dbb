"""Every way of convolving against the plain sum in float64, and which way is taken when."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from cxrjax.data import sets
from cxrjax.models import convolutions, parts, winograd
from cxrjax.names import scheme_of
from cxrjax.training import experiment, steps
from tests import small_run

WAYS = {
    "winograd": (winograd.by_winograd, 3, 1, 1),
    "narrowing": (convolutions.narrowing, 3, 1, 1),
    "patches": (lambda x, k: convolutions.by_patches(x, k, 1, 1), 3, 1, 1),
    "patches, stride 2": (lambda x, k: convolutions.by_patches(x, k, 2, 1), 3, 2, 1),
    "stem": (lambda x, k: convolutions.by_patches(x, k, 2, 3), 7, 2, 3),
}


def in_float64(x, kernel, g, stride, padding):
    """The convolution and its derivatives by x and the kernel, summed tap by tap in NumPy."""
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    k, (_, h, w, _) = kernel.shape[0], x.shape
    wide = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    high, across = g.shape[1:3]
    y, d_wide, d_kernel = np.zeros(g.shape), np.zeros_like(wide), np.zeros_like(kernel)
    for i, j in np.ndindex(k, k):
        under = np.s_[:, i : i + stride * (high - 1) + 1 : stride,
                      j : j + stride * (across - 1) + 1 : stride]
        y += wide[under] @ kernel[i, j]
        d_wide[under] += g @ kernel[i, j].T
        d_kernel[i, j] = np.einsum("bhwc,bhwo->co", wide[under], g)
    return y, d_wide[:, padding : padding + h, padding : padding + w], d_kernel


def off(a, b):
    """The largest difference, of the largest value."""
    return float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())


# Odd and even sizes; batches of which the last part is filled up; as many films as parts and fewer.
@pytest.mark.parametrize("size", [(5, 3, 4, 5), (4, 8, 6, 40), (3, 7, 7, 64)])
@pytest.mark.parametrize("laid_out", [None, 1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_a_way_is_the_plain_sum(way, size, laid_out, monkeypatch):
    convolve, k, stride, padding = WAYS[way]
    c = size[-1]
    outputs = c // 2 if way == "narrowing" else c + 3
    rng = np.random.default_rng(c)
    x = rng.normal(size=size).astype(np.float32)
    kernel = rng.normal(size=(k, k, c, outputs)).astype(np.float32)
    g = rng.normal(size=(size[0], *((n - 1) // stride + 1 for n in size[1:3]), outputs))
    if laid_out:
        monkeypatch.setattr(parts, "films_of_a_part", lambda batch, _: min(batch, laid_out))

    @jax.jit
    def ours(x, kernel, g):
        y, back = jax.vjp(convolve, x, kernel)
        return y, *back(g)

    y, d_x, d_kernel = ours(x, kernel, g.astype(np.float32))
    want = in_float64(x, kernel, g, stride, padding)
    assert y.shape == want[0].shape
    assert off(y, want[0]) < 1e-5
    assert off(d_x, want[1]) < 1e-4 and off(d_kernel, want[2]) < 1e-4


def test_winograds_derivative_by_the_kernel_over_many_positions():
    # 8 x 56 x 56 terms to a sum: rounding adds up here if anywhere.
    rng = np.random.default_rng(0)
    x, g = (rng.normal(1, size=(8, 56, 56, 32)).astype(np.float32) for _ in range(2))
    kernel = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    y, back = jax.vjp(winograd.by_winograd, jnp.asarray(x), jnp.asarray(kernel))
    want = in_float64(x, kernel, g, 1, 1)
    assert off(y, want[0]) < 1e-5
    d_x, d_kernel = jax.jit(back)(g)
    assert off(d_x, want[1]) < 1e-4 and off(d_kernel, want[2]) < 1e-4


def test_films_of_a_part_divide_the_batch_where_that_costs_few(monkeypatch):
    monkeypatch.setattr(parts, "LAID_OUT", 100)
    of = parts.films_of_a_part
    assert [of(32, 10), of(32, 12), of(32, 100), of(32, 101), of(3, 10)] == [8, 8, 1, 1, 3]
    assert of(31, 10) == 10  # four parts, of which the last is filled up
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert of(32, 10) == 32


@pytest.mark.parametrize(
    "size, channels, kernel, stride, way",
    [
        (56, (64, 64), 3, 1, "by_winograd"), (3, (512, 512), 3, 1, "by_winograd"),
        (8, (32, 32), 3, 1, "by_winograd"), (56, (128, 32), 3, 1, "by_winograd"),
        (16, (128, 32), 3, 1, "narrowing"), (2, (128, 32), 3, 1, "narrowing"),
        (2, (512, 512), 3, 1, "by_patches"), (56, (128, 128), 3, 2, "by_patches"),
        (224, (1, 64), 7, 2, "by_patches"), (64, (1, 64), 7, 2, "_xla"),
        (64, (1, 64), 3, 1, "_xla"), (64, (16, 16), 3, 1, "_xla"),
        (14, (64, 256), 1, 1, "product"), (14, (256, 512), 1, 2, "product"),
    ],
)
def test_shapes_choose_the_way(size, channels, kernel, stride, way, monkeypatch):
    taken = []
    ways = ("by_winograd", "narrowing", "by_patches", "product", "_xla")
    for name in ways:
        convolve = getattr(convolutions, name)

        def noted(*args, name=name, convolve=convolve):
            taken.append(name)
            return convolve(*args)

        monkeypatch.setattr(convolutions, name, noted)
    x = jax.ShapeDtypeStruct((2, size, size, channels[0]), jnp.float32)
    k = jax.ShapeDtypeStruct((kernel, kernel, *channels), jnp.float32)
    run = functools.partial(convolutions.convolve, stride=stride, padding=kernel // 2)
    y = jax.eval_shape(run, x, k)
    assert y.shape == (2, -(-size // stride), -(-size // stride), channels[1])
    assert taken == [way]
    taken.clear()
    with convolutions.traced_for("plain"):
        jax.eval_shape(run, x, k)
    assert set(taken) <= {"_xla"}


def test_a_training_goes_as_by_plain_convolutions():
    """Six steps of the scheme that users train with: the same losses, and the same weights against
    how far they went."""
    config = small_run.config()
    config.model = ConfigDict({"name": "resnet18", "width": 32, "depths": (1, 1)})
    config.augment.rotate = 0.0
    config = experiment.complete(config, sets.load(config.dataset.to_dict()))
    scheme, rng = scheme_of(config), np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (6, 8, 32, 32, 1), np.uint8),
             "label": (rng.random((6, 8, 14)) < 0.5).astype(np.float32),
             "weight": np.ones((6, 8), np.float32)}
    first = scheme.init(config, jax.random.key(0), jax.tree.map(lambda x: x[0], batch))

    def train(way):
        with convolutions.traced_for(way):
            states, logs = jax.jit(steps.scan_steps(scheme.make_step(config)))(
                first, batch, jax.random.key(1))
        ((name, state),) = states.items()
        return logs["loss"], ravel_pytree(state.params)[0], name

    (ours, weights, name), (plain, right, _) = train("here"), train("plain")
    start = ravel_pytree(first[name].params)[0]
    np.testing.assert_allclose(ours, plain, rtol=1e-4)
    assert np.linalg.norm(weights - right) < 1e-2 * np.linalg.norm(right - start)
    assert not np.array_equal(weights, right)  # the ways were different ones


@pytest.mark.parametrize("size, channels, kernel, stride", [
    (8, (32, 32), 3, 1), (8, (64, 16), 3, 1), (8, (32, 32), 3, 2), (128, (1, 32), 7, 2),
    (8, (32, 64), 1, 2),
], ids=str)
def test_every_way_is_exported_for_any_number_of_films(size, channels, kernel, stride):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(kernel, kernel, *channels)).astype(np.float32)
    x = rng.normal(size=(3, size, size, channels[0])).astype(np.float32)

    def run(x):
        return convolutions.convolve(x, jnp.asarray(weights), stride, kernel // 2)

    (b,) = jax.export.symbolic_shape("b")
    with convolutions.traced_for("each"):
        made = jax.export.export(jax.jit(run), platforms=("cpu", "cuda"))(
            jax.ShapeDtypeStruct((b, *x.shape[1:]), np.float32))
    found, want = jax.jit(made.call)(x), jax.jit(run)(jnp.asarray(x))
    assert off(found, np.asarray(want)) < 1e-5


def test_other_types_than_float32_are_not_transformed():
    x, kernel = jnp.ones((1, 8, 8, 32), jnp.bfloat16), jnp.ones((3, 3, 32, 32), jnp.bfloat16)
    run = functools.partial(convolutions.convolve, stride=1, padding=1)
    assert "conv_general_dilated" in str(jax.make_jaxpr(run)(x, kernel))
    y = run(x, kernel)
    assert y.dtype == jnp.bfloat16 and y[0, 4, 4, 0] == 9 * 32
