"""Localisation scores by hand, against a literal count, and the random control's expectation."""

import json

import numpy as np
import pytest

from cxrjax.errors import UserError
from cxrjax.explanation import report
from cxrjax.metrics import localization


def box(*edges):
    return np.array(edges, np.float64)


NONE = np.zeros((0, 4))


def test_iou_and_iobb_by_hand():
    truth = np.tile(box(0, 0, 4, 4), (5, 1))
    predicted = np.array(
        [[0, 0, 4, 4], [2, 2, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4], [9, 9, 9, 9]], np.float64
    )
    np.testing.assert_allclose(localization.iou(predicted, truth), [1, 4 / 16, 8 / 24, 0, 0])
    np.testing.assert_allclose(localization.iobb(predicted, truth), [1, 1, 8 / 16, 0, 0])


def test_iou_equals_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = (np.concatenate([c, c + rng.integers(1, 7, 2)]) for c in rng.integers(0, 8, (2, 2)))
        masks = np.zeros((2, 16, 16), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, (a, b)):
            mask[y0:y1, x0:x1] = True
        both = (masks[0] & masks[1]).sum()
        a, b = a[None].astype(float), b[None].astype(float)
        assert localization.iou(a, b)[0] == pytest.approx(both / (masks[0] | masks[1]).sum())
        assert localization.iobb(a, b)[0] == pytest.approx(both / masks[0].sum())


def test_inside_with_and_without_tolerance():
    truth = np.tile(box(10, 10, 20, 20), (5, 1))
    points = np.array([[10.5, 19.5], [20.5, 15], [23, 24], [23, 24.1], [np.nan, np.nan]])
    assert localization.inside(points, truth).tolist() == [True, False, False, False, False]
    assert localization.inside(points, truth, 5).tolist() == [True, True, True, False, False]


def test_peaks_are_pixel_centres():
    maps = np.zeros((3, 4, 8))
    maps[0, 1, 5] = 2.0
    maps[1] = -1.0
    maps[2, 3, 7] = maps[2, 0, 2] = 1.0
    np.testing.assert_allclose(localization.peaks(maps), [[5.5, 1.5], [np.nan] * 2, [2.5, 0.5]])
    np.testing.assert_allclose(localization.peaks(maps, size=(40, 160))[0], [110, 15])


# Five marked boxes: finding 0 twice, finding 2 on one film with two boxes and on another with one.
TRUTH = np.array(
    [[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 10], [50, 50, 60, 60], [30, 0, 40, 10]],
    np.float64,
)
FINDING = np.array([0, 0, 2, 2, 2])
CASE = np.array([7, 3, 5, 5, 9])
PREDICTED = [
    np.array([[0, 0, 10, 4], [0, 0, 10, 10]], np.float64),  # IoU .4, IoBB 1; the second is right
    np.array([[20, 20, 100, 40]], np.float64),  # IoU .25, IoBB .25
    np.array([[45, 45, 60, 60]], np.float64),  # nothing; for its sibling IoU 100/225, IoBB the same
    np.array([[45, 45, 60, 60]], np.float64),
    NONE,
]
POINTS = np.array([[5, 5], [50, 30], [55, 55], [55, 55], [35, 5]], np.float64)


