"""Metrics against scikit-learn, slow references and hand-made cases; published AUROCs."""

import csv

import numpy as np
import pytest
from sklearn import metrics as sk

from cxrjax.errors import UserError
from cxrjax.metrics import _common, calibration, decisions, ranking, segmentation
from cxrjax.training import validation

NAN = np.nan


def predictions(seed=0, films=300, labels=4, ties=False):
    rng = np.random.default_rng(seed)
    y = (rng.random((films, labels)) < [0.5, 0.2, 0.05, 0.3][:labels]).astype(np.float32)
    s = (rng.normal(size=(films, labels)) + y).astype(np.float32)
    return y, np.round(s) if ties else s


# --- several labels per film


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_average_precision_are_those_of_sklearn(ties):
    y, s = predictions(ties=ties)
    want = [sk.roc_auc_score(a, b) for a, b in zip(y.T, s.T)]
    np.testing.assert_allclose(ranking.auroc(y, s), want, atol=1e-12, rtol=0)
    want = [sk.average_precision_score(a, b) for a, b in zip(y.T, s.T)]
    np.testing.assert_allclose(ranking.average_precision(y, s), want, atol=1e-12, rtol=0)


def test_auroc_by_hand():
    y, s = np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([[0.9], [0.3], [0.3], [0.1]])
    # Pairs: right, right, tie, right.
    assert ranking.auroc(y, s) == [3.5 / 4]


def test_unknown_labels_are_left_out_of_their_label_only():
    y, s = predictions(1)
    holed = y.copy()
    holed[:100, 1] = NAN
    for metric in (ranking.auroc, ranking.average_precision):
        got = metric(holed, s)
        np.testing.assert_allclose(got[1:2], metric(y[100:, 1:2], s[100:, 1:2]))
        np.testing.assert_allclose(got[[0, 2, 3]], metric(y, s)[[0, 2, 3]])


def test_labels_of_one_class_are_nan_and_counted():
    y, s = predictions(2)
    y[:, 0], y[:, 1], y[:, 2] = 0, 1, NAN
    got = ranking.auroc(y, s)
    assert np.isnan(got[:3]).all() and got[3] == ranking.auroc(y[:, 3:], s[:, 3:])
    assert _common.mean_counted(got) == (got[3], 1)
    assert np.isnan(ranking.average_precision(y, s)[[0, 2]]).all()
    mean, counted = _common.mean_counted(np.array([NAN, NAN]))
    assert np.isnan(mean) and counted == 0
    assert _common.mean_counted(np.array([0.5, NAN, 1.0])) == (0.75, 2)


def test_scores_that_are_nan_and_labels_that_are_none_are_errors():
    y, s = predictions()
    s[3, 2] = s[5, 1] = NAN
    with pytest.raises(UserError, match="2 of 300 films are NaN"):
        ranking.auroc(y, s)
    y, s = predictions()
    y[0, 0] = 0.5
    with pytest.raises(UserError, match="0, 1 or NaN"):
        ranking.auroc(y, s)


@pytest.mark.parametrize("how", ["youden", "f1"])
def test_thresholds_are_the_best_there_are(how):
    y, s = predictions(3, films=60, ties=True)
    y[:, 1] = 0
    y[:20, 2] = NAN
    chosen = decisions.choose_thresholds(y, s, how)
    assert np.isnan(chosen[1])

    def value(threshold, k):
        known = ~np.isnan(y[:, k])
        truth, called = y[known, k] == 1, s[known, k] >= threshold
        if how == "f1":
            return sk.f1_score(truth, called, zero_division=0)
        return called[truth].mean() - called[~truth].mean()

    for k in (0, 2, 3):
        candidates = np.unique(s[~np.isnan(y[:, k]), k])
        values = np.array([value(t, k) for t in candidates])
        assert values.max() == pytest.approx(value(chosen[k], k))
        best = candidates[np.isclose(values, values.max())]
        assert chosen[k] == best.max()


def test_unknown_way_to_choose_thresholds():
    with pytest.raises(UserError, match="did you mean 'youden'"):
        decisions.choose_thresholds(*predictions(), how="yuden")


