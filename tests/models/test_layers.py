"""The layers against hand-computed numbers and slow references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.models import layers

KEY = jax.random.key(0)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


# ---- batch normalisation


def test_batch_norm_by_hand():
    # Channel 0 holds 1, 2, 3, 6 (mean 3, biased variance 3.5, unbiased 14/3), channel 1 a constant.
    x = jnp.stack([jnp.array([1.0, 2.0, 3.0, 6.0]), jnp.full(4, 7.0)], -1).reshape(2, 2, 1, 2)
    norm = layers.BatchNorm()
    variables = {
        "params": {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([0.5, -1.0])},
        "batch_stats": {"mean": jnp.array([1.0, 1.0]), "var": jnp.array([2.0, 4.0])},
    }
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    want = 2 * (np.array([1, 2, 3, 6]) - 3) / np.sqrt(3.5 + 1e-5) + 0.5
    np.testing.assert_allclose(y[..., 0].ravel(), want, rtol=1e-6)
    np.testing.assert_allclose(y[..., 1].ravel(), [-1] * 4, atol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], [0.9 + 0.3, 0.9 + 0.7], rtol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["var"], [1.8 + 14 / 30, 3.6], rtol=1e-5)
    y = norm.apply(variables, x, False)
    want = 2 * (np.array([1, 2, 3, 6]) - 1) / np.sqrt(2 + 1e-5) + 0.5
    np.testing.assert_allclose(y[..., 0].ravel(), want, rtol=1e-6)


def test_batch_norm_only_predicts_where_statistics_may_not_move():
    x = normal(4, 3, 3, 2)
    norm = layers.BatchNorm()
    variables = norm.init(KEY, x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0, 0])
    y, moved = norm.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(norm.apply(variables, x, True), y)
    assert np.abs(moved["batch_stats"]["mean"]).min() > 0


def test_batch_norm_of_one_value_per_channel_is_finite():
    x = normal(1, 1, 1, 3)
    y, moved = layers.BatchNorm().init_with_output(KEY, x, True)
    np.testing.assert_allclose(y, 0, atol=1e-6)
    y, moved = layers.BatchNorm().apply(moved, x, True, mutable=["batch_stats"])
    assert np.isfinite(moved["batch_stats"]["var"]).all()


def test_batch_norm_gradient_is_that_of_the_textbook():
    x, g = normal(3, 4, 5, 2), normal(3, 4, 5, 2, seed=1)
    params = {"scale": jnp.array([1.5, -0.5]), "bias": jnp.array([0.1, 0.2])}
    norm = layers.BatchNorm()
    stats = norm.init(KEY, x, True)["batch_stats"]

    def ours(params, x):
        return jnp.sum(norm.apply({"params": params, "batch_stats": stats}, x, True) * g)

    d_params, d_x = jax.grad(ours, (0, 1))(params, x)
    # Ioffe & Szegedy 2015, section 3, in float64.
    x64, g64, n = np.float64(x), np.float64(g), x.size // 2
    std = np.sqrt(x64.var((0, 1, 2)) + 1e-5)
    hat = (x64 - x64.mean((0, 1, 2))) / std
    scale = np.array([1.5, -0.5])
    d_scale, d_bias = (g64 * hat).sum((0, 1, 2)), g64.sum((0, 1, 2))
    np.testing.assert_allclose(d_params["scale"], d_scale, rtol=1e-4)
    np.testing.assert_allclose(d_params["bias"], d_bias, rtol=1e-4)
    want = scale / std * (g64 - d_bias / n - hat * d_scale / n)
    np.testing.assert_allclose(d_x, want, rtol=1e-3, atol=1e-5)


def test_batch_statistics_are_float32_whatever_is_computed_in():
    # The sum of 4,096 values about 3 is far beyond bfloat16's 8 bits.
    x = (3 + 0.5 * normal(16, 16, 16, 2)).astype(jnp.bfloat16)
    norm = layers.BatchNorm(momentum=0.0, dtype=jnp.bfloat16)
    y, moved = norm.init_with_output(KEY, x, True)
    y, moved = norm.apply(moved, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    x64 = np.asarray(x, np.float64)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], x64.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["var"], x64.var((0, 1, 2), ddof=1), rtol=1e-4)


# ---- convolutions


@pytest.mark.parametrize("channels", [(6, 6), (3, 70), (70, 3)])
@pytest.mark.parametrize(
    "size, kernel, stride, padding, depthwise",
    [
        ((3, 4), 1, 1, 0, False),
        ((3, 4), 1, 2, 0, False),
        ((9, 7), 2, 2, 0, False),
        ((9, 7), 4, 4, 0, False),
        ((1, 2), 3, 1, 1, False),
        ((4, 3), 3, 2, 1, False),
        ((6, 7), 3, 2, 1, False),
        ((5, 7), 3, 1, 1, False),
        ((4, 4), 3, 1, 1, False),
        ((9, 8), 7, 2, 3, False),
        ((2, 9), 7, 1, 3, True),
        ((6, 6), 3, 2, 1, True),
    ],
)
def test_convolution_is_xlas_however_it_is_done(
    size, kernel, stride, padding, depthwise, channels
):
    inputs, outputs = (6, 6) if depthwise else channels
    x = normal(2, *size, inputs)
    conv = layers.Conv(outputs, kernel, stride, padding, bias=True, depthwise=depthwise)
    shape = (kernel, kernel, 1 if depthwise else inputs, outputs)
    params = {"kernel": normal(*shape, seed=1), "bias": jnp.arange(float(outputs))}

    def reference(params, x):
        return params["bias"] + jax.lax.conv_general_dilated(
            x,
            params["kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=inputs if depthwise else 1,
        )

    def ours(params, x):
        return conv.apply({"params": params}, x)

    @jax.jit
    def both(params, x, g):
        return [(y, back(g)) for y, back in (jax.vjp(f, params, x) for f in (ours, reference))]

    g = normal(*jax.eval_shape(reference, params, x).shape, seed=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4), *both(params, x, g)
    )


@pytest.mark.parametrize("size", [(8, 8), (1, 7)])
def test_max_pool_and_its_gradient(size):
    # Whole numbers from a short range, so that many windows hold their maximum more than once.
    x = jnp.round(2 * normal(2, *size, 3))
    g = normal(2, *((n - 1) // 2 + 1 for n in size), 3, seed=1)

    @jax.jit
    def pool(x, g):
        y, back = jax.vjp(layers.max_pool, x)
        return y, back(g)[0]

    y, d_x = pool(x, g)
    assert y.shape == g.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    want, d_padded = np.zeros_like(y), np.zeros_like(padded)
    for b, i, j, c in np.ndindex(*y.shape):
        window = padded[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
        want[b, i, j, c] = window.max()
        u, v = np.unravel_index(window.argmax(), (3, 3))
        d_padded[b, 2 * i + u, 2 * j + v, c] += g[b, i, j, c]
    np.testing.assert_array_equal(y, want)
    np.testing.assert_allclose(d_x, d_padded[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-6)


def test_max_pool_does_not_hide_a_nan():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    y, _ = jax.vjp(layers.max_pool, x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(layers.max_pool(x)))
    assert np.isnan(y[0, :, 1, 0]).all()


def test_average_pool_drops_what_is_left_over():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_allclose(layers.average_pool(x, 2)[0, :, :, 0], [[3.0, 5.0]])


# ---- the other layers


def test_drop_path_drops_whole_films_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3, 1))
    y = layers.DropPath(0.25).apply({}, x, True, rngs={"dropout": KEY})
    per_film = np.asarray(y).reshape(4000, -1)
    assert (per_film == per_film[:, :1]).all()
    assert set(np.round(np.unique(per_film), 4)) == {0.0, np.float32(1.3333)}
    assert abs((per_film[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(layers.DropPath(0.25).apply({}, x, False), x)


def test_drop_path_rates_rise_from_zero():
    np.testing.assert_allclose(layers.drop_path_rates(0.3, 4), [0, 0.1, 0.2, 0.3])
    assert layers.drop_path_rates(0.3, 1) == [0]


def test_gelu_by_hand():
    # x Phi(x) with Phi(1) = 0.841344746, Phi(-2) = 0.022750132.
    got = layers.gelu(jnp.array([0.0, 1.0, -2.0]))
    np.testing.assert_allclose(got, [0, 0.841344746, -0.045500264], rtol=1e-5, atol=1e-7)


def test_layer_norm_by_hand():
    norm = layers.LayerNorm(eps=0.0)
    params = {"scale": jnp.array([1.0, 2.0, 1.0]), "bias": jnp.array([0.0, 1.0, 0.0])}
    y = norm.apply({"params": params}, jnp.array([[1000.0, 1003.0, 1006.0]]))
    np.testing.assert_allclose(y, [[-(1.5**0.5), 1.0, 1.5**0.5]], rtol=1e-6)