def test_score_by_hand():
    scores = localization.score(PREDICTED, POINTS, TRUTH, FINDING, 3, CASE)
    assert scores.boxes.tolist() == [2, 0, 3]
    assert scores.cases.tolist() == [2, 0, 2]
    np.testing.assert_allclose(scores.iou[0], [1, 0.5, 0])  # .4 and .25 over .1, .3, .5
    np.testing.assert_allclose(scores.iobb[0], [1, 0.5, 0.5, 0.5])  # 1 and .25, which is not > .25
    np.testing.assert_allclose(scores.iou[2], [1 / 3, 1 / 3, 0])  # 0, 4/9, 0
    np.testing.assert_allclose(scores.iobb[2], [1 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(scores.pointing, [0.5, np.nan, 1.0])
    np.testing.assert_allclose(scores.regions, [1.5, np.nan, 1 / 2])  # one map a case
    assert np.isnan(scores.iou[1]).all()
    mean = scores.mean()
    assert mean["findings"] == 2
    np.testing.assert_allclose(mean["iou"], [2 / 3, 5 / 12, 0])
    assert mean["pointing"] == 0.75
    apart = localization.score(PREDICTED, POINTS, TRUTH, FINDING, 3)
    assert apart.cases.tolist() == [2, 0, 3]
    assert apart.pointing[2] == pytest.approx(2 / 3)


def test_rules_by_hand():
    truth, finding = box(0, 0, 10, 10)[None], np.array([0])
    predicted = [np.array([[20, 0, 40, 10], [0, 0, 10, 10]], np.float64)]
    point = np.array([[30.0, 5.0]])
    values = {
        rule: localization.score(predicted, point, truth, finding, 1, rule=rule)
        for rule in localization.RULES
    }
    assert values["largest"].iou.tolist() == [[0, 0, 0]]
    assert values["any"].iou.tolist() == [[1, 1, 1]]
    assert values["hull"].iou.tolist() == [[1, 0, 0]]  # 100 of 400
    assert values["hull"].iobb.tolist() == [[1, 0, 0, 0]]  # exactly .25 is not above it
    assert values["any"].regions.tolist() == [2]
    near = localization.score(predicted, point, truth, finding, 1, tolerance=20)
    assert (values["any"].pointing[0], near.pointing[0]) == (0, 1)


def test_no_boxes_at_all():
    scores = localization.score([], np.zeros((0, 2)), NONE, np.zeros(0, int), 2)
    assert scores.mean()["findings"] == 0
    assert scores.as_dict(["a", "b"]) == {}


def test_random_point_hits_by_area():
    rng = np.random.default_rng(0)
    truth = np.array([[0, 0, 50, 50], [10, 20, 30, 40], [60, 60, 70, 70]], np.float64)
    control = localization.random_control(
        [NONE] * 3, truth, np.array([0, 1, 1]), 2, (100, 200), rng, np.array([0, 1, 1]),
        draws=20_000,
    )  # fmt: skip
    # 2500 of 20000 pixels; two boxes of one case, 400 + 100
    np.testing.assert_allclose(control.pointing, [0.125, 0.025], atol=0.008)
    assert control.iou.tolist() == [[0, 0, 0]] * 2
    wide = localization.random_control(
        [NONE] * 3, truth, np.array([0, 1, 1]), 2, (100, 200), rng, tolerance=10, draws=20_000
    )
    assert wide.pointing[0] == pytest.approx((3500 + np.pi * 25) / 20_000, abs=0.008)


def test_random_box_of_the_same_size_has_the_expected_overlap():
    rng = np.random.default_rng(0)
    truth = box(0, 0, 10, 10)[None]
    same = [box(55, 3, 65, 13)[None]]
    none = np.array([0])
    control = localization.random_control(same, truth, none, 1, (10, 100), rng, draws=40_000)
    # The box can only slide sideways, over 90: IoU = (10 - s) / (10 + s) > t for s < 10 (1-t)/(1+t)
    expected = [10 * (1 - t) / (1 + t) / 90 for t in localization.IOU_THRESHOLDS]
    np.testing.assert_allclose(control.iou[0], expected, atol=0.004)
    np.testing.assert_allclose(
        control.iobb[0], [10 * (1 - t) / 90 for t in localization.IOBB_THRESHOLDS], atol=0.004
    )
    everything = [box(0, 0, 100, 10)[None]]
    none = np.array([0])
    control = localization.random_control(everything, truth, none, 1, (10, 100), rng, draws=5)
    assert control.iobb[0].tolist() == [0, 0, 0, 0]  # exactly .1 everywhere
    assert control.iou[0].tolist() == [0, 0, 0]


def test_random_control_repeats_with_its_generator():
    def control(seed):
        return localization.random_control(
            PREDICTED, TRUTH, FINDING, 3, (100, 100), np.random.default_rng(seed), CASE, draws=50
        )

    np.testing.assert_array_equal(control(1).pointing, control(1).pointing)
    assert (control(1).pointing[[0, 2]] != control(2).pointing[[0, 2]]).any()


def test_table_and_json():
    findings = ["Mass", "Nodule", "Hernia"]
    model = localization.score(PREDICTED, POINTS, TRUTH, FINDING, 3, CASE)
    random = localization.random_control(
        PREDICTED, TRUTH, FINDING, 3, (100, 100), np.random.default_rng(0), CASE, draws=10
    )
    table = report.scores_table({"model": model, "random position": random}, findings)
    lines = table.splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert lines[2] == (
        "| Mass | 2 | model | 1.000 | 0.500 | 0.000 | 1.000 | 0.500 | 0.500 | 0.500 | 0.500 | 1.5 |"
    )
    assert lines[3].startswith("| Mass | 2 | random position |")
    assert lines[6].startswith("| **mean of 2** | 5 | model | 0.667 | 0.417 | 0.000 |")
    assert "not judged: Nodule." in table
    saved = json.loads(json.dumps(model.as_dict(findings), allow_nan=False))
    assert saved["Mass"]["iou"] == {"0.1": 1.0, "0.3": 0.5, "0.5": 0.0}
    assert set(saved) == {"Mass", "Hernia", "mean"}
    assert saved["mean"]["findings"] == 2
    fewer = localization.score(PREDICTED[:2], POINTS[:2], TRUTH[:2], FINDING[:2], 3)
    with pytest.raises(UserError, match="same boxes"):
        report.scores_table({"model": model, "other": fewer}, findings)


def test_mistakes_are_named():
    good = dict(predicted=PREDICTED, points=POINTS, truth=TRUTH, finding=FINDING, num_findings=3)
    for wrong, message in (
        ({"rule": "best"}, "unknown rule 'best'"),
        ({"predicted": PREDICTED[:3]}, "3 predictions for 5"),
        ({"num_findings": 2}, "0 to 1"),
        ({"truth": TRUTH[:, [0, 1, 0, 3]]}, "marked box 0 has no area"),
        ({"case": np.array([1, 2, 1, 3, 4])}, "one finding"),
    ):
        with pytest.raises(UserError, match=message):
            localization.score(**(good | wrong))
