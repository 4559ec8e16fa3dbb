"""A prepared folder of which any file is damaged: it is named, with what to do."""

import pathlib
import shutil

import numpy as np
import pytest

from cxrjax.data import input_pipeline, sets
from cxrjax.errors import UserError
from tests.raw_films import make_nih, options
from tests.training.test_runs import DAMAGES


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nih")
    found = options("chestxray14", make_nih(folder / "raw"), folder / "prepared")
    sets.prepare(found)
    return {**found, "data_dir": pathlib.Path(found["data_dir"])}


def files(given):
    return [p for p in given["data_dir"].rglob("*") if p.is_file() and p.stat().st_size]


def damaged(given, tmp_path, file, damage):
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(given["data_dir"], copy)
    DAMAGES[damage](copy / file.relative_to(given["data_dir"]))
    return sets.load({**given, "data_dir": str(copy)})


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_damaged_is_read_in_silence(given, tmp_path, damage):
    assert len(files(given)) >= 7
    for file in files(given):
        with pytest.raises(UserError, match="prepare again|--mode=prepare"):
            films = damaged(given, tmp_path, file, damage)
            [films.source[i] for i in range(len(films.source))]


@pytest.mark.parametrize("reading_processes", [0, 1])
def test_a_training_says_so_too(given, tmp_path, reading_processes):
    record = next(file for file in files(given) if "array_record" in file.name)
    films = damaged(given, tmp_path, record, "flipped byte")
    with pytest.raises(UserError, match="record of film .* is damaged .*prepare again"):
        batches = input_pipeline.train_iterator(
            films, np.arange(len(films.source)), 2, 1, 0, reading_processes=reading_processes
        )
        for _ in range(20):
            next(batches)
