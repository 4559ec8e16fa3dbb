"""Intervals in closed form: against statsmodels, by hand, and by how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from cxrjax.metrics import bootstrap, intervals, ranking
from tests.metrics import interval_coverage


@pytest.mark.parametrize("kind, area, positives", [("films", 0.95, 5), ("clusters", 0.85, 100)])
def test_the_interval_of_an_area_holds_its_level(kind, area, positives):
    coverage = interval_coverage.cell(kind, area, positives, 250)["ours"][0]
    assert 0.91 < coverage < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", interval_coverage.KINDS)
@pytest.mark.parametrize("area", interval_coverage.AREAS)
@pytest.mark.parametrize("positives", interval_coverage.POSITIVES)
def test_coverage_of_the_whole_table(kind, area, positives):
    assert 0.93 < interval_coverage.cell(kind, area, positives, 2000)["ours"][0] < 0.97


def test_the_variance_is_delongs_by_hand():
    # Positives 3, 1; negatives 2, 0: areas of the positives 1 and 1/2, of the negatives 1/2 and 1.
    area, parts = intervals._area(np.array([1, 1, 0, 0.0]), np.array([3, 1, 2, 0.0]), None)
    assert area == 0.75
    assert parts["delong"] == pytest.approx(2 * (2 * 0.25**2 / 1) / 2)
    # Each film a patient of its own: the clustered variance is DeLong's.
    assert parts["clustered"] == pytest.approx(parts["delong"])
    # Two patients who each have a positive and a negative film: parts 1/8 - 1/8 and -1/8 + 1/8.
    _, both = intervals._area(
        np.array([1, 1, 0, 0.0]), np.array([3, 1, 2, 0.0]), np.array([0, 1, 0, 1])
    )
    assert both["by unit"] == pytest.approx([0.125 - 0.125, -0.125 + 0.125])
    assert both["clustered"] == pytest.approx(0, abs=1e-15)


def test_twice_the_same_film_of_a_patient_tells_nothing_new():
    rng = np.random.default_rng(0)
    y = (np.arange(200) < 60).astype(float)
    s = rng.normal(size=200) + y
    once = intervals.auroc_interval(y, s)
    twice = intervals.auroc_interval(np.tile(y, 2), np.tile(s, 2), np.tile(np.arange(200), 2))
    assert twice == pytest.approx(once, abs=0.003)
    fooled = intervals.auroc_interval(np.tile(y, 2), np.tile(s, 2))
    assert fooled[1] - fooled[0] < 0.75 * (once[1] - once[0])


def test_areas_at_the_ends_and_what_cannot_be_judged():
    y = np.array([1.0] * 5 + [0.0] * 200)
    low, high = intervals.auroc_interval(y, y)
    assert 0.6 < low < 0.95 and high == 1
    assert intervals.auroc_interval(y, -y) == pytest.approx((0, 1 - low), abs=1e-6)
    assert np.isnan(intervals.auroc_interval(np.zeros(9), np.arange(9.0))).all()
    one = intervals.auroc_interval(np.array([1, 0, 0, 0.0]), np.array([2, 1, 3, 0.0]))
    assert 0 <= one[0] < 2 / 3 < one[1] <= 1
    y[3] = np.nan  # an unknown label may have any score
    s = np.where(np.isnan(y), np.nan, y)
    assert np.isfinite(intervals.auroc_interval(y, s)).all()
    with pytest.raises(ValueError, match="NaN"):
        intervals.auroc_interval(np.array([1, 0.0]), np.array([np.nan, 1]))


def test_many_films_give_delongs_interval():
    rng = np.random.default_rng(1)
    y = (np.arange(8000) < 4000).astype(float)
    s = rng.normal(size=8000) + y
    area, parts = intervals._area(y, s, None)
    half = 1.96 * np.sqrt(parts["delong"])
    assert intervals.auroc_interval(y, s) == pytest.approx((area - half, area + half), abs=2e-4)


def test_shares_are_wilsons():
    for hits, films in ((0, 7), (7, 7), (31, 90)):
        want = proportion_confint(hits, films, method="wilson")
        assert intervals.wilson(hits / films, films) == pytest.approx(want, abs=1e-9)
        y = np.arange(films + 5) < hits
        counted = np.arange(films + 5) < films
        assert intervals.proportion_interval(y, counted) == pytest.approx(want, abs=1e-9)
    hit, patient = np.repeat(np.arange(40) < 13, 3), np.repeat(np.arange(40), 3)
    got = intervals.proportion_interval(hit, np.ones(120, bool), patient)
    # Three equal films a patient: as if of 40, but for the 39 in the variance.
    assert got == pytest.approx(intervals.wilson(13 / 40, 39), abs=1e-9)
    assert np.isnan(intervals.proportion_interval(hit, np.zeros(120, bool))).all()


def test_holm_is_statsmodels():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    np.testing.assert_allclose(intervals.holm(p), multipletests(p, method="holm")[1], atol=1e-12)
    np.testing.assert_allclose(intervals.holm(np.array([0.02, np.nan, 0.03])), [0.04, np.nan, 0.04])
    assert len(intervals.holm(np.array([]))) == 0


def test_paired_differences_hold_their_level():
    rng, held, rejected = np.random.default_rng(2), 0, 0
    patients = np.repeat(np.arange(60), 5)
    for _ in range(300):
        y = (rng.random(300) < 0.15).astype(float)
        shared = (rng.normal(size=300) + rng.normal(size=60)[patients]) / np.sqrt(2) + y
        one, other = (shared + rng.normal(size=300) for _ in range(2))
        found = intervals.paired_auroc(y, one, other, patients)
        held += found["low"] <= 0 <= found["high"]
        rejected += found["p"] < 0.05
    assert held / 300 == pytest.approx(0.95, abs=0.03)
    assert held + rejected == 300  # the interval and the p value say the same


def test_paired_difference_is_the_bootstraps():
    rng = np.random.default_rng(3)
    y = (rng.random(600) < 0.3).astype(float)
    a = rng.normal(size=600) + y
    b = a + rng.normal(size=600)
    found = intervals.paired_auroc(y, a, b)
    counts = bootstrap.resample(600, 1000, seed=0)
    low, high = bootstrap.difference(*(bootstrap.auroc(y[:, None], s[:, None], counts)[:, 0]
                                       for s in (a, b)))
    assert (found["low"], found["high"]) == pytest.approx(
        (float(low), float(high)), abs=0.008)
    assert found["value"] == ranking.auroc(y[:, None], a[:, None])[0] - ranking.auroc(
        y[:, None], b[:, None])[0]
    assert intervals.paired_auroc(y, a, a) == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_seeds_by_hand():
    alone = intervals.over_seeds([0.8], 0.7, 0.9)
    assert alone == {"value": 0.8, "least": 0.8, "most": 0.8, "runs": 1, "low": 0.7, "high": 0.9}
    several = intervals.over_seeds([0.78, 0.80, 0.82], 0.8 - 1.96e-4, 0.8 + 1.96e-4)
    # Films tell next to nothing: Student's interval of three seeds.
    half = stats.t.ppf(0.975, 2) * 0.02 / np.sqrt(3)
    assert (several["low"], several["high"]) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-5)
    assert (several["least"], several["most"], several["runs"]) == (0.78, 0.82, 3)


def test_what_rests_on_few_positives_is_marked():
    assert intervals.few({"positives": 19}) and not intervals.few({"positives": 20})
    assert not intervals.few({"positives": None})


def test_the_interval_of_a_mean_of_areas():
    rng = np.random.default_rng(3)
    y = (rng.random((400, 2)) < 0.2).astype(float)
    s = rng.normal(size=(400, 2)) + y
    patients = np.repeat(np.arange(100), 4)
    one = intervals.auroc_interval(y[:, 0], s[:, 0], patients)
    single = intervals.areas(y[:, :1], s[:, :1], patients)
    assert intervals.mean_auroc_interval(single) == pytest.approx(one, abs=1e-12)
    # The same column twice tells nothing new (but for Student's t, which takes them for two);
    # independent ones halve the variance.
    assert intervals.mean_auroc_interval([*single, *single]) == pytest.approx(one, abs=1e-3)
    both = intervals.areas(y, s)
    apart = [intervals.auroc_interval(y[:, k], s[:, k]) for k in range(2)]
    low, high = intervals.mean_auroc_interval(both)
    whole = np.sqrt(sum((high - low) ** 2 for low, high in apart)) / 2
    assert high - low == pytest.approx(whole, rel=0.1)
    # A column of one kind of films is left out; without any there is no interval.
    assert len(intervals.areas(np.stack([y[:, 0], np.zeros(400)], 1), s)) == 1
    assert np.isnan(intervals.mean_auroc_interval([])).all()
    ends = intervals.mean_auroc_interval(intervals.areas(y, y))
    assert 0.9 < ends[0] < 1 and ends[1] == 1


def test_the_difference_of_means_has_the_jackknifes_error():
    rng = np.random.default_rng(4)
    patients = np.repeat(np.arange(60), 5)
    y = (rng.random((300, 3)) < 0.3).astype(float)
    a, b, c = (rng.normal(size=(300, 3)) + k * y for k in (1.0, 0.5, 0.8))
    y[:7, 1] = np.nan

    def found(keep):
        of = [intervals.areas(y[keep], s[keep], patients[keep]) for s in (a, b, c)]
        return intervals.paired_mean_auroc([of[0]], of[1:])

    own = found(np.ones(300, bool))
    mean = [np.mean(ranking.auroc(y, s)) for s in (a, b, c)]
    assert own["value"] == pytest.approx(mean[0] - (mean[1] + mean[2]) / 2, abs=1e-12)
    without = np.array([found(patients != p)["value"] for p in range(60)])
    error = np.sqrt(59 / 60 * np.sum((without - without.mean()) ** 2))
    assert (own["high"] - own["low"]) / 2 / error == pytest.approx(1.96, rel=0.06)
    one = intervals.paired_auroc(y[:, 0], a[:, 0], b[:, 0], patients)
    sides = [[intervals.areas(y[:, :1], s[:, :1], patients)] for s in (a, b)]
    assert intervals.paired_mean_auroc(*sides) == pytest.approx(one, abs=1e-12)
    assert intervals.paired_mean_auroc(*sides[::-1])["value"] == pytest.approx(-one["value"])
    assert np.isnan(intervals.paired_mean_auroc([[]], [[]])["p"])
    alone = np.stack([y[:, 0], np.arange(300) == 4], axis=1).astype(float)  # one positive film
    sides = [[intervals.areas(alone, s[:, :2], patients)] for s in (a, b)]
    nothing = intervals.paired_mean_auroc(*sides)
    assert np.isfinite(nothing["value"]) and np.isnan(nothing["low"]) and np.isnan(nothing["p"])


@pytest.mark.parametrize("kind, findings, area, positives", [("films", 3, 0.85, 5),
                                                             ("clusters", 3, 0.95, 20)])
def test_the_interval_of_a_mean_holds_its_level(kind, findings, area, positives):
    assert 0.92 < interval_coverage.mean_cell(kind, area, positives, 250, 0, findings)["ours"][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind, findings, area, positives", interval_coverage.MEANS)
def test_the_interval_of_a_mean_is_within_its_band(kind, findings, area, positives):
    held = interval_coverage.mean_cell(kind, area, positives, 2000, 0, findings)["ours"][0]
    assert 0.93 < held < 0.97


def test_interval_of_a_ratio_by_hand():
    # Donner & Zou: at zero variance of one it is the other's interval scaled.
    low, high = intervals.ratio_interval(0.8, 0.7, 0.9, 0.2, 0.2, 0.2)
    assert (low, high) == (pytest.approx(3.5), pytest.approx(4.5))
    low, high = intervals.ratio_interval(0.8, 0.8, 0.8, 0.2, 0.1, 0.4)  # b_high = 2 b: the limit
    assert low == pytest.approx(0.8 / 0.4) and high == pytest.approx(0.8 / 0.1)
    near = intervals.ratio_interval(0.8, 0.7, 0.9, 0.2, 0.1, 0.4 + 1e-7)[0]
    assert near == pytest.approx(intervals.ratio_interval(0.8, 0.7, 0.9, 0.2, 0.1, 0.4)[0], 1e-5)
    assert intervals.ratio_interval(0.8, 0.7, 0.9, 0.0, 0.0, 0.1)[1] == np.inf


def test_a_ratios_interval_holds_its_level():
    rng = np.random.default_rng(0)
    held = 0
    for hits, falls in zip(rng.binomial(60, 0.8, 800), rng.binomial(200, 0.1, 800)):
        parts = [(k / n, *intervals.wilson(k / n, n)) for k, n in ((hits, 60), (falls, 200))]
        low, high = intervals.ratio_interval(*parts[0], *parts[1])
        held += low <= 8 <= high
    assert 0.93 <= held / 800 <= 0.975
