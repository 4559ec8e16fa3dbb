"""Reports: what is shown beside what, and numbers that can be worked out by hand."""

import csv
import json

import numpy as np
import pytest

from cxrjax.data.sets._published import CHESTXRAY14, COVID_RADIOGRAPHY, PNEUMONIAMNIST, Published
from cxrjax.evaluation import judge, report
from cxrjax.metrics import ranking

LABELS = ("a", "b")


def judged(films=4, split="test", split_name="official", task="multilabel", **more):
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, np.nan]], np.float32)[:films]
    logits = np.array([[2, -1], [-1, 1], [-2, -2], [-3, 0]], np.float32)[:films]
    if task == "multiclass":
        labels = np.nan_to_num(labels, nan=1.0)
    network = judge.judge_network(labels, logits, labels, logits, LABELS, task, resamples=20)
    return {
        "run": {"workdir": "w", "checkpoint": "best", "step": 3, "epoch": 1.5, "seed": 0,
                "trained_with": {"jax": "x"}, "image_size": 8, "init_from": ""},
        "labels": list(LABELS), "task": task, "split": split, "split_name": split_name,
        "protocol": "four films", "films": films, "intervals": "bootstrap over films",
        "networks": {"net": network}, **more,
    }, labels, logits


def test_figures_by_hand():
    result, _, _ = judged()
    a = result["networks"]["net"]["per_label"]["a"]
    # Label a: positives score 2 and -2, negatives -1 and -3: 3 of 4 pairs in order.
    assert a["AUROC"] == 0.75 and a["positives"] == 2 and a["films"] == 4
    b = result["networks"]["net"]["per_label"]["b"]
    assert b["AUROC"] == 1.0 and b["films"] == 3
    macro = result["networks"]["net"]["macro"]
    assert macro["macro AUROC"] == 0.875 and macro["classes judged"] == 2


def test_a_class_that_cannot_be_judged_is_counted_out():
    labels = np.array([[1, 0], [0, 0], [1, 0]], np.float32)
    logits = np.array([[1, 0], [0, 0], [2, 0]], np.float32)
    network = judge.judge_network(labels, logits, labels, logits, LABELS, "multilabel",
                                   resamples=20)
    assert network["macro"]["classes judged"] == 1
    assert network["macro"]["macro AUROC"] == 1.0
    page = report.markdown({**judged()[0], "networks": {"net": network}})
    assert "1 of 2 classes that could be judged" in page and "| b | 0 of 3 | - |" in page


def test_means_are_over_the_same_labels():
    """A label without positives has no F1, whether or not anything is called positive."""
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 0, 0]], np.float32)
    val = np.array([[1, 1, 1], [0, 0, 1]], np.float32)  # c: positives only, so no threshold
    val_logits = np.array([[1, 1, 0], [-1, -1, 0]], np.float32)
    scores = np.array([[2, 9, 1], [-2, -9, 0], [2, -9, -1], [2, -9, 0]], np.float32)
    network = judge.judge_network(labels, scores, val, val_logits, (*LABELS, "c"), "multilabel",
                                   resamples=20)
    macro = network["macro"]
    assert (macro["classes judged"], macro["classes decided"]) == (2, 1)
    assert macro["macro F1"] == pytest.approx(4 / 5)  # of a alone: tp 2, fp 1
    assert macro["macro specificity"] == 0.5
    page = report.markdown({**judged()[0], "networks": {"net": network}})
    assert "sensitivity and specificity over 1" in page


def test_one_of_n_is_judged_by_its_answers():
    labels = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    logits = np.array([[3, 0], [3, 0], [0, 1], [0, 2]], np.float32)
    network = judge.judge_network(labels, logits, labels, logits, LABELS, "multiclass",
                                   resamples=20)
    a = network["per_label"]["a"]
    assert network["confusion"] == [[2, 1], [0, 1]] and "threshold" not in a
    assert (a["sensitivity"], a["specificity"], a["precision"]) == (2 / 3, 1.0, 1.0)
    f1 = np.mean([own["F1"] for own in network["per_label"].values()])
    assert network["macro"]["macro F1"] == pytest.approx(f1)
    page = report.markdown({**judged(task="multiclass", split="val")[0]})
    assert "class of the highest probability" in page and "**too good**" in page


def sections(page):
    return dict(part.split("\n", 1) for part in page.split("\n## ") if "\n" in part)


@pytest.mark.parametrize(
    "split, films, beside", [("official", 4, True), ("chexnet", 4, False), ("official", 3, False)]
)
def test_only_figures_of_the_same_films_stand_beside_ours(split, films, beside):
    published = (Published("Theirs", "official", "p", {"macro AUROC": 0.5}, films=4),
                 Published("Unknown", "", "p", {"macro AUROC": 0.6}))
    parts = sections(report.markdown(judged(films, split_name=split)[0], published))
    same = parts.get("Beside published figures of this split", "")
    other = parts["Published figures on other films"]
    assert ("Theirs" in same) == beside and ("Theirs" in other) == (not beside)
    assert "Unknown" in other and "**ours" not in other


def test_validation_figures_stand_beside_no_published_ones():
    page = report.markdown(judged(split="val")[0], PNEUMONIAMNIST)
    assert "Beside published" not in page


def test_published_means_are_those_of_their_columns():
    for p in CHESTXRAY14:
        if p.per_label:
            assert len(p.per_label) == 14
            mean = float(np.mean(list(p.per_label.values())))
            assert mean == pytest.approx(p.figures["macro AUROC"], abs=6e-4), p.name
    assert len(COVID_RADIOGRAPHY) == 4


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_files_can_be_read_again(tmp_path, task):
    result, labels, logits = judged(task=task)
    ids = [f"film{i}" for i in range(4)]
    report.write(tmp_path, result, ids, labels, {"net": logits})
    on_disk = json.loads((tmp_path / "report.json").read_text())
    assert on_disk["networks"]["net"]["macro"]["macro AUROC"] == pytest.approx(
        result["networks"]["net"]["macro"]["macro AUROC"])
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["id"] for row in rows] == ids
    np.testing.assert_allclose([float(row["a"]) for row in rows],
                               ranking.probabilities(logits, task)[:, 0], rtol=1e-6)
    pictures = {p.name for p in tmp_path.glob("*.png")}
    assert {"roc_net.png", "pr_net.png"} <= pictures
    assert ("confusion_net.png" in pictures) == (task == "multiclass")