def test_at_thresholds_by_hand():
    y = np.array([[1, 1, 0, 0, NAN], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 1, 0, 1]]).T
    s = np.tile([[0.9], [0.5], [0.5], [0.1], [0.9]], (1, 4))
    got = decisions.at_thresholds(y, s, np.array([0.5, 0.95, 0.9, NAN]))
    # Label 0: two hits, one false alarm, one film rightly left, one unknown.
    want = {
        "sensitivity": [1.0, NAN, 2 / 5, NAN],
        "specificity": [0.5, 1.0, NAN, NAN],
        "precision": [2 / 3, NAN, 1.0, NAN],
        "f1": [4 / 5, NAN, 4 / 7, NAN],
        "films": [4, 5, 5, 5],
        "positives": [2, 0, 5, 3],
        "called": [3, 0, 2, NAN],
    }
    assert set(got) == set(want)
    for key, values in want.items():
        np.testing.assert_allclose(got[key], values, err_msg=key)


def test_curves_have_the_areas_of_the_metrics():
    y, s = predictions(4)
    y[:50, 0] = NAN
    fpr, tpr, _ = ranking.roc_curve(y[:, 0], s[:, 0])
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert sk.auc(fpr, tpr) == pytest.approx(ranking.auroc(y, s)[0], abs=1e-12)
    precision, recall, _ = ranking.precision_recall_curve(y[:, 0], s[:, 0])
    area = -np.sum(np.diff(recall) * precision[:-1])
    assert area == pytest.approx(ranking.average_precision(y, s)[0], abs=1e-12)
    none = np.zeros(300)
    assert all(len(x) == 0 for x in ranking.roc_curve(none, s[:, 0]))
    assert all(len(x) == 0 for x in ranking.precision_recall_curve(none, s[:, 0]))


def test_brier_and_calibration_by_hand():
    y = np.array([[1.0], [0.0], [1.0], [NAN], [1.0]])
    p = np.array([[0.9], [0.2], [0.4], [0.5], [1.0]])
    np.testing.assert_allclose(calibration.brier(y, p), [(0.01 + 0.04 + 0.36 + 0) / 4])
    # Two bins: {.2, .4} has 1/2 positives and mean .3, {.9, 1} has 1 and mean .95.
    np.testing.assert_allclose(calibration.calibration_error(y, p, bins=2), [(0.2 + 0.05) / 2])
    with pytest.raises(UserError, match="logits"):
        calibration.brier(y, p * 5)


def test_calibration_error_of_calibrated_probabilities_is_small():
    rng = np.random.default_rng(0)
    p = rng.random((20000, 1))
    y = (rng.random((20000, 1)) < p).astype(float)
    error = calibration.calibration_error
    assert error(y, p)[0] < 0.02 < 0.2 < error(y, p**3)[0]


# --- one label of N


def one_of_n(seed=5, films=200, classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, films)
    z = rng.normal(size=(films, classes)) + 1.5 * np.eye(classes)[truth]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return truth, np.eye(classes)[truth], p


def test_multiclass_scores_are_those_of_sklearn():
    truth, y, p = one_of_n()
    answer = p.argmax(1)
    got = decisions.multiclass(y, p)
    np.testing.assert_array_equal(got["confusion"], sk.confusion_matrix(truth, answer))
    want = {
        "accuracy": sk.accuracy_score(truth, answer),
        "macro_precision": sk.precision_score(truth, answer, average="macro"),
        "macro_recall": sk.recall_score(truth, answer, average="macro"),
        "macro_f1": sk.f1_score(truth, answer, average="macro"),
        "macro_auroc": sk.roc_auc_score(truth, p, average="macro", multi_class="ovr"),
        "brier": ((y - p) ** 2).sum(1).mean(),
    }
    for key, value in want.items():
        assert got[key] == pytest.approx(value, abs=1e-12), key
    assert (got["classes"], got["films"]) == (4, 200)
    assert 0 < got["calibration_error"] < 0.2


