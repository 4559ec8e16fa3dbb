"""Augmentation: off is off, film and mask move together, exact where pixels map to pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax.data import augment as augment_lib
from cxrjax.data.augment import augment, warp
from cxrjax.errors import UserError

MOVES = {"rotate": 20, "scale": 0.2, "shift": 0.1, "flip": True}
GRAY = {"gamma": 0.3, "contrast": 0.3, "brightness": 0.1, "noise": 0.05, "cutout": 0.3}
KEY = jax.random.key(3)


@functools.cache
def compiled(**options):
    return jax.jit(lambda rng, image, mask: augment(rng, image, mask, options))


def films(b=6, h=16, w=16, m=2, seed=0):
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.random((b, h, w, 1)), jnp.float32)
    return image, jnp.asarray(rng.integers(0, 2, (b, h, w, m)), jnp.float32)


def blobs(b=8, size=48):
    """A smooth shape in each film, well inside it."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size] / size - 0.5
    cy, cx = rng.uniform(-0.1, 0.1, (2, b, 1, 1))
    shape = np.exp(-(((y - cy) / 0.08) ** 2 + ((x - cx) / 0.13) ** 2))
    return jnp.asarray(shape[..., None], jnp.float32)


def test_nothing_on_changes_nothing():
    image, mask = films()
    off = {name: False if name == "flip" else 0 for name in augment_lib.DEFAULTS}
    for options in ({}, off):
        got, moved = augment(KEY, image, mask, options)
        np.testing.assert_array_equal(got, image)
        np.testing.assert_array_equal(moved, mask)
    assert augment(KEY, image, None, off)[1] is None


@pytest.mark.parametrize("name", ["rotate", "scale", "shift", *GRAY])
def test_every_step_changes_the_film_and_only_movements_the_mask(name):
    image, mask = films()
    got, moved = compiled(**{name: {**MOVES, **GRAY}[name]})(KEY, image, mask)
    assert (np.abs(got - image).reshape(6, -1).max(axis=1) > 1e-3).all()
    assert bool(np.any(moved != mask)) == (name in MOVES)


# --- warp


def matrix(*rows):
    return jnp.array(rows, jnp.float32)


def test_identity_shift_flip_and_quarter_turn_are_exact():
    image = films(b=1, h=6, w=8)[0][0]
    f = jax.jit(warp)
    np.testing.assert_array_equal(f(image, matrix([1, 0, 0], [0, 1, 0])), image)
    np.testing.assert_array_equal(f(image, matrix([1, 0, 0], [0, -1, 0])), image[:, ::-1])
    down = f(image, matrix([1, 0, -2], [0, 1, 3]))  # content goes 2 down and 3 to the left
    np.testing.assert_array_equal(down[2:, :-3], image[:-2, 3:])
    assert not np.asarray(down[:2]).any() and not np.asarray(down[:, -3:]).any()
    tall = films(b=1, h=7, w=7)[0][0]
    turned = jax.jit(warp)(tall, matrix([0, 1, 0], [-1, 0, 0]))
    np.testing.assert_array_equal(turned, np.rot90(tall, 1))


def test_half_a_pixel_is_the_mean_of_two_and_fades_at_the_edge():
    image = jnp.array([[0.2, 0.4, 1.0]])[..., None]
    got = warp(image, matrix([1, 0, 0], [0, 1, 0.5]))
    np.testing.assert_allclose(got[0, :, 0], [0.3, 0.7, 0.5], atol=1e-6)


def test_far_outside_is_black():
    image = jnp.ones((5, 5, 1))
    for shift in (6.0, -6.0, 1e6, -1e6):
        assert not np.asarray(warp(image, matrix([1, 0, shift], [0, 1, 0]))).any()
        assert not np.asarray(warp(image, matrix([1, 0, 0], [0, 1, shift]))).any()


