"""The films of `--what=scale` are a ChestX-ray14 in every way that its reader checks."""

import os

import numpy as np

from cxrjax.benchmarks import scale
from cxrjax.data import sets
from cxrjax.data.sets import chestxray14


def test_made_films_are_a_chestxray14_of_that_many_names(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "DRAWN", {64: 9})
    raw = scale.make(tmp_path / "raw", 600, 64)
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
    assert abs(share - scale.TEST) < 0.1
    assert np.nanmean(films.table["label"], 0)[3] > 0.1  # Infiltration, the most frequent
    kept = scale.make(tmp_path / "raw", 600, 64)  # again: nothing is drawn anew
    assert kept == raw


def test_the_table_says_what_failed_and_what_was_disturbed():
    row = {"what": "prepare", "films": 1000, "rate": 500.0, "limit": 1000.0, "first": 0.5,
           "seconds": 2.0, "cpu": 3.0, "peak": 5e8}
    page = scale.markdown({"films": 1000, "size": 64, "cores": 2, "device": "two cores",
                           "load": 9.0, "rows": [
                               row, {"what": "explain", "films": 10, "error": "no room"}]})
    assert "| prepare | 1,000 | 500 | 0.50 | 0.5 | 2.0 | 3.0 | 0.50 |" in page
    assert "Other programs were running" in page and "FAILED: explain: no room" in page