def test_multiclass_leaves_unknown_films_and_empty_classes_out():
    truth, y, p = one_of_n()
    y[truth == 3] = NAN
    kept = truth != 3
    got = decisions.multiclass(y, p)
    answer = p[kept].argmax(1)
    assert (got["films"], got["classes"]) == (kept.sum(), 3)
    assert got["accuracy"] == pytest.approx((answer == truth[kept]).mean())
    recalls = sk.recall_score(truth[kept], answer, average=None, labels=[0, 1, 2])
    assert got["macro_recall"] == pytest.approx(recalls.mean())
    assert got["macro_auroc"] == pytest.approx(
        np.mean([sk.roc_auc_score(truth[kept] == k, p[kept, k]) for k in range(3)])
    )


def test_a_class_that_is_never_the_answer_has_precision_zero():
    scores = decisions.confusion_scores(np.array([[3, 0], [2, 0]]))
    assert scores["accuracy"] == 3 / 5
    assert scores["macro_precision"] == (3 / 5 + 0) / 2
    assert scores["macro_recall"] == (1 + 0) / 2
    assert scores["macro_f1"] == pytest.approx((6 / 8 + 0) / 2)


def test_films_with_two_labels_are_no_one_of_n():
    _, y, p = one_of_n()
    y[0] = [1, 1, 0, 0]
    with pytest.raises(UserError, match="exactly one label"):
        decisions.multiclass(y, p)


# --- masks


def square(top, left, side, size=20):
    mask = np.zeros((1, size, size, 1), np.uint8)
    mask[0, top : top + side, left : left + side] = 1
    return mask


def test_dice_and_iou_by_hand():
    a, b = square(2, 2, 4), square(2, 4, 4)  # 8 of 16 pixels in common
    empty = np.zeros_like(a)
    truth = np.concatenate([a, a, empty, empty], axis=3)
    answer = np.concatenate([b, empty, b, empty], axis=3)
    np.testing.assert_allclose(segmentation.dice(truth, answer), [[0.5, 0, 0, 1]])
    np.testing.assert_allclose(segmentation.iou(truth, answer), [[8 / 24, 0, 0, 1]])
    np.testing.assert_allclose(segmentation.dice(truth, 0.8 * answer), [[0.5, 0, 0, 1]])
    assert segmentation.dice(truth.astype(bool), answer.astype(bool)).shape == (1, 4)


def test_hausdorff_by_hand():
    a, empty = square(5, 5, 6), np.zeros((1, 20, 20, 1), np.uint8)
    diagonal = np.hypot(20, 20)
    assert segmentation.hausdorff95(a, a) == [[0]]
    assert segmentation.hausdorff95(empty, empty) == [[0]]
    assert segmentation.hausdorff95(a, empty) == segmentation.hausdorff95(empty, a) == [[diagonal]]
    # Two single pixels, 3 down and 4 across.
    assert segmentation.hausdorff95(square(1, 1, 1), square(4, 5, 1)) == [[5]]
    # One pixel against two, 2 and 10 away: the 95th percentile between them.
    far = square(2, 4, 1) | square(2, 12, 1)
    assert segmentation.hausdorff95(square(2, 2, 1), far) == [[2 + 0.95 * 8]]
    assert segmentation.hausdorff95(far, square(2, 2, 1)) == [[2 + 0.95 * 8]]


def hausdorff_slow(a, b):
    def border(x):
        x = np.pad(x, 1)
        inner = x[:-2, 1:-1] & x[2:, 1:-1] & x[1:-1, :-2] & x[1:-1, 2:]
        return np.argwhere(x[1:-1, 1:-1] & ~inner)

    p, q = border(a), border(b)
    distance = np.sqrt(((p[:, None] - q[None]) ** 2).sum(-1))
    return max(np.percentile(distance.min(1), 95), np.percentile(distance.min(0), 95))


