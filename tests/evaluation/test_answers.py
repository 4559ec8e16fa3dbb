"""What a run answers with: read back as written, moved together, refused or said."""

import json

import numpy as np
import pytest
from scipy.special import expit

from cxrjax.errors import UserError
from cxrjax.evaluation import answers
from cxrjax.metrics import calibration, ranking
from cxrjax.training import restored

LABELS = ("a", "b", "c")
TASKS = {"multilabel": "platt", "multiclass": "temperature"}


def run(task="multilabel", step=3, weight=1.0, labels=LABELS, tta=False):
    """What of a run is asked for: its labels, and weights to take a hash of."""
    from cxrjax.training import steps

    state = steps.EvalState(params={"w": np.full(2, weight, np.float32)}, batch_stats={})
    return restored.Run({}, {"labels": list(labels), "task": task}, {"net": state}, step, None,
                        tta=tta)


def films(task="multilabel", n=400, k=3, seed=0):
    rng = np.random.default_rng(seed)
    z = (3 * rng.normal(size=(n, k))).astype(np.float32)
    if task == "multiclass":
        return np.eye(k, dtype=np.float32)[(z + rng.gumbel(size=z.shape) * 3).argmax(1)], z
    return (rng.random((n, k)) < expit(z / 2 - 1)).astype(np.float32), z


def write(folder, task="multilabel", calibrated=True, rule="f1", k=3):
    """The files as evaluate and calibrate write them; (run, labels, logits of validation)."""
    own, (y, z) = run(task, labels=LABELS[:k]), films(task, k=k)
    facts = answers.facts_of(own, "best")
    chosen = answers.choose(answers.Answers(LABELS[:k], task), rule, y, {"net": z})
    answers.write_thresholds(folder, facts, chosen)
    if calibrated:
        made = calibration.fit_map(y, z, task, TASKS[task])
        (folder / "calibration.json").write_text(json.dumps(
            {**facts, "networks": {"net": made}, "fitted_on": {"words": "400 films"}}))
    return own, y, z


def test_a_decision_does_not_change_by_calibration(tmp_path):
    own, _, z = write(tmp_path)
    found = answers.read_answers(tmp_path, own)
    assert found.calibrated and not found.said and found.fitted == "400 films"
    kept = json.loads((tmp_path / "thresholds.json").read_text())["networks"]["net"]
    (tmp_path / "calibration.json").unlink()
    plain = answers.read_answers(tmp_path, own)
    assert plain.thresholds("net") == kept and not plain.calibrated
    assert plain.rule_in_words == "the highest F1 on validation"
    new = films(seed=1)[1]
    for logits in (z, new):  # the film of the threshold is among the first
        before, after = plain.probabilities("net", logits), found.probabilities("net", logits)
        assert np.abs(before - after).max() > 0.1
        a, b = (np.array(list(x.thresholds("net").values())) for x in (plain, found))
        np.testing.assert_array_equal(before >= a, after >= b)
        assert (before >= a).any() and not (before >= a).all()


def test_of_one_of_two_the_threshold_moves_and_of_three_there_is_none(tmp_path):
    own, _, z = write(tmp_path, "multiclass", k=2)
    found = answers.read_answers(tmp_path, own)
    (tmp_path / "calibration.json").unlink()
    plain = answers.read_answers(tmp_path, own)
    a, b = (np.array(list(x.thresholds("net").values())) for x in (plain, found))
    before, after = plain.probabilities("net", z), found.probabilities("net", z)
    assert np.abs(before - after).max() > 0.1
    np.testing.assert_array_equal(before >= a, after >= b)
    own, _, z = write(tmp_path, "multiclass")
    assert answers.read_answers(tmp_path, own).thresholds("net") is None


@pytest.mark.parametrize("task", TASKS)
def test_json_gives_the_same_answers(tmp_path, task):
    own, _, z = write(tmp_path, task)
    found = answers.read_answers(tmp_path, own)
    facts = json.loads(json.dumps(found.as_json()))
    again = answers.Answers.from_json(facts, "manifest.json")
    np.testing.assert_array_equal(again.probabilities("net", z), found.probabilities("net", z))
    assert again.thresholds("net") == found.thresholds("net") and again.rule == found.rule
    # What the manifest says is what is computed, by slope and intercept alone.
    m = facts["calibration"]["networks"]["net"]
    own = ranking.probabilities(np.float64(z) * m["slope"] + m["intercept"], task)
    np.testing.assert_array_equal(own, found.probabilities("net", z))
    facts["calibration"]["networks"]["net"]["slope"][0] = -1.0
    with pytest.raises(UserError, match="^manifest.json: not the answers of a run.*above 0"):
        answers.Answers.from_json(facts, "manifest.json")


def test_what_is_of_another_checkpoint_is_said_and_not_used(tmp_path):
    write(tmp_path)
    for other, why in (
        (run(weight=2.0), "other weights"), (run(tta=True), "without --tta"),
        (run(labels=("a", "b", "x")), "other labels"),
    ):
        found = answers.read_answers(tmp_path, other)
        assert not found.calibrated and found.thresholds("net") is None
        assert len(found.said) == 2 and all(why in text for text in found.said)
    # Equal weights are the same checkpoint, by whatever name and step.
    assert answers.read_answers(tmp_path, run(step=9)).calibrated


def test_files_of_before_and_damaged_ones(tmp_path):
    (tmp_path / "thresholds.json").write_text(json.dumps({
        "rule": "youden", "checkpoint": "best", "step": 3, "tta": False,
        "networks": {"net": {"a": 0.3, "b": None, "c": 0.9}}}))
    found = answers.read_answers(tmp_path, run())
    assert found.thresholds("net") == {"a": 0.3, "b": None, "c": 0.9}
    assert answers.read_answers(tmp_path, run(step=4)).thresholds("net") is None
    for text in ("{", "[]", '{"step": 3, "tta": false, "rule": "f1", "networks": {"net": {}}}',
                 '{"step": 3, "tta": false, "rule": "best", "networks": {}}'):
        (tmp_path / "thresholds.json").write_text(text)
        with pytest.raises(UserError, match="thresholds.json is damaged.*--mode=evaluate"):
            answers.read_answers(tmp_path, run())
    (tmp_path / "thresholds.json").unlink()
    (tmp_path / "calibration.json").write_text(json.dumps({
        "step": 3, "tta": False, "fitted_on": {"words": ""}, "networks": {"net": {
            "how": "platt", "slope": [1, 1, "x"], "intercept": [0, 0, 0], "kept": [0, 0, 0]}}}))
    with pytest.raises(UserError, match="calibration.json is damaged.*--mode=calibrate"):
        answers.read_answers(tmp_path, run())
