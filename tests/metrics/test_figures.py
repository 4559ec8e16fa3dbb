"""Figures with intervals: scikit-learn's values, resamples drawn one by one, hand-made groups."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn import metrics as sk

from cxrjax.errors import UserError
from cxrjax.metrics import bootstrap, decisions, figures, intervals, ranking, subgroups


def judged(seed=0, n=300, known=True, resamples=60):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 3)) < [0.5, 0.2, 0.05]).astype(float)
    z = rng.normal(size=y.shape) + 1.5 * y - 1
    if not known:
        y[::5, 1] = np.nan
    patients = np.repeat(np.arange(n // 3), 3)
    counts = bootstrap.resample(n, resamples, seed=0, cluster=patients)
    called = z >= 0
    out = figures.of_labels(y, z, expit(z), called, np.array([True, True, True]), counts,
                            ["a", "b", "c"], patients)
    return y, z, called, patients, counts, out


def test_values_are_scikit_learns():
    y, z, called, _, _, out = judged(known=False)
    for k, name in enumerate("abc"):
        rows = ~np.isnan(y[:, k])
        t, s, a = y[rows, k], z[rows, k], called[rows, k]
        want = {
            "AUROC": sk.roc_auc_score(t, s), "AP": sk.average_precision_score(t, s),
            "accuracy": sk.accuracy_score(t, a),
            "balanced accuracy": sk.balanced_accuracy_score(t, a),
            "sensitivity": sk.recall_score(t, a), "specificity": sk.recall_score(1 - t, ~a),
            "PPV": sk.precision_score(t, a), "NPV": sk.precision_score(1 - t, ~a),
            "F1": sk.f1_score(t, a), "MCC": sk.matthews_corrcoef(t, a),
            "Brier": sk.brier_score_loss(t, expit(s)),
        }
        for title, value in want.items():
            found = out["labels"][name][title]
            assert found["value"] == pytest.approx(value, abs=1e-9), title
            assert found["low"] <= found["value"] <= found["high"], title
            assert found["positives"] == t.sum()
        assert out["labels"][name]["AUROC"]["n"] == rows.sum()
        assert out["labels"][name]["sensitivity"]["n"] == t.sum()
        assert out["labels"][name]["PPV"]["n"] == a.sum()
        assert out["labels"][name]["AP"]["prevalence"] == pytest.approx(t.mean())


def test_means_over_labels_and_over_all_answers():
    y, z, called, patients, _, out = judged()
    for title, function in (("AUROC", sk.roc_auc_score), ("AP", sk.average_precision_score)):
        assert out["macro"][title]["value"] == pytest.approx(function(y, z, average="macro"))
    assert out["micro"]["AUROC"]["value"] == pytest.approx(sk.roc_auc_score(y, z, average="micro"))
    assert out["micro"]["F1"]["value"] == pytest.approx(sk.f1_score(y, called, average="micro"))
    assert out["macro"]["F1"]["value"] == pytest.approx(sk.f1_score(y, called, average="macro"))
    assert out["macro"]["F1"]["labels"] == 3 and out["macro"]["F1"]["patients"] == 100


def test_intervals_are_those_of_the_films_drawn():
    y, z, called, _, counts, out = judged()
    drawn = [np.repeat(np.arange(len(y)), c.astype(int)) for c in counts.T]
    for title, function in (("F1", lambda f: sk.f1_score(y[f, 0], called[f, 0])),
                            ("MCC", lambda f: sk.matthews_corrcoef(y[f, 0], called[f, 0])),
                            ("Brier", lambda f: np.mean((expit(z[f, 0]) - y[f, 0]) ** 2))):
        samples = np.array([function(f) for f in drawn])
        found = out["labels"]["a"][title]
        assert (found["low"], found["high"]) == pytest.approx(
            tuple(np.percentile(samples, [2.5, 97.5])), abs=1e-6), title


def test_unknown_labels_and_labels_without_a_threshold_are_no_figures():
    y, z, called, patients, counts, _ = judged()
    y[:, 2], y[:, 1] = np.nan, 0
    out = figures.of_labels(y, z, expit(z), called, np.array([False, True, True]), counts,
                            ["a", "b", "c"], patients)
    assert np.isnan(out["labels"]["a"]["F1"]["value"]) and np.isnan(
        out["labels"]["a"]["F1"]["low"])
    assert np.isnan(out["labels"]["b"]["AUROC"]["value"])
    assert out["labels"]["c"]["AUROC"]["n"] == 0
    assert np.isnan(out["labels"]["c"]["Brier"]["value"])
    assert out["macro"]["AUROC"]["labels"] == 1 and out["macro"]["F1"]["labels"] == 0


def test_how_probabilities_fit_is_the_same_alone():
    """To the bit, also of a label of one class and of one that nobody knows."""
    y, z, called, patients, counts, _ = judged(known=False)
    y[:, 2], z[:, 0] = 0, 3 * z[:, 0]
    y, z, called = (np.column_stack([x, x[:, :1]]) for x in (y, z, called))
    y[:, 3] = np.nan
    names = ["a", "b", "one class", "unknown"]
    whole = figures.of_labels(y, z, expit(z), called, np.ones(4, bool), counts, names, patients)
    alone = figures.of_probabilities(y, z, expit(z), counts, names, patients)
    slopes = ["calibration slope", "calibration intercept", "calibration in the large"]
    for name in names:
        assert list(alone["labels"][name]) == [*figures.FIT, *slopes]
        for title, found in alone["labels"][name].items():
            assert repr(found) == repr(whole["labels"][name][title]), (name, title)
    assert list(alone["macro"]) == ["Brier", "ECE", "ECE equal mass"]
    for title, found in alone["macro"].items():
        assert found["value"] > 0
        assert repr({**found, "labels": 2}) == repr(whole["macro"][title]), title


def test_centred_samples_have_the_value_as_their_mean():
    samples = np.array([[1.0, 0.1], [3.0, 0.3]])
    np.testing.assert_allclose(figures.centred(samples, np.array([1.5, 0.05])),
                               [[0.5, 0.0], [2.5, 0.15]])


def test_p_of_a_bootstrap_by_hand():
    samples = np.array([0.0, 2.0, 1.0, 1.0])  # SD sqrt(2 / 3)
    assert figures.p_value(samples, 1.0) == pytest.approx(2 * stats.norm.sf(np.sqrt(1.5)))
    assert figures.p_value(np.zeros(9), 0.0) == 1
    assert np.isnan(figures.p_value(np.array([np.nan]), 1.0))


def test_four_counts_by_hand():
    found = decisions.of_counts(np.array([3.0]), np.array([1.0]), np.array([2.0]), np.array([4.0]))
    want = {"accuracy": 0.7, "balanced accuracy": 0.7, "sensitivity": 0.6, "specificity": 0.8,
            "PPV": 0.75, "NPV": 4 / 6, "F1": 6 / 9, "MCC": (12 - 2) / np.sqrt(4 * 5 * 5 * 6)}
    assert {k: float(v[0]) for k, v in found.items()} == pytest.approx(want)
    assert decisions.of_counts(*map(np.array, ([0.0], [0.0], [3.0], [2.0])))["MCC"] == 0


def test_operating_points_by_hand():
    y = np.array([1, 0, 1, 0, 1, 0.0])[:, None]
    s = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1])[:, None]
    for how, want in (("sensitivity=0.6", 0.7), ("sensitivity=1", 0.5), ("specificity=0.6", 0.7),
                      ("specificity=1", 0.9), ("specificity=0.3", 0.5)):
        assert decisions.choose_thresholds(y, s, how)[0] == want, how
    s[0] = 0.2  # a negative film is first: no score leaves every negative alone
    assert np.isnan(decisions.choose_thresholds(y, s, "specificity=1")[0])
    for wrong in ("sensitivity", "sensitivity=0", "specificity=2", "specificity=x", "best"):
        with pytest.raises(UserError):
            decisions.choose_thresholds(y, s, wrong)


def test_predictive_values_at_another_prevalence():
    # Of 1,000 films 10 ill: 9 found, 1 missed; 990 well: 99 called, 891 left alone.
    found = decisions.at_prevalence(np.array(0.9), np.array(0.9), 0.01)
    assert [float(x) for x in found] == pytest.approx([9 / 108, 891 / 892])


def test_decision_curve_by_hand():
    y, p = np.array([1, 1, 0, 0, 0.0]), np.array([0.9, 0.3, 0.6, 0.2, 0.2])
    found = decisions.net_benefit(y, p, np.array([0.25, 0.5]))
    np.testing.assert_allclose(found["model"], [2 / 5 - 1 / 5 / 3, 1 / 5 - 1 / 5])
    np.testing.assert_allclose(found["all"], [2 / 5 - 3 / 5 / 3, 2 / 5 - 3 / 5])
    assert (found["none"] == 0).all()


def test_ranks_come_from_logits():
    z = np.array([[40.0, 0], [50, 0], [60, 0]], np.float32)
    y = np.array([[0, 1], [1, 0], [1, 0.0]])
    for task in ("multilabel", "multiclass"):
        assert (ranking.probabilities(z, task)[:, 0] > 1 - 1e-15).all()
        odds = ranking.log_odds(z, task)
        assert (np.diff(odds[:, 0]) > 0).all()
        assert ranking.auroc(y, odds)[0] == 1
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6, 4)).astype(np.float32)
    p = ranking.probabilities(z, "multiclass")
    np.testing.assert_allclose(ranking.log_odds(z, "multiclass"), np.log(p / (1 - p)))


def test_curves_take_infinite_scores():
    y, s = np.array([0, 1, 0, 1.0]), np.array([-np.inf, 0.5, 0.2, np.inf])
    false, true, at = ranking.roc_curve(y, s)
    assert np.trapezoid(true, false) == 1 and at[0] == np.inf and at[-1] == -np.inf
    precision, recall, at = ranking.precision_recall_curve(y, s)
    assert at[-1] == np.inf and recall[0] == 1 and precision[-1] == 1
    assert ranking.average_precision(y[:, None], s[:, None])[0] == 1


def test_bands_and_groups():
    ages = np.array(["0", "19", "20", "79", "80", "412", "", "abc"])
    want = ["0-19", "0-19", "20-39", "60-79", "80+", "", "", ""]
    assert subgroups.age_bands(ages).tolist() == want
    table = {"sex": np.array(["F", "M", ""]), "age": np.array([30, 31, 32]),
             "id": np.array(["a", "b", "c"])}
    assert list(subgroups.groups(table)) == ["sex"]  # one band makes no groups


def test_subgroups_are_the_figures_of_their_films_and_the_rest_is_counted():
    y, z, called, patients, _, _ = judged()
    sex = np.where(np.arange(len(y)) < 200, "F", "M")
    sex[-7:] = ""
    out = subgroups.judge(y, z, called, np.array([True, False, True]), ["a", "b", "c"],
                          {"sex": sex}, patients)
    women = sex == "F"
    row = next(r for r in out["rows"] if r["group"] == "F" and r["label"] == "a")
    assert row["AUROC"]["value"] == pytest.approx(sk.roc_auc_score(y[women, 0], z[women, 0]))
    assert row["sensitivity"]["value"] == pytest.approx(
        sk.recall_score(y[women, 0], called[women, 0]))
    low, high = intervals.auroc_interval(y[women, 0], z[women, 0], patients[women])
    assert (row["AUROC"]["low"], row["AUROC"]["high"]) == (low, high)
    assert out["unknown"] == {"sex": 7}
    places = [(r["group"], r["label"]) for r in out["rows"] + out["left out"]]
    assert sorted(places) == [(g, n) for g in "FM" for n in "abc"]
    assert all(r["positives"] < 20 for r in out["left out"]) and ("F", "c") in [
        (r["group"], r["label"]) for r in out["left out"]]
    assert next(r for r in out["rows"] if r["label"] == "b")["sensitivity"] is None


def test_under_diagnosis_by_hand():
    healthy = np.array([0] * 40 + [1] * 40 + [np.nan])
    called = np.concatenate([np.arange(40) < 10, np.arange(40) < 36, [True]])
    by = {"sex": np.array((["F"] * 20 + ["M"] * 20) * 2 + ["F"])}
    every, women, men = subgroups.under_diagnosis(healthy, called, by)
    assert every["under-diagnosis"]["value"] == 10 / 40
    assert every["over-diagnosis"]["value"] == 4 / 40
    assert (women["under-diagnosis"]["value"], men["under-diagnosis"]["value"]) == (0.5, 0)
    assert women["over-diagnosis"]["n"] == 20
