"""The table of a prediction: broken off anywhere and gone on with, decisions, ensembles."""

import csv
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from PIL import Image
from scipy.special import expit

from cxrjax.errors import UserError
from cxrjax.evaluation import answers
from cxrjax.serving import answer_table, predict, sources
from cxrjax.serving.answer_table import Layout, Row, Table
from tests import small_run

LABELS = ("A", "B, c")
POINTS = {"x": np.array([0.25, np.nan]), "y": np.array([0.5, 0.5])}
LAYOUTS = {
    "wide": Layout("csv", LABELS, 2, decisions=True),
    "long": Layout("csv", LABELS, 2, long=True, spread=True, decisions=True, thresholds=POINTS),
    "lines": Layout("jsonl", LABELS, 2, spread=True, decisions=True),
}
FILMS = ["one.png", 'two "2",\n.png', os.fsdecode(b"R\xf6ntgen.png")]


def film_rows(name):
    if name == FILMS[1]:
        return [Row(name, network, error="a text file, no film") for network in "xy"]
    return [Row(name, "x", np.array([0.25, 1.0]), np.array([0.5, 0.0]), np.array([1.0, np.nan]),
                ("odd; very", "small")),
            Row(name, "y", np.array([0.1, 0.9]), np.array([0.0, 0.0]), np.array([0.0, 1.0]))]


def whole(target, layout, films=FILMS, **how):
    with Table(target, layout, {"who": 1}, **how) as table:
        for name in films:
            if name not in table.done.files:
                table.write(film_rows(name))
        table.finish()
    return target.read_bytes()


def test_the_rows_by_hand(tmp_path):
    table = whole(tmp_path / "t.csv", LAYOUTS["wide"]).decode("utf-8", "surrogateescape")
    rows = list(csv.reader(table.splitlines(keepends=True)))
    assert rows[0] == ["file", "network", *LABELS, "A decision", "B, c decision", "warnings",
                       "error"]
    assert rows[1] == ["one.png", "x", "0.250000", "1.000000", "1", "", "odd; very; small", ""]
    assert rows[3] == [FILMS[1], "x", "", "", "", "", "", "a text file, no film"]
    table = whole(tmp_path / "l.csv", LAYOUTS["long"]).decode("utf-8", "surrogateescape")
    rows = list(csv.reader(table.splitlines(keepends=True)))
    assert rows[0][2:-2] == ["label", "probability", "spread", "threshold", "decision"]
    assert rows[1][1:-2] == ["x", "A", "0.250000", "0.500000", "0.250000", "1"]
    assert rows[2][1:-2] == ["x", "B, c", "1.000000", "0.000000", "", ""]
    lines = [json.loads(line) for line in whole(tmp_path / "t.jsonl", LAYOUTS["lines"]).split(b"\n")
             if line]
    assert lines[0] == {
        "file": "one.png", "network": "x", "probabilities": {"A": 0.25, "B, c": 1.0},
        "spread": {"A": 0.5, "B, c": 0.0}, "decisions": {"A": True, "B, c": None},
        "warnings": ["odd; very", "small"], "error": None,
    }
    assert lines[2]["probabilities"] is None and lines[2]["error"] == "a text file, no film"
    assert lines[4]["file"] == FILMS[2]


@pytest.mark.parametrize("name", LAYOUTS)
def test_broken_off_at_any_byte_it_becomes_the_same_table(tmp_path, name):
    layout = LAYOUTS[name]
    target = tmp_path / ("t.jsonl" if layout.kind == "jsonl" else "t.csv")
    right = whole(target, layout)
    about = (tmp_path / f"{target.name}.about.json").read_text()
    partial = tmp_path / f"{target.name}.partial"
    assert sorted(p.name for p in tmp_path.iterdir()) == [target.name, f"{target.name}.about.json"]
    texts = ["".join(map(layout.text, film_rows(film))) for film in FILMS]
    rows = [text.encode("utf-8", "surrogateescape") for text in texts]
    for end in range(len(right) + 1):
        partial.write_bytes(right[:end])
        done = answer_table.read_done(partial, layout)
        left = [row for film, row in zip(FILMS, rows) if film not in done.files]
        head = b"" if done.end else layout.head().encode()
        assert right[: done.end] + head + b"".join(left) == right, end
    for end in range(0, len(right) + 1, 47):
        target.unlink()
        partial.write_bytes(right[:end])
        pathlib.Path(f"{partial}.about.json").write_text(about)
        assert whole(target, layout, resume=True) == right, end
    assert not partial.exists()