def test_warp_against_a_slow_reference():
    image = np.asarray(films(b=1, h=9, w=12)[0][0], float)
    a = np.array([[0.8, 0.5, 1.3], [-0.4, 1.1, -2.2]])
    want = np.zeros_like(image)
    for y, x in np.ndindex(9, 12):
        v, u = a @ [y - 4, x - 5.5, 1] + [4, 5.5]
        for j in (int(np.floor(v)), int(np.floor(v)) + 1):
            for i in (int(np.floor(u)), int(np.floor(u)) + 1):
                if 0 <= j < 9 and 0 <= i < 12:
                    want[y, x] += (1 - abs(v - j)) * (1 - abs(u - i)) * image[j, i]
    got = warp(jnp.asarray(image, jnp.float32), jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(got, want, atol=1e-5)


# --- movements


def test_film_and_mask_move_together():
    image = (blobs() > 0.5).astype(jnp.float32)
    got, moved = compiled(**MOVES)(KEY, image, image)
    np.testing.assert_array_equal(moved, (got > 0.5).astype(jnp.float32))
    assert (np.abs(moved - image).sum(axis=(1, 2, 3)) > 20).all()
    assert set(np.unique(moved)) == {0.0, 1.0}


def test_flip_is_exact_and_takes_half_of_the_films():
    image, mask = films(b=64, h=5, w=6)
    got, moved = compiled(flip=True)(KEY, image, mask)
    flipped = np.array([bool((a == b[:, ::-1]).all()) for a, b in zip(got, image)])
    assert 16 < flipped.sum() < 48
    for new, old in ((got, image), (moved, mask)):
        np.testing.assert_array_equal(
            new, np.where(flipped[:, None, None, None], old[:, :, ::-1], old)
        )


def centre_and_extent(image):
    """Centre of mass (from the film's centre) and root mean square radius of each film."""
    image = np.asarray(image, float)[..., 0]
    n, h, w = image.shape
    y, x = np.mgrid[:h, :w]
    y, x = y - (h - 1) / 2, x - (w - 1) / 2
    total = image.sum(axis=(1, 2))
    cy, cx = (image * y).sum(axis=(1, 2)) / total, (image * x).sum(axis=(1, 2)) / total
    square = (y - cy[:, None, None]) ** 2 + (x - cx[:, None, None]) ** 2
    return cy, cx, np.sqrt((image * square).sum(axis=(1, 2)) / total)


def test_strengths_are_the_largest_movements_and_are_used_up():
    image = jnp.tile(blobs(1, 64), (200, 1, 1, 1))
    cy, cx, extent = centre_and_extent(image)

    moved = centre_and_extent(compiled(shift=0.1)(KEY, image, None)[0])
    for before, after in ((cy, moved[0]), (cx, moved[1])):
        assert 6.0 < np.abs(after - before).max() < 6.4 + 0.05
        assert np.abs(np.mean(after - before)) < 1

    ratio = centre_and_extent(compiled(scale=0.25)(KEY, image, None)[0])[2] / extent
    assert 1.2 < ratio.max() < 1.26 and 1 / 1.26 < ratio.min() < 1 / 1.2
    assert np.abs(np.log(ratio).mean()) < 0.05

    y, x, _ = centre_and_extent(compiled(rotate=30)(KEY, image, None)[0])
    turn = np.angle((x + 1j * y) / (cx + 1j * cy), deg=True)
    assert 27 < turn.max() < 31 and -31 < turn.min() < -27
    np.testing.assert_allclose(np.hypot(x, y), np.hypot(cx, cy), rtol=0.02)


def test_mask_channels_and_image_channels_stay_apart():
    image, mask = films(m=3)
    image = jnp.tile(image, (1, 1, 1, 2))
    got, moved = compiled(**MOVES)(KEY, image, mask)
    assert got.shape == image.shape and moved.shape == mask.shape
    np.testing.assert_array_equal(got[..., 0], got[..., 1])
    alone, _ = compiled(**MOVES)(KEY, image, None)
    np.testing.assert_allclose(alone, got, atol=1e-6)


# --- gray values


def test_gray_steps_by_hand():
    image = films(b=1)[0][0]
    seen = {"factor": [], "sum": [], "level": []}
    for i in range(40):
        key = jax.random.key(i)
        power = np.log(augment_lib.gamma(key, image, 0.5)) / np.log(image)
        assert np.ptp(power) < 1e-2
        seen["factor"].append(float(power.mean()))
        more = augment_lib.brightness(key, 0.25 + image / 2, 0.2) - (0.25 + image / 2)
        assert np.ptp(np.asarray(more)) < 1e-5
        seen["sum"].append(float(more.mean()))
        low = 0.5 + (image - image.mean()) / 10
        stretch = (augment_lib.contrast(key, low, 0.5) - low.mean()) / (low - low.mean())
        np.testing.assert_allclose(np.median(stretch), power.mean(), rtol=0.01)
        seen["level"].append(float(np.std(augment_lib.noise(key, low, 0.1) - low)))
    factor, added, level = (np.array(seen[k]) for k in ("factor", "sum", "level"))
    assert 1 / 1.51 < factor.min() < 0.75 and 1.3 < factor.max() < 1.51
    assert -0.2001 < added.min() < -0.15 and 0.15 < added.max() < 0.2001
    assert level.min() < 0.02 and 0.08 < level.max() < 0.11


def test_cutout_fills_one_rectangle_with_the_mean():
    image = films(b=1, h=20, w=30)[0][0]
    areas = []
    for i in range(60):
        got = np.asarray(augment_lib.cutout(jax.random.key(i), image, 0.4))
        changed = got[..., 0] != np.asarray(image[..., 0])
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = got[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_allclose(box, float(image.mean()), rtol=1e-5)
        assert changed.sum() == box.size
        areas.append(box.shape[:2])
    areas = np.array(areas)
    assert (areas.max(axis=0) == [8, 12]).all()  # whole
    assert (areas.min(axis=0) < [8, 12]).all()  # over the edge


# --- randomness and range


def test_film_i_depends_on_the_key_and_i_alone():
    options = {**MOVES, **GRAY}
    image, mask = films()
    got, moved = compiled(**options)(KEY, image, mask)
    again, _ = compiled(**options)(KEY, image, mask)
    np.testing.assert_array_equal(got, again)
    others = image.at[3:].set(1 - image[3:])
    np.testing.assert_array_equal(compiled(**options)(KEY, others, mask)[0][:3], got[:3])
    fewer, fewer_masks = compiled(**options)(KEY, image[:3], mask[:3])
    np.testing.assert_allclose(fewer, got[:3], atol=1e-6)
    np.testing.assert_array_equal(fewer_masks, moved[:3])
    other_key, _ = compiled(**options)(jax.random.key(4), image, mask)
    same = jnp.tile(image[:1], (6, 1, 1, 1))
    differ = compiled(**options)(KEY, same, mask)[0]
    assert all(np.abs(a - b).max() > 0.05 for a, b in zip(got, other_key))
    assert all(np.abs(differ[0] - differ[i]).max() > 0.05 for i in range(1, 6))


def test_gray_steps_do_not_change_the_movement():
    image, mask = films()
    _, moved = compiled(**MOVES)(KEY, image, mask)
    _, with_gray = compiled(**MOVES, **GRAY)(KEY, image, mask)
    np.testing.assert_array_equal(moved, with_gray)


@pytest.mark.parametrize("seed", range(3))
def test_values_stay_in_range(seed):
    strong = {
        "rotate": 180,
        "scale": 1,
        "shift": 0.5,
        "flip": True,
        "gamma": 2,
        "contrast": 3,
        "brightness": 0.8,
        "noise": 0.5,
        "cutout": 0.5,
    }
    image, mask = films(seed=seed)
    image = image.at[0].set(0.0).at[1].set(1.0)
    got, moved = compiled(**strong)(jax.random.key(seed), image, mask)
    assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 1
    assert np.isin(moved, (0, 1)).all()


# --- options


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rotat": 3}, "unknown augmentation 'rotat'; did you mean 'rotate'"),
        ({"rotate": -3}, "give 0 to 180"),
        ({"rotate": 200}, "give 0 to 180"),
        ({"scale": -0.1}, "give 0 or more"),
        ({"shift": 12}, "give 0 to 1"),
        ({"noise": "much"}, "give a number"),
        ({"noise": True}, "give a number"),
        ({"noise": float("nan")}, "give 0 to 1"),
        ({"gamma": float("inf")}, "give 0 or more"),
        ({"flip": 0.5}, "give True or False"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        augment_lib.validate(options)
    with pytest.raises(UserError, match=message):
        augment(KEY, *films(), options)
