"""Heat maps against hand-computed numbers, plain loops and the logit itself; boxes round them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.errors import UserError
from cxrjax.explanation import cam

LABELS = 14


class Encoder(nn.Module):
    width: int = 16

    @nn.compact
    def __call__(self, x):
        for i in range(3):
            x = nn.relu(nn.Conv(self.width, (3, 3), strides=2 if i else 1)(x))
        return x


class Head(nn.Module):
    hidden: bool = False

    @nn.compact
    def __call__(self, features):
        x = features.mean((1, 2))
        if self.hidden:  # a head that is not linear, and looks at the place too
            x = jnp.concatenate([x, features.max((1, 2)), features[:, 0, 0] ** 2], -1)
            x = nn.tanh(nn.Dense(8)(x))
        return nn.Dense(LABELS, name="logits", bias_init=nn.initializers.normal(1.0))(x)


@pytest.fixture(scope="module")
def network():
    image = jax.random.uniform(jax.random.key(0), (3, 16, 16, 1))
    encoder, head, curved = Encoder(), Head(), Head(hidden=True)
    weights = encoder.init(jax.random.key(1), image)
    features = encoder.apply(weights, image)
    linear = head.init(jax.random.key(2), features)
    nonlinear = curved.init(jax.random.key(3), features)
    return {
        "image": image,
        "features": features,
        "encode": lambda x: encoder.apply(weights, x),
        "linear": lambda f: head.apply(linear, f),
        "curved": lambda f: curved.apply(nonlinear, f),
        "kernel": linear["params"]["logits"]["kernel"],
        "bias": linear["params"]["logits"]["bias"],
    }


def test_linear_cam_by_hand():
    features = jnp.array([[[[1.0, 2.0], [3.0, 0.0]]]])  # one row of two places, two channels
    kernel = jnp.array([[1.0, -1.0, 0.0], [10.0, 0.5, 2.0]])
    maps, gap = cam.linear_cam(lambda f: f.mean((1, 2)) @ kernel + 5.0, features)
    assert maps.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(maps[0, :, 0], [[21, 3], [0, -3], [4, 0]], atol=1e-5)
    np.testing.assert_allclose(gap, [0], atol=1e-5)


def test_linear_cam_adds_up_to_the_logit_of_a_linear_head_alone(network):
    half = network["features"].astype(jnp.bfloat16)
    for features in (network["features"], half):
        maps, gap = cam.linear_cam(network["linear"], features)
        assert maps.dtype == jnp.float32
        np.testing.assert_allclose(maps, plain_cam(features, network["kernel"]), atol=1e-4)
        logits = network["linear"](features.astype(jnp.float32))
        np.testing.assert_allclose(maps.mean((2, 3)) + network["bias"], logits, atol=1e-5)
        assert gap.max() < 1e-5
    assert cam.linear_cam(network["curved"], network["features"])[1].min() > 1e-3


def plain_cam(features, kernel):
    """Zhou et al., eq. 2, as it is written."""
    return np.einsum("bhwd,dk->bkhw", np.asarray(features, float), np.asarray(kernel, float))


def test_grad_cam_of_a_linear_head_is_the_positive_part_of_cam(network):
    features = network["features"]
    places = features.shape[1] * features.shape[2]
    expected = np.maximum(plain_cam(features, network["kernel"]), 0) / places
    actual = cam.grad_cam(network["linear"], features)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    assert float(expected.max()) > 0.01


def literal_grad_cam(head_fn, features, plus_plus):
    """One film and one label at a time, in numpy, from plain jax.grad."""
    maps = np.zeros((features.shape[0], LABELS, *features.shape[1:3]))
    for b in range(features.shape[0]):
        film = features[b : b + 1]
        a = np.asarray(film[0], np.float64)
        for k in range(LABELS):
            g = np.asarray(jax.grad(lambda f, k=k: head_fn(f)[0, k])(film)[0], np.float64)
            for d in range(a.shape[-1]):
                if plus_plus:
                    weight = 0.0
                    for y, x in np.ndindex(*a.shape[:2]):
                        slope = g[y, x, d]
                        below = 2 * slope**2 + a[..., d].sum() * slope**3
                        if below:
                            weight += slope**2 / below * max(slope, 0.0)
                else:
                    weight = g[..., d].mean()
                maps[b, k] += weight * a[..., d]
    return np.maximum(maps, 0.0)


@pytest.mark.parametrize("head", ["linear", "curved"])
@pytest.mark.parametrize("plus_plus", [False, True])
def test_all_labels_at_once_equal_one_gradient_at_a_time(network, head, plus_plus):
    method = cam.grad_cam_plus_plus if plus_plus else cam.grad_cam
    actual = jax.jit(lambda f: method(network[head], f))(network["features"])
    expected = literal_grad_cam(network[head], network["features"], plus_plus)
    assert actual.shape == (3, LABELS, 4, 4)
    scale = expected.max((2, 3), keepdims=True) + 1e-9
    np.testing.assert_allclose(actual / scale, expected / scale, atol=2e-4)
    assert (expected > 0).any((2, 3)).mean() > 0.5


def test_gradients_come_with_the_logits(network):
    logits, gradients = cam.logit_gradients(network["curved"], network["features"])
    np.testing.assert_allclose(logits, network["curved"](network["features"]), rtol=1e-5)
    assert gradients.shape == (LABELS, *network["features"].shape)


def test_grad_cam_plus_plus_without_gradient_is_zero_not_nan():
    features = jnp.ones((1, 2, 2, 3))
    maps = cam.grad_cam_plus_plus(lambda f: 0.0 * f.sum((1, 2))[:, :2], features)
    np.testing.assert_array_equal(maps, np.zeros((1, 2, 2, 2)))


@pytest.mark.parametrize("method", [cam.grad_cam, cam.grad_cam_plus_plus])
def test_fourteen_maps_cost_less_than_three_single_ones(network, method):
    def flops(labels):
        def explain(image):
            head_fn = lambda f: network["linear"](f)[:, :labels]  # noqa: E731
            return method(head_fn, network["encode"](image))

        cost = jax.jit(explain).lower(network["image"]).compile().cost_analysis()
        return (cost[0] if isinstance(cost, list) else cost)["flops"]

    one, all_labels = flops(1), flops(LABELS)
    assert one > 1e4
    assert all_labels < 3 * one


def test_occlusion_finds_the_place_that_counts():
    def predict(image):  # label 0 looks at the upper left quarter, label 1 at nothing
        return jnp.stack([image[:, :8, :8].sum((1, 2, 3)), jnp.zeros(image.shape[0])], -1)

    image = jnp.zeros((2, 16, 16, 1)).at[0, 2:4, 4:6].set(1.0)
    image = image.at[1, 8:, 8:].set(1.0)
    for chunk in (1, 3, 16, 100):
        maps = cam.occlusion(predict, image, grid=8, patch=2, fill=0.0, chunk=chunk)
        assert maps.shape == (2, 2, 8, 8)
        expected = np.zeros((2, 2, 8, 8))
        expected[0, 0, 1, 2] = 4.0  # the cell of rows 2-3 and columns 4-5
        np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_occlusion_defaults_cover_two_cells_with_the_mean():
    image = jax.random.uniform(jax.random.key(0), (2, 12, 12, 1))
    weights = jax.random.normal(jax.random.key(1), (12, 12, 3))

    def predict(x):
        return jnp.einsum("bhw,hwk->bk", x[..., 0], weights)

    maps = jax.jit(lambda x: cam.occlusion(predict, x, grid=4))(image)
    pixels = np.asarray(image[..., 0])
    for b, i, j in np.ndindex(2, 4, 4):  # cells of 3 pixels, a patch of 6 round the middle
        covered = pixels[b].copy()
        rows = [r for r in range(12) if abs(r + 0.5 - (3 * i + 1.5)) <= 3]
        cols = [c for c in range(12) if abs(c + 0.5 - (3 * j + 1.5)) <= 3]
        covered[np.ix_(rows, cols)] = pixels[b].mean()
        expected = np.einsum("hw,hwk->k", pixels[b] - covered, np.asarray(weights))
        np.testing.assert_allclose(maps[b, :, i, j], expected, atol=1e-4)


def test_boxes_by_hand():
    heat = np.zeros((6, 8))
    heat[0, 0] = 1.0  # the peak, alone
    heat[2:4, 3:6] = 0.6
    heat[4, 6] = 0.6  # touches the block at a corner: one region
    heat[5, 0] = 0.4
    assert cam.boxes(heat, 0.5).tolist() == [[3, 2, 7, 5], [0, 0, 1, 1]]
    assert cam.boxes(heat, 0.4).tolist() == [[3, 2, 7, 5], [0, 0, 1, 1], [0, 5, 1, 6]]
    assert cam.boxes(heat, 1.0).tolist() == [[0, 0, 1, 1]]
    assert cam.boxes(3 * heat, 0.5).tolist() == cam.boxes(heat, 0.5).tolist()
    np.testing.assert_allclose(
        cam.boxes(heat, 0.5, size=(60, 160)), [[60, 20, 140, 50], [0, 0, 20, 10]]
    )
    np.testing.assert_allclose(cam.boxes(heat, 1.0, size=(1, 1)), [[0, 0, 1 / 8, 1 / 6]])


def test_boxes_of_flat_and_bad_maps():
    assert cam.boxes(np.zeros((4, 4))).shape == (0, 4)
    assert cam.boxes(-np.ones((4, 4))).shape == (0, 4)
    assert cam.boxes(np.ones((4, 5))).tolist() == [[0, 0, 5, 4]]
    with pytest.raises(UserError, match="NaN"):
        cam.boxes(np.full((2, 2), np.nan))
    for threshold in (0.0, 1.5):
        with pytest.raises(UserError, match="threshold"):
            cam.boxes(np.ones((2, 2)), threshold)


def test_spread_is_a_gaussian_of_the_same_sum():
    heat = np.zeros((1, 41, 41), np.float32)
    heat[0, 20, 20] = 2.0
    wide = np.asarray(cam.spread(jnp.asarray(heat), 0.05))[0]
    assert wide.sum() == pytest.approx(2.0, rel=1e-3)
    row = wide.sum(0) / wide.sum()
    at = (np.arange(41) + 0.5) / 41
    assert (row * at).sum() == pytest.approx(0.5, abs=1e-4)
    assert ((row * (at - 0.5) ** 2).sum()) ** 0.5 == pytest.approx(0.05, rel=1e-2)
    np.testing.assert_array_equal(cam.spread(jnp.asarray(heat), 0.0), heat)


def test_spread_finds_the_middle_of_a_ring():
    # Four cells that all see one small thing: their middle is where it is.
    heat = np.zeros((32, 32), np.float32)
    for y, x in [(8, 12), (16, 12), (12, 8), (12, 16)]:
        heat[y, x] = 1.0
    peak = np.unravel_index(np.argmax(cam.spread(jnp.asarray(heat), 4 / 32)), heat.shape)
    assert peak == (12, 12)
