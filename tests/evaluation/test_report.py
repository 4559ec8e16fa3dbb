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
    assert "1 of 2 classes that could be judged" in page and "| b \\* | 0 of 3 | - | - |" in page


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


def test_other_labels_never_stand_beside_ours_without_the_word():
    theirs = Published("Theirs", "official", "p", {"macro AUROC": 0.5}, films=4, labels="2017")
    page = report.markdown(judged(labels_version="v2020")[0], (theirs,))
    assert "| Theirs (2017 labels, ours are v2020) |" in page
    assert "| Theirs |" in report.markdown(judged(labels_version="2017")[0], (theirs,))
    assert all(p.labels == "2017" for p in CHESTXRAY14 if p.films == 25_596)


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


def rows_of(path):
    return list(csv.DictReader(path.open()))


def many(films=120, seed=0, n=2):
    """Labels, one of them rare, and logits that know something of them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((films, n)) < np.array([0.4, 0.05])[:n]).astype(np.float32)
    return labels, (2 * labels - 1 + rng.normal(0, 1.5, labels.shape)).astype(np.float32)


def test_every_figure_has_its_interval_and_few_positives_are_marked(tmp_path):
    labels, logits = many()
    val = many(seed=1)
    sex = {"sex": np.where(np.arange(120) % 2, "F", "M")}
    network = judge.judge_network(
        labels, logits, *val, LABELS, "multilabel", np.arange(120) // 2, 50,
        operating_point="sensitivity=0.9", prevalence=0.02, groups=sex,
    )
    result = {**judged()[0], "networks": {"net": network}, "films": 120}
    ids = [f"<b>film{i}" for i in range(120)]
    report.write(tmp_path, result, ids, labels, {"net": logits})
    few = int(labels[:, 1].sum())
    assert few < 20 <= labels[:, 0].sum()
    page = (tmp_path / "report.md").read_text()
    assert f"| b \\* | {few} of 120 | " in page and "| a | " in page and "| a \\*" not in page
    for row in rows_of(tmp_path / "figures.csv"):
        known = row["value"] and row["method"] and row["method"] != "maximum likelihood"
        assert not known or float(row["low"]) <= float(row["value"]) <= float(row["high"]), row
        assert (row["fewer than 20 positives"] == "yes") == (0 <= int(row["positives"] or 99) < 20)
    # The threshold is validation's, and the figures at it are the test's.
    point = network["operating point"]["labels"]["a"]
    scores = ranking.probabilities(val[1], "multilabel")[:, 0]
    assert np.mean(scores[val[0][:, 0] == 1] >= point["threshold"]) >= 0.9
    called = ranking.probabilities(logits, "multilabel")[:, 0] >= point["threshold"]
    se, sp = called[labels[:, 0] == 1].mean(), (~called)[labels[:, 0] == 0].mean()
    assert point["sensitivity"]["value"] == pytest.approx(se)
    own = point["PPV at prevalence"]
    assert own["value"] == pytest.approx(0.02 * se / (0.02 * se + 0.98 * (1 - sp)))
    assert own["low"] < own["value"] < own["high"] < point["PPV"]["value"]
    assert "sensitivity of at least 0.9" in page and "2.00% of the films are positive" in page
    by = {(r["by"], r["group"], r["label"]) for r in network["subgroups"]["rows"]}
    assert by <= {("sex", "F", "a"), ("sex", "M", "a")} and by
    assert {r["label"] for r in network["subgroups"]["left out"]} >= {"b"}
    curve = rows_of(tmp_path / "decision_curves.csv")[0]
    assert curve["threshold"] == "0.01"
    assert float(curve["of acting on all"]) == pytest.approx(
        labels[:, 0].mean() - (1 - labels[:, 0].mean()) / 99)


def test_the_page_needs_no_other_file(tmp_path):
    result, labels, logits = judged(task="multiclass")
    result["run"]["workdir"] = "<script>w"
    report.write(tmp_path, result, [f"film{i}" for i in range(4)], labels, {"net": logits})
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6 and 'src="roc' not in page
    assert "<script>" not in page and "<table>" in page


def test_one_class_of_two_is_shown():
    assert judge.positive_labels(("Normal", "Pneumonia"), "multiclass") == [1]
    assert judge.positive_labels(("Pneumonia", "No Finding"), "multiclass") == [0]
    assert judge.positive_labels(("Normal", "Pneumonia"), "multilabel") == [0, 1]
    page = report.markdown(judged(task="multiclass")[0])
    assert "| b \\* | 2 of 4 |" in page and "| a \\* |" not in page


def test_saturated_probabilities_are_ranked_by_their_logits():
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    logits = np.array([[90, 80], [60, 80], [70, 80], [50, 90]], np.float32)
    network = judge.judge_network(labels, logits, labels, logits, LABELS, "multilabel",
                                  resamples=20)
    assert [own["AUROC"] for own in network["per_label"].values()] == [1.0, 0.75]


def test_answers_of_one_of_n_have_intervals():
    rng = np.random.default_rng(2)
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 90)]
    logits = (labels + rng.normal(0, 1, labels.shape)).astype(np.float32)
    network = judge.judge_network(labels, logits, labels, logits, ("a", "b", "c"), "multiclass",
                                  np.arange(90) // 2, 100)
    macro = network["macro"]
    for title in ("accuracy", "macro F1", "macro recall", "ECE", "Brier"):
        assert macro[f"{title} low"] < macro[title] < macro[f"{title} high"]
    probs = ranking.probabilities(logits, "multiclass")
    assert macro["Brier"] == pytest.approx(np.mean(((probs - labels) ** 2).sum(1)))