def test_what_is_there_is_neither_lost_nor_mixed(tmp_path):
    layout, target = LAYOUTS["wide"], tmp_path / "t.csv"
    right = whole(target, layout, FILMS[:2])
    with pytest.raises(UserError, match="t.csv is there already: --overwrite"):
        whole(target, layout)
    # One that was whole takes the films that it lacks.
    assert whole(target, layout, resume=True).startswith(right)
    for about, words in (({"who": 2}, "begun with another who"), ({"who": [1]}, "another who")):
        with pytest.raises(UserError, match=words):
            Table(target, layout, about, resume=True)
    with pytest.raises(UserError, match="its columns are not"):
        Table(target, dataclasses.replace(layout, decisions=False), {"who": 1}, resume=True)
    # A new one takes the place of an old one when it is whole, not before.
    with Table(target, layout, {"who": 2}, overwrite=True) as table:
        table.write(film_rows(FILMS[0]))
        assert target.read_bytes().startswith(right)
        with pytest.raises(UserError, match="being written by another"):
            Table(target, layout, {"who": 2}, resume=True)
    with pytest.raises(UserError, match="half-done table: --resume"):
        whole(target, layout)
    with pytest.raises(UserError, match="another who"):
        whole(target, layout, resume=True)
    assert whole(target, layout, overwrite=True) == whole(tmp_path / "new.csv", layout)
    (tmp_path / "t.csv.about.json").unlink()
    with pytest.raises(UserError, match="about.json is missing or damaged"):
        whole(target, layout, resume=True)
    double = tmp_path / "double.csv"
    whole(double, layout)
    double.write_bytes(double.read_bytes() + right[len(layout.head()):])
    with pytest.raises(UserError, match="are not those of this prediction"):
        whole(double, layout, resume=True)


# --- what answers -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    return {"a": small_run.make(), "b": small_run.make(seed=1)}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for i in range(21):
        film = np.random.default_rng(i).integers(0, 200, (40, 36), dtype=np.uint8)
        Image.fromarray(film).save(folder / f"{i:02d}.png")
    for name in ("03.png", "08.png"):
        (folder / name).write_text("no film")
    return folder


def workdir(folder, run, threshold=None, slope=None):
    """A folder with what decides the run's answers: thresholds, a map of the logits."""
    folder.mkdir()
    labels, facts = run.meta["labels"], answers.facts_of(run, "best")
    if threshold is not None:
        own = {label: threshold for label in labels} | {labels[-1]: None}
        (folder / "thresholds.json").write_text(json.dumps(
            {**facts, "rule": "youden", "networks": {"create": own}}))
    if slope is not None:
        k = len(labels)
        (folder / "calibration.json").write_text(json.dumps(
            {**facts, "fitted_on": {"words": "films"}, "networks": {"create": {
                "how": "platt", "slope": [slope] * k, "intercept": [0.1] * k,
                "kept": [False] * k}}}))
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_decisions_are_those_of_the_stored_points_on_calibrated_answers(
    runs, films, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: runs["a"])
    labels = runs["a"].meta["labels"]
    said = {}
    for name, how in (("plain", {"threshold": 0.5}), ("map", {"threshold": 0.5, "slope": 3.0})):
        folder = workdir(tmp_path / name, runs["a"], **how)
        assert predict.main(str(folder), str(films)) == 1
        said[name] = rows_of(folder / "predictions.csv"), capsys.readouterr().out
    assert "not calibrated" in said["plain"][1] and "are calibrated" in said["map"][1]
    assert "sensitivity + specificity - 1 on validation" in said["map"][1]
    for one, other in zip(said["plain"][0], said["map"][0]):
        if one["error"]:
            assert one["error"] == other["error"] and one["Mass"] == one["Mass decision"] == ""
            continue
        for label in labels[:-1]:
            p = float(one[label])
            moved = expit(3 * np.log(p / (1 - p)) + 0.1)
            assert float(other[label]) == pytest.approx(moved, abs=1e-5)
            # The threshold moves with the probabilities: the same films are called.
            assert one[f"{label} decision"] == other[f"{label} decision"] == str(int(p >= 0.5))
        assert one[f"{labels[-1]} decision"] == ""
    about = json.loads((tmp_path / "map" / "predictions.csv.about.json").read_text())
    assert about["calibrated"] == "yes" and about["thresholds"]["create"][labels[-1]] is None


def test_a_prediction_that_stopped_goes_on_to_the_same_table(
    runs, films, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sources, "restore", lambda workdir, which, tta: runs["a"])
    right, broken = tmp_path / "right.csv", tmp_path / "broken.csv"
    assert predict.main("none", str(films), output=str(right)) == 1
    original = predict.predict_films

    def stops(*args):
        for number, film in enumerate(original(*args)):
            if number == 13:
                raise KeyboardInterrupt
            yield film

    monkeypatch.setattr(predict, "predict_films", stops)
    monkeypatch.setattr(predict, "CHUNK", 1)
    with pytest.raises(KeyboardInterrupt):
        predict.main("none", str(films), output=str(broken))
    monkeypatch.setattr(predict, "predict_films", original)
    with pytest.raises(UserError, match="half-done"):
        predict.main("none", str(films), output=str(broken))
    capsys.readouterr()
    assert predict.main("none", str(films), output=str(broken), resume=True) == 1
    told = capsys.readouterr()
    assert "13 of 21 films have their rows already" in told.out
    assert "2 of 21 files could not be read" in told.err and "03.png" in told.err
    assert broken.read_bytes() == right.read_bytes()
    # Where nothing is left to do it stays.
    assert predict.main("none", str(films), output=str(broken), resume=True) == 1
    assert broken.read_bytes() == right.read_bytes()
    with pytest.raises(UserError, match="begun with another images"):
        predict.main("none", str(films / "*.png"), output=str(broken), resume=True)


