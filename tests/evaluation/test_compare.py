"""Comparing evaluated runs: the figures, paired intervals against a slow reference, refusals."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk
from statsmodels.stats.multitest import multipletests

from cxrjax.errors import UserError
from cxrjax.evaluation import compare, differences, report
from cxrjax.evaluation import judge as judging
from cxrjax.evaluation import masks as mask_report
from cxrjax.metrics import bootstrap, ranking

LABELS = ("A", "B", "C")
FILMS = 60
rng = np.random.default_rng(3)
TRUTH = np.eye(3)[rng.integers(0, 3, FILMS)]
GROUPS = np.arange(FILMS) // 2
PERFECT = 8.0 * TRUTH - 4.0


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A comparison reads figures and predictions, none of an evaluation's pictures."""
    monkeypatch.setattr(report, "_draw", lambda *_: None)
    monkeypatch.setattr(report.pdf, "write", lambda *_: "")


def noisy(seed, amount=3.0):
    return (2 * TRUTH + np.random.default_rng(seed).normal(0, amount, TRUTH.shape)).astype(
        np.float32
    )


def evaluated(
    folder, logits, *, seed=0, ids=None, labels=TRUTH, task="multiclass", split="grouped",
    dice=None, masks="database", networks=("net",), order=None, **config,
):
    """An evaluation as `evaluate` writes it, of predictions made by hand."""
    ids = [f"film{i:03d}" for i in range(len(labels))] if ids is None else ids
    order = np.arange(len(labels)) if order is None else order
    ids, labels, groups = [ids[i] for i in order], labels[order], GROUPS[order]
    logits = {n: np.asarray(logits, np.float32)[order] for n in networks}
    judged = {
        n: judging.judge_network(labels, z, labels, z, LABELS, task, groups, 50)
        for n, z in logits.items()
    }
    out = folder / "evaluation" / "test"
    out.mkdir(parents=True)
    if dice is not None:
        scores = {k: dice[order] for k in ("dice", "iou", "hd95")}
        for n in networks:
            judged[n]["macro"]["Dice"] = float(np.nanmean(dice))
        mask_report.write_scores(out / "masks.csv", ids, ("lungs",), {n: scores for n in networks})
    report.write(out, {
        "run": {"workdir": str(folder), "checkpoint": "best", "step": 1, "epoch": 1.0,
                "trained_with": {}, "seed": seed, "image_size": 16, "init_from": "",
                "config": {"seed": seed, "threads": 2, **config,
                           "dataset": {"name": "covid_radiography", "masks": masks,
                                       "data_dir": str(folder)}}},
        "labels": list(LABELS), "task": task, "split": "test", "split_name": split,
        "protocol": f"toys, {split}", "films": len(ids), "structures": ["lungs"],
        "intervals": "bootstrap over groups, 1,000 resamples", "networks": judged,
    }, ids, labels, logits, (), {"group": groups})
    return folder


