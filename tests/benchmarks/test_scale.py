"""The films of `--what=scale` are a ChestX-ray14 in every way that its reader checks."""

import os
import sys

import numpy as np

from cxrjax.benchmarks import machine, scale, scale_films, scale_table
from cxrjax.data import sets
from cxrjax.data.sets import chestxray14


def test_made_films_are_a_chestxray14_of_that_many_names(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_films, "DRAWN", {64: 9})
    raw = scale_films.make(tmp_path / "raw", 600, 64)
    assert len(list((raw / "images").iterdir())) == 600
    assert len({os.stat(film).st_ino for film in (raw / "images").iterdir()}) == 9
    options = {"name": "chestxray14", **chestxray14.DEFAULTS, "raw_dir": str(raw),
               "data_dir": str(tmp_path / "data"), "image_size": 8, "split": "official"}
    sets.prepare(options)
    films = sets.load(options)
    of = {split: set(films.table["patient"][at]) for split, at in films.splits.items()}
    assert sum(len(at) for at in films.splits.values()) == 600
    assert not of["train"] & of["test"] and not of["train"] & of["val"]
    share = len(films.splits["test"]) / 600
    assert abs(share - scale_films.TEST) < 0.1
    assert np.nanmean(films.table["label"], 0)[3] > 0.1  # Infiltration, the most frequent
    kept = scale_films.make(tmp_path / "raw", 600, 64)  # again: nothing is drawn anew
    assert kept == raw


ROW = {"limit": None, "first": 0.12, "cpu": 3.0, "peak": 5e8, "others": 0.01}


def of_size(films, **seconds):
    return {"films": films, "size": 64, "cores": 2, "device": "two cores", "load": 0.5,
            "command": "--mode=benchmark", "date": "2026-01-02 03:04", "rows": [
                {**ROW, "what": what, "films": films, "rate": films / s, "seconds": s,
                 "cpu": 1.5 * s} for what, s in seconds.items()]}


def test_the_table_says_what_failed_and_what_was_disturbed():
    report = of_size(1000, prepare=2.0, evaluate=8.0)
    report["rows"][0] |= {"limit": 1000.0, "others": 0.5}
    report["rows"][1] |= {"networks": 3.0, "peak": 9e8}
    report["rows"].append({"what": "explain", "films": 10, "error": "no room"})
    page = scale_table.markdown([report])
    assert "| prepare * | 1,000 | 500 | 0.50 | 0.12 | 2.0 | - | 3.0 | 0.50 | - | 0.50 |" in page
    assert "| evaluate | 1,000 | 125 | - | 0.12 | 8.0 | 3.0 | 12.0 | 0.90 | - | 0.01 |" in page
    assert "marked * do not hold" in page and "FAILED: explain: no room" in page
    assert "| evaluate, 1,000 films, without the network's own time | 5.0 s |" in page
    assert "How cost grows" not in page


def test_two_sizes_stand_side_by_side_and_what_grows_faster_shows():
    small, large = of_size(1000, linear=3.0, square=3.0), of_size(4000, linear=9.0, square=48.0)
    for report in (small, large):
        report["rows"].append({**ROW, "what": "input", "films": 5 * report["films"],
                               "rate": 100.0, "seconds": 5.0})
        report["rows"].append({**ROW, "what": "the same", "films": 32, "rate": 1.0,
                               "seconds": 1.0})
    page = scale_table.markdown([large, small])
    assert page.index("## 1,000 films") < page.index("## 4,000 films")
    lines = page[page.index("## How cost grows"):].splitlines()
    assert [line for line in lines if line.startswith("| ") and "---" not in line] == [
        "|  | 1,000 | 1,000 to 4,000 | 4,000 |",
        "| linear | 4.50 | 3.00 | 3.38 |",
        "| square | 4.50 | 22.50 | 18.00 |",
    ]


def test_the_targets_are_read_from_the_rows():
    rows = [{**ROW, "what": "prepare", "films": 9, "rate": 45.0, "limit": 100.0, "first": 0.2},
            {**ROW, "what": "train", "films": 9, "rate": 45.0, "first": 0.9, "waiting": 0.012}]
    assert scale_table.targets(rows) == [
        ["prepare: share of pure decoding", "0.45", "0.90"],
        ["first word, the latest (train)", "0.90 s", "1 s"],
        ["training waits for its films", "1.2%", "below 5%"],
    ]


def test_a_command_is_told_from_the_rest_of_the_machine(monkeypatch):
    held = np.ones(80_000_000)  # a process of its own is not told with what this one holds
    told = scale.command("--version")
    del held
    assert told.said[-1].startswith("cxrjax ") and 0 < told.first <= told.seconds
    assert 0 < told.cpu < 10 and 5e6 < told.peak < 3e8
    if sys.platform == "linux":
        assert told.others is not None and told.others >= 0
    worked = iter([100.0, 107.5])
    monkeypatch.setattr(machine, "busy", lambda: next(worked))
    assert scale._others(machine.busy(), own=2.5, seconds=10.0) == 0.5
