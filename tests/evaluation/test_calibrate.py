"""Calibration of a trained run, at the command line and wherever the run is read."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import cxrjax
from cxrjax.data import sets
from cxrjax.errors import UserError
from cxrjax.evaluation import answers, calibrate, evaluate, judge
from cxrjax.explanation import explain
from cxrjax.metrics import calibration, ranking
from cxrjax.training import loop, restored
from tests.training.test_loop import toy_config


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run of some skill, judged, calibrated and judged again."""
    folder = tmp_path_factory.mktemp("calibrated")
    loop.train(toy_config(**{"dataset.films": 192, "train_for": "4 steps",
                             "optimizer.learning_rate": 0.003}), folder)
    before = evaluate.evaluate(folder)
    thresholds = (folder / "thresholds.json").read_text()
    calibrate.main(str(folder))
    assert (folder / "thresholds.json").read_text() == thresholds
    return folder, before, evaluate.evaluate(folder)


def predictions(folder, network="create"):
    rows = list(csv.DictReader((folder / "evaluation" / "test" / "predictions.csv").open()))
    rows = [row for row in rows if row["network"] == network]
    values = [[[float(row[f"{kind}{label}"]) for label in ("Left", "Right", "Top")]
               for row in rows] for kind in ("", "logit ", "label ")]
    return map(np.array, values)


def test_ranks_and_decisions_stay_and_probabilities_move(calibrated):
    folder, before, after = calibrated
    a, b = (report["networks"]["create"] for report in (before, after))
    for label in a["per_label"]:
        for title in ("AUROC", "AP", "F1", "sensitivity", "specificity", "PPV", "MCC"):
            assert a["figures"]["labels"][label][title] == b["figures"]["labels"][label][title]
        was, now = (x["per_label"][label]["threshold"] for x in (a, b))
        assert (was == now) == (label == "Right")  # whose logits run against it: left as it is
    assert a["macro"]["macro AUROC"] == b["macro"]["macro AUROC"]
    # What stood in the report before stands beside what is in it now.
    said = b["before calibration"]
    for title in ("ECE", "Brier", "ECE equal mass"):
        was, now = said["macro"][title], a["figures"]["macro"][title]
        assert {k: was[k] for k in was} == {k: now[k] for k in was}
        assert b["figures"]["macro"][title] != now
    assert said["labels"]["Top"]["Brier"] == a["figures"]["labels"]["Top"]["Brier"]
    assert said["reliability"] == a["reliability"] != b["reliability"]
    # The probabilities are those of the map in the file, by hand.
    probs, logits, labels = predictions(folder)
    kept = json.loads((folder / "calibration.json").read_text())["networks"]["create"]
    z = logits * kept["slope"] + kept["intercept"]
    np.testing.assert_allclose(probs, 1 / (1 + np.exp(-z)), rtol=1e-12)
    assert b["macro"]["Brier"] == pytest.approx(calibration.brier(labels, probs).mean(), abs=1e-12)
    page = (folder / "evaluation" / "test" / "report.md").read_text()
    assert "Platt scaling of each label, fitted on 32 validation films" in page
    assert "| of | figure | before | calibrated |" in page
    assert "finding Top, before calibration" in (
        folder / "evaluation" / "test" / "figures.csv").read_text()


def test_what_reads_the_run_gives_calibrated_probabilities(calibrated, tmp_path):
    folder, _, _ = calibrated
    run = restored.restore(folder)
    films = sets.load(run.config.dataset.to_dict())
    film = films.source[int(films.splits["test"][0])]["image"]
    probs = next(predictions(folder))[0]
    loaded = cxrjax.load(folder)
    assert loaded.answers.calibrated
    found = np.array([v[0] for v in loaded.predict(film[..., 0]).values()])
    np.testing.assert_allclose(found, probs, rtol=1e-4)
    Image.fromarray(film[..., 0]).save(tmp_path / "film.png")
    page = explain.explain(str(folder), str(tmp_path / "film.png"), output=str(tmp_path / "x"),
                           max_films=1)[0]
    (shown,) = page["probabilities"].values()
    np.testing.assert_allclose(shown, probs, rtol=1e-3)


def test_labels_that_cannot_be_fitted_are_left_and_said(calibrated):
    folder = calibrated[0]
    found = answers.read_answers(folder, restored.restore(folder))
    assert found.kept("create") == [("Right", "the logits run against the label")]
    page = (folder / "evaluation" / "test" / "report.md").read_text()
    assert "Left as they are: Right (the logits run against the label)." in page
    y = np.stack([np.arange(24) < 12, np.arange(24) < 3, np.arange(24) < 21], 1).astype(float)
    z = np.random.default_rng(0).normal(size=(24, 3)) + y
    made = calibration.fit_map(y, z, "multilabel", "platt", calibrate.LEAST)
    assert made["why"] == ["", "3 positives, 10 are needed", "3 negatives, 10 are needed"]
    assert made["kept"] == [False, True, True] and made["slope"][1:] == [1, 1]
    # Right on every film: the smaller the temperature, the likelier they are.
    sure = calibration.fit_map(np.eye(2), 9 * np.eye(2), "multiclass", "temperature")
    assert sure["kept"] == [True, True] and "no finite temperature" in sure["why"][0]


def test_one_temperature_of_one_of_n_moves_no_answer():
    rng = np.random.default_rng(0)
    z = (3 * rng.normal(size=(300, 4))).astype(np.float32)
    y = np.eye(4, dtype=np.float32)[(z / 3 + rng.gumbel(size=z.shape)).argmax(1)]
    own = answers.Answers(tuple("abcd"), "multiclass", {
        "net": calibration.fit_map(y, z, "multiclass", "temperature")}, "a temperature")
    a, b = (judge.judge_network(y, z, None, None, tuple("abcd"), "multiclass", resamples=20,
                                answers=answers.choose(x, "f1", y, {"net": z}), network="net")
            for x in (answers.Answers(tuple("abcd"), "multiclass"), own))
    assert a["confusion"] == b["confusion"]
    for title in ("accuracy", "macro F1", "macro AUROC", "macro AP"):
        assert a["macro"][title] == b["macro"][title]
    assert b["before calibration"]["answers"]["ECE"] == a["figures"]["answers"]["ECE"]
    assert b["macro"]["ECE"] < a["macro"]["ECE"] and b["macro"]["Brier"] < a["macro"]["Brier"]
    np.testing.assert_array_equal(ranking.probabilities(z, "multiclass").argmax(1),
                                  own.probabilities("net", z).argmax(1))


def test_a_map_of_other_weights_is_not_used_and_the_report_says_so(calibrated):
    folder = calibrated[0]
    kept = json.loads((folder / "calibration.json").read_text())
    (folder / "calibration.json").write_text(json.dumps({**kept, "weights": "00000000"}))
    try:
        result = evaluate.evaluate(folder)
        assert "before calibration" not in result["networks"]["create"]
        page = (folder / "evaluation" / "test" / "report.md").read_text()
        assert "calibration.json is not used: it was made for other weights" in page
    finally:
        (folder / "calibration.json").write_text(json.dumps(kept))


def test_it_needs_validation_films(tmp_path):
    with pytest.raises(UserError, match="unknown way"):
        calibrate.main(str(tmp_path), operating_point="best")