def test_figures_and_differences_by_hand(tmp_path):
    wrong = PERFECT.copy()
    wrong[:12] = -wrong[:12]  # twelve films of sixty certainly wrong
    runs = [evaluated(tmp_path / "good", PERFECT, model="x"),
            evaluated(tmp_path / "poor", wrong, model="y")]
    result = compare.compare(runs, "test", tmp_path / "out", resamples=200)
    good, poor = result["entries"]["good"], result["entries"]["poor"]
    assert good["figures"]["accuracy"]["mean"] == 1 and poor["figures"]["accuracy"]["mean"] == 0.8
    assert poor["difference to the best"]["accuracy"]["value"] == pytest.approx(-0.2)
    assert poor["difference to the best"]["accuracy"]["high"] < 0
    assert good["difference to the best"]["accuracy"] == {"best": "good", "value": 0, "low": 0,
                                                          "high": 0, "p": None, "p Holm": None}
    assert result["configs differ in"] == {"model": ["x", "y"]}
    assert good["difference to the baseline"] == {}
    result = compare.compare(runs, "test", tmp_path / "to", resamples=200, baseline="poor")
    gain = result["entries"]["good"]["difference to the baseline"]["accuracy"]
    assert gain["baseline"] == "poor" and gain["value"] == pytest.approx(0.2) and gain["low"] > 0
    assert "## Differences to poor" in (tmp_path / "to" / "comparison.md").read_text()
    with pytest.raises(UserError, match="did you mean 'poor'"):
        compare.compare(runs, "test", tmp_path / "to", baseline="pore")
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "| good | 0 | **1.0000** |" in page and "| poor | 0 | 0.8000 |" in page
    assert "report A, ResNet-UNet" in page  # reported figures, apart: theirs is another split
    for picture in ("roc.png", "confusion.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 10_000


def test_intervals_are_those_of_a_slow_paired_bootstrap(tmp_path):
    a, b = noisy(1, 1.0), noisy(2, 1.5)
    dice_a, dice_b = rng.uniform(0.5, 1, (2, FILMS, 1))
    dice_a[::3], dice_b[::3] = np.nan, np.nan
    runs = [evaluated(tmp_path / "a", a, dice=dice_a, model="a"),
            evaluated(tmp_path / "b", b, dice=dice_b, model="b")]
    result = compare.compare(runs, "test", tmp_path / "out", resamples=300)
    counts = bootstrap.resample(FILMS, 300, seed=0, cluster=GROUPS.astype(str))

    def slow(logits, dice):
        scores = ranking.probabilities(logits, "multiclass")

        def judge(films):
            truth, answer = TRUTH[films].argmax(1), scores[films].argmax(1)
            return [
                sk.accuracy_score(truth, answer),
                sk.precision_score(truth, answer, average="macro", zero_division=0),
                sk.recall_score(truth, answer, average="macro"),
                sk.f1_score(truth, answer, average="macro"),
                sk.roc_auc_score(TRUTH[films], scores[films]),
                np.nanmean(dice[films]),
            ]

        everyone = np.arange(FILMS)
        return np.array([judge(np.repeat(everyone, c.astype(int))) for c in counts.T])

    difference = {"a": slow(a, dice_a), "b": slow(b, dice_b)}
    figures = ("accuracy", "macro precision", "macro recall", "macro F1", "macro AUROC", "Dice")
    for k, figure in enumerate(figures):
        for name in ("a", "b"):
            own = result["entries"][name]["difference to the best"][figure]
            low, high = np.percentile(
                difference[name][:, k] - difference[own["best"]][:, k], [2.5, 97.5]
            )
            if figure == "macro AUROC":  # a closed form, see tests/metrics/test_intervals.py
                assert own["high"] - own["low"] == pytest.approx(high - low, rel=0.3, abs=1e-12)
                assert own["low"] < own["value"] < own["high"] or name == own["best"]
            else:
                np.testing.assert_allclose([own["low"], own["high"]], [low, high], atol=1e-9)
            mean = {n: result["entries"][n]["figures"][figure]["mean"] for n in ("a", "b")}
            assert own["value"] == mean[name] - max(mean.values())


def test_runs_that_differ_in_the_seed_are_one_experiment(tmp_path):
    # The first of them was evaluated when a field had another name.
    runs = [evaluated(tmp_path / f"resunet_s{s}", noisy(s), seed=s, model="resunet", threads=s,
                      **{"reading_processes" if s else "workers": 0})
            for s in range(3)]
    runs.append(evaluated(tmp_path / "other", noisy(9), model="resnet18"))
    result = compare.compare(runs, "test", tmp_path / "out", resamples=50)
    assert list(result["entries"]) == ["resunet", "other"]
    entry = result["entries"]["resunet"]
    assert entry["seeds"] == [0, 1, 2]
    accuracy = [np.mean(noisy(s).argmax(1) == TRUTH.argmax(1)) for s in range(3)]
    np.testing.assert_allclose(entry["figures"]["accuracy"]["values"], accuracy)
    np.testing.assert_allclose(entry["figures"]["accuracy"]["mean"], np.mean(accuracy))
    np.testing.assert_allclose(entry["figures"]["accuracy"]["sd"], np.std(accuracy, ddof=1))
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert f"{np.mean(accuracy):.4f} ± {np.std(accuracy, ddof=1):.4f}" in page
    areas = [sk.roc_auc_score(TRUTH[:, 1], ranking.probabilities(noisy(s), "multiclass")[:, 1])
             for s in range(3)]
    assert f"| B | {np.mean(areas):.4f} ± {np.std(areas, ddof=1):.4f} |" in page
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert saved["entries"]["other"]["figures"]["accuracy"]["sd"] is None


def test_a_run_of_before_a_field_is_a_seed_of_the_same_experiment(tmp_path):
    """What it was saved without counts as what it did: in the run's own fields, a network's too."""
    before = {"normalize": {"mean": 0.4}, "optimizer": {"name": "adamw"},
              "networks": {"a": {"optimizer": {"name": "sgd"}}}}
    today = {"normalize": {"mean": 0.4, "source": ""}, "recalibrate": False,
             "optimizer": {"name": "adamw", "layer_decay": 0.0, "freeze": ""},
             "networks": {"a": {"optimizer": {"name": "sgd", "layer_decay": 0.0, "freeze": ""}}}}
    other = {**today, "optimizer": {**today["optimizer"], "layer_decay": 0.5}}
    runs = [evaluated(tmp_path / f"net_s{seed}", noisy(seed), seed=seed, **config)
            for seed, config in enumerate((before, today))]
    runs.append(evaluated(tmp_path / "decay", noisy(2), **other))
    result = compare.compare(runs, "test", tmp_path / "out", resamples=20)
    assert {name: e["seeds"] for name, e in result["entries"].items()} == {
        "net": [0, 1], "decay": [0]}
    assert result["configs differ in"] == {"optimizer.layer_decay": [0.0, 0.5]}


def test_the_order_of_the_films_does_not_matter(tmp_path):
    logits = noisy(4)
    runs = [evaluated(tmp_path / "a", logits, model="a"),
            evaluated(tmp_path / "b", logits, model="b",
                      order=np.random.default_rng(0).permutation(FILMS))]
    result = compare.compare(runs, "test", tmp_path / "out", resamples=50)
    for name in ("a", "b"):
        own = result["entries"][name]["difference to the best"]["macro AUROC"]
        assert abs(own["low"]) < 1e-12 and abs(own["high"]) < 1e-12


def test_every_network_of_a_run_counts_and_labels_may_be_unknown(tmp_path):
    labels = (np.random.default_rng(1).random((FILMS, 3)) < 0.4).astype(float)
    labels[::7, 1] = np.nan
    runs = [evaluated(tmp_path / "pair", noisy(1), labels=labels, task="multilabel",
                      networks=("big", "small", "ensemble"), model="a"),
            evaluated(tmp_path / "alone", noisy(2), labels=labels, task="multilabel", model="b")]
    result = compare.compare(runs, "test", tmp_path / "out", resamples=50)
    assert list(result["entries"]) == ["pair: big", "pair: small", "pair: ensemble", "alone"]
    assert list(result["entries"]["alone"]["figures"]) == ["macro AUROC", "macro AP"]
    assert not (tmp_path / "out" / "confusion.png").exists()


def test_a_network_without_decoder_has_no_dice(tmp_path):
    dice = np.full((FILMS, 1), 0.9)
    runs = [evaluated(tmp_path / "with", noisy(1), dice=dice, model="a"),
            evaluated(tmp_path / "without", noisy(2), model="b")]
    result = compare.compare(runs, "test", tmp_path / "out", resamples=50)
    assert result["entries"]["with"]["figures"]["Dice"]["mean"] == pytest.approx(0.9)
    assert "Dice" not in result["entries"]["without"]["figures"]
    row = [line for line in (tmp_path / "out" / "comparison.md").read_text().splitlines()
           if line.startswith("| without |")]
    assert all(line.endswith("| - |") for line in row[:2])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"ids": [f"other{i}" for i in range(FILMS)]}, "different films, 120 are in one only"),
        ({"split": "random"}, "the split differs ('random', not 'grouped')"),
        ({"masks": "v7labs"}, "the masks differ ('v7labs', not 'database')"),
        ({"labels": np.roll(TRUTH, 1, axis=0)}, "carry other labels"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, changes, words):
    runs = [evaluated(tmp_path / "a", noisy(1)), evaluated(tmp_path / "b", noisy(2), **changes)]
    with pytest.raises(UserError) as caught:
        compare.compare(runs, "test", tmp_path / "out")
    assert words in str(caught.value) and not (tmp_path / "out").exists()


