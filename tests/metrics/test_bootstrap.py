"""The bootstrap from counts is the bootstrap from films drawn one by one."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrjax.metrics import bootstrap, decisions, ranking


def predictions(seed=0, films=120, ties=False):
    rng = np.random.default_rng(seed)
    y = (rng.random((films, 3)) < [0.5, 0.2, 0]).astype(np.float32)
    y[7, 2] = 1
    y[:40, 1] = np.nan
    s = rng.normal(size=(films, 3)) + np.nan_to_num(y)
    return y, np.round(s) if ties else s


def drawn(counts):
    """The films of each resample, one by one."""
    return [np.repeat(np.arange(len(counts)), c.astype(int)) for c in counts.T]


def test_resamples_are_as_large_as_the_set_and_come_again():
    counts = bootstrap.resample(50, 30, seed=1)
    assert counts.shape == (50, 30) and (counts.sum(axis=0) == 50).all()
    np.testing.assert_array_equal(counts, bootstrap.resample(50, 30, seed=1))
    assert (counts != bootstrap.resample(50, 30, seed=2)).any()
    # A film is missing from a resample with probability (1 - 1/n)^n.
    many = bootstrap.resample(50, 2000, seed=0)
    assert (many == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.005)


def test_patients_are_drawn_with_all_their_films():
    patient = np.array(["b", "a", "b", "c", "a", "b"])
    counts = bootstrap.resample(6, 40, seed=0, cluster=patient)
    for name in "abc":
        own = counts[patient == name]
        assert (own == own[0]).all()
    firsts = counts[[1, 0, 3]]
    assert (firsts.sum(axis=0) == 3).all() and len(np.unique(firsts, axis=1).T) > 5
    with pytest.raises(ValueError, match="6 films"):
        bootstrap.resample(6, seed=0, cluster=patient[:5])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_ranking_figures_are_those_of_the_films_drawn(name, ties):
    y, s = predictions(ties=ties)
    counts = bootstrap.resample(len(y), 25, seed=3)
    counts = np.concatenate([np.ones((len(y), 1), np.float32), counts], axis=1)
    got = getattr(bootstrap, name)(y, s, counts)
    want = [getattr(ranking, name)(y[films], s[films]) for films in drawn(counts)]
    np.testing.assert_allclose(got, want, atol=1e-12, rtol=0)
    assert np.isnan(got[:, 2]).any()  # the rare label has resamples without a positive film


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_how_many_resamples_are_worked_on_at_once_changes_no_bit(name, monkeypatch):
    y, s = predictions(ties=True)
    counts = bootstrap.resample(len(y), 61, seed=4)
    whole = getattr(bootstrap, name)(y, s, counts)
    monkeypatch.setattr(bootstrap, "_TOGETHER", 20)  # four parts, of 15 and 16
    np.testing.assert_array_equal(getattr(bootstrap, name)(y, s, counts), whole)


def test_labels_without_a_known_positive_are_nan():
    y, s = predictions()
    y[:, 0], y[:, 1] = 0, np.nan
    counts = bootstrap.resample(len(y), 5, seed=0)
    assert np.isnan(bootstrap.auroc(y, s, counts)[:, :2]).all()
    assert np.isnan(bootstrap.average_precision(y, s, counts)[:, :2]).all()
    y[:, 0] = 1
    assert np.isnan(bootstrap.auroc(y, s, counts)[:, 0]).all()
    assert (bootstrap.average_precision(y, s, counts)[:, 0] == 1).all()
    s[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        bootstrap.auroc(y, s, counts)


def test_confusion_of_resamples_gives_the_scores_of_the_films_drawn():
    rng = np.random.default_rng(4)
    y = np.eye(3)[rng.integers(0, 3, 80)]
    p = (4 * rng.dirichlet(np.ones(3), 80) + y) / 5
    y[:5] = np.nan
    counts = bootstrap.resample(80, 20, seed=5)
    got = decisions.confusion_scores(bootstrap.confusion(y, p, counts))
    for r, films in enumerate(drawn(counts)):
        want = decisions.multiclass(y[films], p[films])
        for key, values in got.items():
            assert values[r] == pytest.approx(want[key], abs=1e-12), key


def test_mean_is_that_of_the_films_drawn():
    rng = np.random.default_rng(6)
    values = rng.random(40)
    values[3] = np.nan
    counts = bootstrap.resample(40, 30, seed=7)
    want = [np.nanmean(values[films]) for films in drawn(counts)]
    np.testing.assert_allclose(bootstrap.mean(values, counts), want)


def test_interval_by_hand():
    samples = np.stack([np.arange(101.0), np.full(101, np.nan)], axis=1)
    samples[0, 0] = np.nan  # left out: 1 .. 100 remain
    low, high = bootstrap.interval(samples, level=0.9)
    np.testing.assert_allclose([low[0], high[0]], [1 + 0.05 * 99, 1 + 0.95 * 99])
    assert np.isnan(low[1]) and np.isnan(high[1])


def test_interval_of_a_mean_is_the_one_of_theory():
    values = np.random.default_rng(8).normal(size=400)
    samples = bootstrap.mean(values, bootstrap.resample(400, 2000, seed=9))
    low, high = bootstrap.interval(samples)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_pairing_finds_a_difference_that_two_intervals_do_not():
    rng = np.random.default_rng(10)
    y = (rng.random((300, 1)) < 0.5).astype(float)
    worse = y + rng.normal(size=(300, 1))
    better = worse + 0.1 * (2 * y - 1)
    counts = bootstrap.resample(300, 500, seed=0)
    a, b = (bootstrap.auroc(y, s, counts)[:, 0] for s in (better, worse))
    low, high = bootstrap.difference(a, b)
    true = ranking.auroc(y, better)[0] - ranking.auroc(y, worse)[0]
    assert 0 < low < true < high
    apart = bootstrap.interval(a)[0] - bootstrap.interval(b)[1]
    assert apart < 0 < low
    assert bootstrap.difference(a, a) == (0, 0)


def test_resamples_of_the_official_test_set_are_those_of_sklearn():
    """25,596 films of 2,797 patients: sums of so many films lose no digit that counts."""
    rng = np.random.default_rng(11)
    y = (rng.random((25596, 3)) < [0.003, 0.03, 0.25]).astype(np.float32)
    s = rng.normal(size=y.shape) + y
    patient = rng.integers(0, 2797, len(y))
    counts = bootstrap.resample(len(y), 1000, seed=0, cluster=patient)
    samples = bootstrap.auroc(y, s, counts)
    assert samples.shape == (1000, 3)
    for i in (0, 999):
        slow = roc_auc_score(y, s, average=None, sample_weight=counts[:, i])
        np.testing.assert_allclose(samples[i], slow, rtol=1e-6)


def test_means_over_labels_are_over_the_same_labels():
    samples = np.array([[0.5, 0.7, np.nan], [0.9, np.nan, np.nan], [0.6, 0.8, np.nan]])
    means = bootstrap.over_labels(samples, np.array([0.6, 0.7, np.nan]))
    np.testing.assert_allclose(means, [0.6, np.nan, 0.7])
    assert np.isnan(bootstrap.over_labels(samples, np.full(3, np.nan))).all()
