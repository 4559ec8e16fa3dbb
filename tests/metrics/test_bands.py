"""Curves with bands: against scikit-learn's curve of each resample, drawn film by film."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cxrjax.metrics import bands, bootstrap


def films(seed=0, n=80):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.4).astype(float)
    return y, np.round(rng.normal(size=n) + y, 1), bootstrap.resample(n, 40, seed=1)


def test_bands_are_those_of_the_curves_of_the_films_drawn():
    y, s, counts = films()
    found = bands.bands(y, s, counts)
    rocs, precisions = [], []
    for c in counts.T:
        drawn = np.repeat(np.arange(len(y)), c.astype(int))
        x, t, _ = sk.roc_curve(y[drawn], s[drawn], drop_intermediate=False)
        last = np.append(np.diff(x) > 0, True)  # where it rises straight up: the upper end
        rocs.append(np.interp(bands.GRID, x[last], t[last]))
        p, r, _ = sk.precision_recall_curve(y[drawn], s[drawn])
        p, r = p[:-1][::-1], r[:-1][::-1]
        precisions.append([p[np.flatnonzero(r >= g - 1e-12)[0]] for g in bands.GRID])
    for kind, own in (("roc", rocs), ("pr", precisions)):
        np.testing.assert_allclose(found[kind]["samples"], own, atol=1e-9)
        low, high = np.percentile(own, [2.5, 97.5], axis=0)
        np.testing.assert_allclose(found[kind]["low"], low, atol=1e-9)
        np.testing.assert_allclose(found[kind]["high"], high, atol=1e-9)


def test_many_films_lose_next_to_nothing_and_one_class_has_no_curve():
    y, s, _ = films(2, 5000)
    s = s + np.random.default_rng(3).normal(0, 0.01, len(s))  # no ties: 5,000 thresholds
    found = bands.bands(y, s, np.ones((5000, 2), np.float32))
    x, t, _ = sk.roc_curve(y, s, drop_intermediate=False)
    last = np.append(np.diff(x) > 0, True)
    np.testing.assert_allclose(found["roc"]["y"], np.interp(bands.GRID, x[last], t[last]),
                               atol=0.01)
    assert bands.bands(np.ones(5), np.arange(5.0), np.ones((5, 2), np.float32)) is None


def test_the_mean_of_curves_has_the_band_of_the_mean():
    y, s, counts = films()
    one, other = (bands.bands(y, z, counts)["roc"] for z in (s, -s))
    mean = bands.mean_band([one, other])
    np.testing.assert_allclose(mean["y"], (one["y"] + other["y"]) / 2)
    middle = np.percentile((one["samples"] + other["samples"]) / 2, 2.5, axis=0)
    assert mean["low"] == pytest.approx(middle)