def test_a_repeated_seed_is_not_a_second_seed(tmp_path):
    runs = [evaluated(tmp_path / name, noisy(1 + seed), seed=seed)
            for name, seed in (("focal_loss_0", 0), ("focal_loss_1", 1), ("copy", 0))]
    result = compare.compare(runs, "test", tmp_path / "out", resamples=20)
    assert {n: e["seeds"] for n, e in result["entries"].items()} == {
        "focal_loss": [0, 1], "copy": [0]
    }


def test_checkpoints_are_told_apart(tmp_path):
    runs = [evaluated(tmp_path / "a", noisy(1)), evaluated(tmp_path / "b", noisy(2), seed=1)]
    path = runs[1] / "evaluation" / "test" / "report.json"
    path.write_text(path.read_text().replace('"checkpoint": "best"', '"checkpoint": "latest"'))
    result = compare.compare(runs, "test", tmp_path / "out", resamples=20)
    assert list(result["entries"]) == ["a", "b"]
    assert result["configs differ in"]["checkpoint"] == ["best", "latest"]


@pytest.mark.parametrize("file", ["report.json", "predictions.csv"])
def test_a_damaged_evaluation_is_named(tmp_path, file):
    runs = [evaluated(tmp_path / "a", noisy(1)), evaluated(tmp_path / "b", noisy(2), seed=1)]
    path = runs[1] / "evaluation" / "test" / file
    path.write_text(path.read_text()[:700])
    with pytest.raises(UserError, match="damaged.*evaluate --workdir=.*b --split=test again"):
        compare.compare(runs, "test", tmp_path / "out")