def test_an_ensemble_answers_with_the_mean_and_its_spread(runs, films, tmp_path, monkeypatch):
    # Of films of two sizes: each member sees them as it was trained.
    config = FrozenConfigDict({**runs["b"].config.to_dict(), "image_shape": (24, 24, 1)})
    members = {"a": runs["a"], "b": dataclasses.replace(runs["b"], config=config)}
    for name, run in members.items():
        workdir(tmp_path / name, run, 0.4 if name == "a" else 0.6)
    monkeypatch.setattr(sources, "restore",
                        lambda workdir, which, tta: members[pathlib.Path(workdir).name])
    single = []
    for name in members:
        predict.main(str(tmp_path / name), str(films))
        single.append(rows_of(tmp_path / name / "predictions.csv"))
    out = tmp_path / "both.csv"
    both = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    assert predict.main(None, str(films), output=str(out), workdirs=both) == 1
    rows = rows_of(out)
    assert [row["network"] for row in rows] == ["ensemble"] * 21
    assert rows[3]["error"] and rows[3]["Mass"] == rows[3]["Mass spread"] == ""
    for row, one, two in zip(rows, *single):
        if not row["error"]:
            p = [float(one["Mass"]), float(two["Mass"])]
            assert float(row["Mass"]) == pytest.approx(np.mean(p), abs=2e-6)
            assert float(row["Mass spread"]) == pytest.approx(np.std(p, ddof=1), abs=2e-6)
            assert row["Mass decision"] == str(int(np.mean(p) >= 0.5))
    about = json.loads((tmp_path / "both.csv.about.json").read_text())
    assert about["decided by"].startswith("the mean of the members' thresholds")
    with pytest.raises(UserError, match="give --output"):
        predict.main(None, str(films), workdirs=both)
    with pytest.raises(UserError, match="give one of --workdir"):
        predict.main(None, str(films), output=str(out))
    members["b"] = dataclasses.replace(runs["b"], meta={**runs["b"].meta, "labels": ["Mass"]})
    with pytest.raises(UserError, match="are no ensemble: their labels differ"):
        predict.main(None, str(films), output=str(out), workdirs=both, overwrite=True)


def test_of_one_of_n_the_highest_class_is_the_decision():
    labels, task = ("A", "B", "C"), "multiclass"
    source = sources.Source(labels, task, ("n",), (), 1, 1, {}, sources.HIGHEST, "", False, {},
                            None, None)
    assert source.decides
    np.testing.assert_array_equal(
        source.decide("n", np.array([[0.2, 0.5, 0.3]])), [[0.0, 1.0, 0.0]])


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(tmp_path):
    """As a user meets it: 2,000 films by the command line, SIGKILL, --resume."""
    films, run = tmp_path / "films", tmp_path / "run"
    films.mkdir()
    for i in range(20):
        film = np.random.default_rng(i).integers(0, 200, (64, 64), dtype=np.uint8)
        Image.fromarray(film).save(tmp_path / f"{i}.png")
    for i in range(2000):
        os.link(tmp_path / f"{i % 20}.png", films / f"{i:05d}.png")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(*flags):
        return subprocess.Popen([sys.executable, "-m", "cxrjax", *flags], env=environment,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    train = start("--mode=train", "--config=phantom:resnet18,size=32", f"--workdir={run}",
                  "--config.dataset.num_train=64", "--config.dataset.num_val=32",
                  "--config.dataset.num_test=32", "--config.train_for=2 steps",
                  f"--config.dataset.data_dir={tmp_path / 'data'}")
    assert train.wait() == 0, train.stderr.read()
    common = ["--mode=predict", f"--workdir={run}", f"--images={films}"]
    whole_run = start(*common, f"--output={tmp_path / 'right.csv'}")
    assert whole_run.wait() == 0, whole_run.stderr.read()
    broken = start(*common, f"--output={tmp_path / 'broken.csv'}")
    partial = tmp_path / "broken.csv.partial"
    while not partial.exists() or partial.stat().st_size < 100_000:
        assert broken.poll() is None
        time.sleep(0.02)
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    begun = len(answer_table.read_done(partial, Layout(
        "csv", tuple(json.loads(pathlib.Path(f"{partial}.about.json").read_text())["labels"]),
        1)).files)
    assert 0 < begun < 2000
    resumed = start(*common, f"--output={tmp_path / 'broken.csv'}", "--resume")
    assert resumed.wait() == 0, resumed.stderr.read()
    assert (tmp_path / "broken.csv").read_bytes() == (tmp_path / "right.csv").read_bytes()
