"""Scores of masks: film by film, then averaged, and which film is the worst."""

import csv

import numpy as np
import pytest

from cxrjax.evaluation import masks
from cxrjax.metrics import bootstrap, segmentation


def a_mask(*pixels):
    mask = np.zeros((4, 4, 2), np.uint8)
    for y, x, m in pixels:
        mask[y, x, m] = 1
    return mask


@pytest.fixture
def batch():
    truth = np.stack([a_mask((0, 0, 0), (0, 1, 0), (2, 2, 1)), a_mask((0, 0, 0), (0, 0, 1)),
                      a_mask()])
    return {"mask": truth, "has_mask": np.array([True, True, False])}


@pytest.fixture
def outputs():
    answer = np.stack([a_mask((0, 0, 0), (2, 2, 1)), a_mask((0, 0, 0), (0, 3, 1)), a_mask()])
    return {"logits": np.zeros((3, 1)), "mask_logits": np.where(answer > 0, 0.1, -3.0)}


def test_scores_by_hand(batch, outputs):
    out = segmentation.score_batch(batch, outputs)
    assert set(out) == {"logits", "dice", "iou", "hd95"}
    np.testing.assert_allclose(out["dice"], [[2 / 3, 1], [1, 0], [np.nan, np.nan]])
    np.testing.assert_allclose(out["iou"], [[1 / 2, 1], [1, 0], [np.nan, np.nan]])
    assert out["hd95"][1].tolist() == [0, 3]  # three pixels to the right
    assert 0.9 <= out["hd95"][0, 0] <= 1  # the farther of two border pixels is 1 away


def test_only_what_is_asked_for(batch, outputs):
    assert set(segmentation.score_batch(batch, outputs, ("dice",))) == {"logits", "dice"}
    del outputs["mask_logits"]
    assert set(segmentation.score_batch(batch, outputs)) == {"logits"}


def test_the_report_by_hand(batch, outputs):
    scores = segmentation.score_batch(batch, outputs)
    scores = {k: scores[k] for k in ("dice", "iou", "hd95")}
    counts = bootstrap.resample(3, 200, seed=0)
    classes = {"sick": np.array([True, False, False]), "well": np.array([False, False, True])}
    macro, rows = segmentation.judge(scores, ("lungs", "heart"), counts, classes)
    assert list(rows) == ["lungs", "lungs, sick", "heart", "heart, sick"]  # no mask of 'well'
    assert [row["films"] for row in rows.values()] == [2, 1, 2, 1]
    np.testing.assert_allclose(rows["lungs"]["Dice"], (2 / 3 + 1) / 2)
    np.testing.assert_allclose(rows["lungs, sick"]["Dice"], 2 / 3)
    np.testing.assert_allclose(rows["heart"]["IoU"], 0.5)
    np.testing.assert_allclose(macro["Dice"], ((2 / 3 + 1) / 2 + 0.5) / 2)
    assert rows["lungs"]["Dice low"] == pytest.approx(2 / 3)
    assert rows["lungs"]["Dice high"] == 1
    assert macro["Dice low"] < macro["Dice"] < macro["Dice high"]


def test_worst_films_come_first():
    dice = np.array([[0.9, 0.8], [np.nan, np.nan], [0.2, 0.9], [1.0, 1.0], [0.0, 0.4]])
    assert masks.worst_first(dice).tolist() == [4, 2, 0, 3]


def test_the_table_has_a_row_for_each_film_with_a_mask(batch, outputs, tmp_path):
    scores = segmentation.score_batch(batch, outputs)
    masks.write_scores(tmp_path / "m.csv", ["a", "b", "c"], ("lungs", "heart"),
                              {"net": scores})
    rows = list(csv.DictReader((tmp_path / "m.csv").open()))
    assert [(r["id"], r["structure"]) for r in rows] == [
        ("a", "lungs"), ("a", "heart"), ("b", "lungs"), ("b", "heart"),
    ]
    assert float(rows[0]["dice"]) == scores["dice"][0, 0]


@pytest.mark.slow
def test_dice_and_hausdorff_are_monais():
    """MONAI's distances are of 32 bits."""
    monai, torch = pytest.importorskip("monai.metrics"), pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:24, :24]
    truth, answer = np.zeros((2, 3, 24, 24, 2), bool)
    for i, j in np.ndindex(3, 2):
        for mask in (truth, answer):
            cy, cx, r = rng.uniform(6, 18), rng.uniform(6, 18), rng.uniform(3, 6)
            mask[i, :, :, j] = (y - cy) ** 2 + (x - cx) ** 2 < r**2
    theirs = [torch.tensor(np.moveaxis(mask, -1, 1)).double() for mask in (answer, truth)]
    np.testing.assert_allclose(segmentation.dice(truth, answer), monai.compute_dice(*theirs),
                               atol=1e-9)
    np.testing.assert_allclose(
        segmentation.hausdorff95(truth, answer), monai.compute_hausdorff_distance(
            *theirs, include_background=True, percentile=95), atol=2e-6)