def test_which_runs_are_meant(tmp_path):
    for name in ("s0", "s1"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "summary").mkdir()  # no run
    assert compare.find_workdirs(f"{tmp_path}/s*") == [tmp_path / "s0", tmp_path / "s1"]
    for text, words in ((None, "two runs or more"), (f"{tmp_path}/s0", "two runs or more"),
                        (f"{tmp_path}/s0,{tmp_path}/s*", "twice"),
                        (f"{tmp_path}/x*", "no run matches")):
        with pytest.raises(UserError, match=words):
            compare.find_workdirs(text)
    with pytest.raises(UserError, match="--mode=evaluate --workdir=.*s0 --split=test"):
        compare.main(f"{tmp_path}/s0,{tmp_path}/s1")


def test_p_values_are_corrected_for_all_differences_of_a_table(tmp_path):
    runs = [evaluated(tmp_path / n, noisy(i, 1.0 + i), model=n) for i, n in enumerate("abc")]
    entries = compare.compare(runs, "test", tmp_path / "out", resamples=200)["entries"]
    own = [d for e in entries.values() for d in e["difference to the best"].values()]
    raw = [d["p"] for d in own if d["p"] is not None]
    assert len(own) - len(raw) == 5  # the best of each figure has no difference to itself
    want = multipletests(raw, method="holm")[1]
    assert [d["p Holm"] for d in own if d["p"] is not None] == pytest.approx(want)
    assert "Holm" in (tmp_path / "out" / "comparison.md").read_text()


def test_ten_seeds_of_five_configs_are_five_rows(tmp_path):
    runs = [evaluated(tmp_path / f"m{model}_s{seed}", noisy(10 * model + seed, 1.0 + model / 2),
                      seed=seed, model=f"m{model}")
            for model in range(5) for seed in range(10)]
    result = compare.compare(runs, "test", tmp_path / "out", resamples=40)
    assert [len(e["seeds"]) for e in result["entries"].values()] == [10] * 5
    page = (tmp_path / "out" / "comparison.md").read_text()
    first = page.split("\n## ")[0].splitlines()
    assert sum(line.startswith("| m") for line in first) == 5
    assert max(map(len, first)) < 200 and "| m0 | 0-9 |" in page
    own = result["entries"]["m1"]["figures"]["accuracy"]
    assert own["least"] == min(own["values"]) and own["most"] == max(own["values"])
    read = [network for run in runs[10:20] for network in compare.read_networks(run, "test")]
    counts = bootstrap.resample(FILMS, 40, seed=0, cluster=GROUPS.astype(str))
    films = bootstrap.interval(compare.sample(compare.Entry("m1", tuple(read)), counts)["accuracy"])
    assert own["low"] < films[0] and own["high"] > films[1]  # seeds make it wider


def test_networks_of_one_run_are_compared_pair_by_pair():
    a, b = noisy(1, 1.0), noisy(2, 3.0)
    rows = differences.between(TRUTH, {"a": a, "b": b, "c": a}, LABELS, "multiclass", GROUPS)
    assert len(rows) == 3 * 4
    found = {(r["a"], r["b"], r["of"]): r for r in rows}
    same = found["a", "c", "mean over the findings"]
    assert (same["value"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    own = found["a", "b", "mean over the findings"]
    ranks = [ranking.log_odds(z, "multiclass") for z in (a, b)]
    assert own["value"] == pytest.approx(
        sk.roc_auc_score(TRUTH, ranks[0]) - sk.roc_auc_score(TRUTH, ranks[1]))
    assert own["p"] < own["p Holm"] and own["low"] > 0
    want = multipletests([r["p"] for r in rows], method="holm")[1]
    assert [r["p Holm"] for r in rows] == pytest.approx(want)
    assert "| a - b | mean over the findings | +" in "\n".join(differences.lines(rows))
    assert differences.between(TRUTH, {"a": a}, LABELS, "multiclass") == []
