"""Calibration: against statsmodels and scikit-learn, by hand, and what a map must never do."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from cxrjax.errors import UserError
from cxrjax.metrics import calibration, ranking


def films(seed=0, n=3000, slope=2.0, shift=-1.0):
    """Labels drawn from expit(z / slope - shift): logits that are too sure of themselves."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, 2))
    y = (rng.random((n, 2)) < expit(z / slope - shift)).astype(float)
    return y, z


def test_bins_of_equal_width_and_mass_by_hand():
    p = np.array([0.1, 0.1, 0.2, 0.7, 0.8, 0.9])
    np.testing.assert_array_equal(calibration.bin_of(p, 2), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(calibration.bin_of(p, 3, mass=True), [0, 0, 1, 1, 2, 2])
    assert calibration.bin_of(np.array([1.0]), 15)[0] == 14
    same = calibration.bin_of(np.full(9, 0.3), 5, mass=True)
    assert len(np.unique(same)) == 1
    y = np.array([0, 0, 1, 1, 1, 1.0])
    # Bins (0.1, 0.1), (0.2, 0.7), (0.8, 0.9): gaps 0.2, 1.1, 0.3 films.
    error = calibration.calibration_error(y[:, None], p[:, None], 3, mass=True)
    assert error[0] == pytest.approx((0.2 + 1.1 + 0.3) / 6)


def test_reliability_is_scikit_learns():
    y, z = films()
    p = expit(z[:, 0])
    ours = calibration.reliability(y[:, 0], p, bins=10)
    share, mean = calibration_curve(y[:, 0], p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(ours["frequency"], share, atol=1e-9)
    np.testing.assert_allclose(ours["probability"], mean, atol=1e-9)
    assert ours["films"].sum() == len(y) and ours["positives"].sum() == y[:, 0].sum()


def test_brier_skill_by_hand():
    y, p = np.array([[1.0], [0], [0], [0]]), np.array([[0.5], [0.5], [0], [0]])
    assert calibration.brier_skill(y, p)[0] == pytest.approx(1 - 0.125 / 0.1875)
    assert np.isnan(calibration.brier_skill(np.zeros((3, 1)), p[:3]))[0]
    flat = np.full((4, 1), 0.25)
    assert calibration.brier_skill(y, flat)[0] == pytest.approx(0)


def test_slope_and_intercept_are_statsmodels():
    y, z = films()
    slope, intercept, large = calibration.slope_and_intercept(y[:, 0], z[:, 0])
    both = sm.Logit(y[:, 0], sm.add_constant(z[:, 0])).fit(disp=0, tol=1e-12)
    assert (intercept, slope) == pytest.approx(tuple(both.params), abs=1e-9)
    shift = sm.GLM(y[:, 0], np.ones((len(y), 1)), offset=z[:, 0],
                   family=sm.families.Binomial()).fit(tol=1e-14)
    assert large == pytest.approx(shift.params[0], abs=1e-9)
    assert slope == pytest.approx(0.5, abs=0.1)
    # Perfectly apart, or one class only: no finite answer.
    apart = calibration.slope_and_intercept(np.array([0, 0, 1, 1.0]), np.arange(4.0))
    assert np.isnan(apart[0]) and np.isnan(apart[1])
    assert np.isnan(calibration.slope_and_intercept(np.ones(4), np.arange(4.0))).all()


def test_log_loss_is_scikit_learns():
    y, z = films(n=50)
    assert calibration.log_loss(y, expit(z))[1] == pytest.approx(
        log_loss(y[:, 1], expit(z[:, 1])), abs=1e-12)


@pytest.mark.parametrize("how", ["temperature", "platt"])
def test_a_map_makes_new_films_likelier_and_keeps_the_order(how):
    y, z = films()
    y[::7, 0] = np.nan
    made = calibration.fit_map(y, z, "multilabel", how)
    other, logits = films(seed=1)
    after = calibration.apply_map(logits, made)
    assert (np.diff(after[np.argsort(logits[:, 0]), 0]) >= 0).all() and min(made["slope"]) > 0
    np.testing.assert_array_equal(ranking.auroc(other, after), ranking.auroc(other, logits))
    before, now = (calibration.log_loss(other, expit(x)).sum() for x in (logits, after))
    assert now < before
    if how == "platt":
        np.testing.assert_allclose(made["slope"], 0.5, atol=0.1)
        np.testing.assert_allclose(made["intercept"], 1.0, atol=0.15)
        assert calibration.calibration_error(other, expit(after)).max() < 0.04


def test_temperature_of_one_of_n_by_hand():
    # Logits (t, 0) for 3 films right and 1 wrong: the best probability is 3/4, so t / T = ln 3.
    y = np.array([[1, 0], [1, 0], [1, 0], [0, 1.0]])
    made = calibration.fit_map(y, np.tile([4.0, 0.0], (4, 1)), "multiclass", "temperature")
    assert made["slope"][0] * 4 == pytest.approx(np.log(3), abs=1e-6)
    with pytest.raises(UserError, match="temperature"):
        calibration.fit_map(y, y, "multiclass", "platt")
    with pytest.raises(UserError, match="choose"):
        calibration.fit_map(y, y, "multilabel", "isotonic")


def test_what_validation_cannot_say_is_left_as_it_is():
    y, z = films(n=400)
    y[:, 0] = 0
    z[:, 1] = -z[:, 1]
    made = calibration.fit_map(y, z, "multilabel", "platt")
    assert made["kept"] == [True, True] and made["slope"] == [1, 1]
    np.testing.assert_array_equal(calibration.apply_map(z, made), z)
    # Apart, but Platt's targets keep the answer finite.
    made = calibration.fit_map(np.array([[0], [0], [1], [1.0]]), np.arange(4.0)[:, None],
                               "multilabel", "platt")
    assert made["kept"] == [False] and 0 < made["slope"][0] < 10