def test_hausdorff_against_all_pairs_of_border_pixels():
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:24, :24]
    truth, answer = np.zeros((2, 3, 24, 24, 2), bool)
    for i, j in np.ndindex(3, 2):
        for mask in (truth, answer):
            # Blobs that partly run out of the film, with loose pixels.
            cy, cx, r = rng.uniform(0, 24), rng.uniform(0, 24), rng.uniform(3, 9)
            mask[i, :, :, j] = (y - cy) ** 2 + (x - cx) ** 2 < r**2
            mask[i, :, :, j] |= rng.random((24, 24)) < 0.01
    got = segmentation.hausdorff95(truth, answer)
    want = [
        [hausdorff_slow(truth[i, :, :, j], answer[i, :, :, j]) for j in range(2)] for i in range(3)
    ]
    np.testing.assert_allclose(got, want, atol=1e-9)


# --- training curves


@pytest.mark.parametrize(
    "losses, epoch",
    [
        ([1.0], 1),
        ([3, 2, 1], 3),  # still learning when stopped
        ([1, 2, 3, 4], 1),  # only ever got worse
        ([5, 4, 3, 2] + [3] * 26, 4),
        ([5, 4, 3, 2] + [3] * 10 + [1.99] + [3] * 15, 4),  # one late record of 26 epochs
        ([5, 4, 3, 2] + [3, 1.9, 3, 1.8, 3, 1.7, 3, 1.6] + [3] * 18, 12),
        ([NAN, 2, 1] + [2] * 20, 3),
        ([5, 5, 5], 1),
    ],
)
def test_convergence_epoch(losses, epoch):
    assert validation.convergence_epoch([float(x) for x in losses]) == epoch


def test_convergence_of_nothing_is_an_error():
    with pytest.raises(UserError, match="no validation loss"):
        validation.convergence_epoch([NAN, NAN])


# --- published figures


def test_published_aurocs_of_chestxray14(shared_data):
    """The 14 AUROCs of a public replica of CheXNet, from its own predictions and NIH's labels."""
    folder = shared_data / "nih"
    with open(folder / "predictions" / "jrzech_reproduce_chexnet_preds.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    with open(folder / "predictions" / "jrzech_reproduce_chexnet_aucs.csv", newline="") as f:
        published = {row["label"]: float(row["auc"]) for row in csv.DictReader(f)}
    with open(folder / "Data_Entry_2017_v2020.csv", newline="") as f:
        findings = {r["Image Index"]: r["Finding Labels"].split("|") for r in csv.DictReader(f)}
    names = list(published)
    scores = np.array([[float(row[f"prob_{name}"]) for name in names] for row in rows])
    labels = np.array(
        [[float(name in findings[row["Image Index"]]) for name in names] for row in rows]
    )
    assert scores.shape == (22433, 14)
    got = ranking.auroc(labels, scores)
    np.testing.assert_allclose(got, list(published.values()), atol=1e-6, rtol=0)


def test_scores_of_each_class_by_hand():
    scores = decisions.class_scores(np.array([[3, 1, 0], [0, 0, 0], [2, 0, 4]]))
    np.testing.assert_allclose(scores["precision"], [3 / 5, np.nan, 1])
    np.testing.assert_allclose(scores["sensitivity"], [3 / 4, np.nan, 2 / 3])
    np.testing.assert_allclose(scores["specificity"], [4 / 6, 9 / 10, 1])
    np.testing.assert_allclose(scores["f1"], [6 / 9, np.nan, 8 / 10])


def test_ties_of_youden_take_the_highest_threshold():
    """1/3 - 0 and 3/3 - 2/3 are one third both, which floating point does not say."""
    labels = np.array([[0], [0], [0], [1], [1], [1]])
    scores = np.array([[0.3], [0.1], [0.0], [0.6], [0.2], [0.1]])
    assert decisions.choose_thresholds(labels, scores)[0] == 0.6


def test_a_curve_takes_infinite_scores():
    labels, scores = np.array([0, 1, 0, 1.0]), np.array([-np.inf, np.inf, 1.0, 2.0])
    false, true, at = ranking.roc_curve(labels, scores)
    area = np.trapezoid(true, false)
    assert area == ranking.auroc(labels[:, None], scores[:, None])[0] == 1.0
    assert (false[0], true[0], at[0]) == (0, 0, np.inf) and at[-1] == -np.inf
    _, recall, thresholds = ranking.precision_recall_curve(labels, scores)
    assert recall[0] == 1 and thresholds[-1] == np.inf
