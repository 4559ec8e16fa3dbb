"""Prepared films: what is stored is what was on disk, once, all or nothing, with an account."""

import concurrent.futures
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrjax.data import preprocess, reading, sets
from cxrjax.data.sets import _preparation, chestxray14
from cxrjax.data.sets.base import Account, Films
from cxrjax.errors import UserError
from tests.raw_films import (
    NIH,
    make_broken_nih,
    make_nih,
    make_npz,
    nih_row,
    options,
    save,
    write_table,
)


@pytest.fixture(scope="module")
def nih(tmp_path_factory):
    """Options of a prepared ChestX-ray14 with one film missing and one cut off."""
    raw = make_broken_nih(tmp_path_factory.mktemp("nih"))
    given = options("chestxray14", raw, tmp_path_factory.mktemp("prepared"))
    sets.prepare(given)
    return given


# --- what is stored


def test_records_are_the_films_on_disk(nih):
    films = sets.load(nih)
    stored = [row for i, row in enumerate(NIH) if i not in (3, 4)]
    assert films.table["id"].tolist() == [name for name, _, _ in stored]
    assert len(films.source) == 12
    for i, (name, findings, view) in enumerate(stored):
        record = films.source[i]
        path = next(Path(nih["raw_dir"]).rglob(name))
        expected = preprocess.resize(reading.read_radiograph(path), 32)
        assert record["id"] == name and isinstance(record["id"], str)
        assert record["image"].dtype == np.uint8 and record["image"].shape == (32, 32, 1)
        np.testing.assert_array_equal(record["image"][..., 0], expected)
        positive = {films.labels[k] for k in np.flatnonzero(record["label"])}
        assert positive == set(findings.split("|")) - {"No Finding"}
        assert record["label"].dtype == np.float32
        np.testing.assert_array_equal(films.table["label"][i], record["label"])
        assert films.table["patient"][i] == int(name[:8]) and films.table["view"][i] == view
    assert set(films.source[0]) == {"image", "label", "id"}


def test_account_adds_up_and_names_every_film(nih):
    account = sets.prepare(nih)  # read back: it lies beside the films
    account.already_prepared = False
    assert (account.rows_read, account.films_found, account.films_stored) == (14, 13, 12)
    assert account.dropped == {"the film is missing": 1, "the film cannot be read": 1}
    assert account.missing == ["00000002_000.png"]
    [(file, why)] = account.unreadable
    assert file.endswith("00000003_000.png") and "truncated" in why
    assert account.sizes == {"40x40": 12} and account.modes == {"PNG L, 8 bit": 12}
    text = str(account)
    for words in ("12 films", "rows read 14", "00000002_000.png", "00000003_000.png (truncated"):
        assert words in text
    kept = Path(account.directory) / "account.json"
    assert json.loads(kept.read_text())["missing"] == ["00000002_000.png"]
    assert str(Account.from_json(account.to_json())) == text
    account.check()
    with pytest.raises(RuntimeError, match="do not add up"):
        Account("x", rows_read=3, films_stored=1, dropped={"why": 1}).check()


@pytest.mark.parametrize("layout", ["flat", "beside"])
def test_flat_folders_hold_the_same_films(tmp_path, nih, layout):
    given = options("chestxray14", make_nih(tmp_path / "raw", layout), tmp_path / "prepared")
    account = sets.prepare(given)
    assert account.films_stored == 14 and not account.dropped
    assert sets.boxes(given) == []  # this folder has no table of them
    films, nested = sets.load(given), sets.load(nih)
    np.testing.assert_array_equal(films.source[13]["image"], nested.source[11]["image"])


def test_a_folder_named_after_a_size_is_no_archive(tmp_path):
    raw = make_nih(tmp_path / "raw", "flat")
    save(raw / "images_1024" / NIH[0][0], np.zeros((64, 64), np.uint8))
    given = options("chestxray14", raw, tmp_path / "prepared")
    assert sets.prepare(given).sizes == {"40x40": 14}


def test_many_parts_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(_preparation, "PART_BYTES", 4 * 32 * 32)
    raw = make_nih(tmp_path / "raw")
    (raw / "images_001" / "images" / NIH[3][0]).write_bytes(b"")
    given = options("chestxray14", raw, tmp_path / "prepared")
    directory = Path(sets.prepare(given).directory)
    assert len(list(directory.rglob("*part*.array_record*"))) == 4
    films = sets.load(given)
    expected = [name for i, (name, _, _) in enumerate(NIH) if i != 3]
    assert films.table["id"].tolist() == expected
    assert [films.source[i]["id"] for i in range(13)] == expected


def test_source_can_be_pickled_and_read_by_threads(nih):
    source = sets.load(nih).source
    again = pickle.loads(pickle.dumps(source))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        records = list(pool.map(again.__getitem__, list(range(12)) * 20))
    for i, record in enumerate(records):
        np.testing.assert_array_equal(record["image"], source[i % 12]["image"])
    with pytest.raises(IndexError):
        source[12]
    with pytest.raises(IndexError):
        source[-1]


def test_reading_decodes_nothing(tmp_path, monkeypatch):
    """Prepared films are stored as they are trained on: that makes 11,000 a second and core."""
    raw = make_npz(tmp_path / "pneumoniamnist.npz", (4, 1, 1))
    given = options("pneumoniamnist", raw, tmp_path / "prepared", image_size=256)
    sets.prepare(given)
    stored = sum(p.stat().st_size for p in (tmp_path / "prepared").rglob("*array_record*"))
    assert stored > 6 * 256 * 256
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("a picture was decoded"))
    monkeypatch.setattr(preprocess, "resize", lambda *args, **kwargs: pytest.fail("resized"))
    source = sets.load(given).source
    assert [source[i]["image"].shape for i in range(6)] == 6 * [(256, 256, 1)]


# --- prepared once, all or nothing


def test_prepared_films_are_left_alone_and_need_no_raw_folder(tmp_path):
    raw = make_nih(tmp_path / "raw")
    given = options("chestxray14", raw, tmp_path / "prepared")
    first = sets.prepare(given)
    before = {p: p.stat().st_mtime_ns for p in Path(first.directory).rglob("*")}
    again = sets.prepare(given)
    assert again.already_prepared and "left as it is" in str(again)
    assert again.directory == first.directory and again.films_stored == 14
    assert {p: p.stat().st_mtime_ns for p in Path(first.directory).rglob("*")} == before

    raw.rename(tmp_path / "elsewhere")
    (tmp_path / "prepared").rename(tmp_path / "moved")
    films = sets.load(given | {"data_dir": str(tmp_path / "moved")})
    assert films.info["counts"]["test"] == 4 and films.source[5]["id"]


def test_other_options_or_films_get_their_own_directory(tmp_path):
    raw = make_nih(tmp_path / "raw")
    given = options("chestxray14", raw, tmp_path / "prepared")
    directories = {sets.prepare(given).directory}
    directories.add(sets.prepare(given | {"image_size": 16}).directory)
    directories.add(sets.prepare(given | {"fit": "pad"}).directory)
    assert len(directories) == 3
    assert sets.load(given | {"image_size": 16}).source[0]["image"].shape == (16, 16, 1)

    write_table(raw / "Data_Entry_2017.csv", [nih_row(*row) for row in NIH[:-1]])
    newer = Path(sets.prepare(given).directory)
    assert str(newer) not in directories
    with pytest.raises(UserError, match="several preparations.*'prepared'"):
        sets.load(given)
    assert len(sets.load(given | {"prepared": newer.name}).source) == 13


def test_lists_added_later_are_not_passed_over_in_silence(tmp_path):
    raw = make_nih(tmp_path / "raw")
    given = options("chestxray14", raw, tmp_path / "prepared")
    sets.prepare(given)
    (raw / "official_val_list.txt").write_text("00000001_000.png\n")
    assert "official_val_list.txt is not what was kept" in str(sets.prepare(given))


def test_label_versions(tmp_path):
    raw = make_nih(tmp_path / "raw")
    corrected = [nih_row(*row) for row in NIH]
    corrected[2] = nih_row(NIH[2][0], "Hernia")
    write_table(raw / "Data_Entry_2017_v2020.csv", corrected)
    given = options("chestxray14", raw, tmp_path / "prepared")
    auto = sets.prepare(given)  # takes the corrected table
    assert "labels of Data_Entry_2017_v2020.csv" in auto.notes
    old = sets.prepare(given | {"labels": "2017"})
    assert old.directory != auto.directory
    hernia = chestxray14.LABELS.index("Hernia")
    for version, expected in (("2017", 0.0), ("v2020", 1.0)):
        films = sets.load(given | {"labels": version})
        assert films.source[2]["label"][hernia] == expected
        assert f"{version} labels" in films.info["protocol"]
    with pytest.raises(UserError, match="several preparations"):
        sets.load(given)  # 'auto' fits both


def test_a_killed_preparation_leaves_nothing_to_read(tmp_path):
    raw = make_nih(tmp_path / "raw")
    given = options("chestxray14", raw, tmp_path / "prepared", preparing_threads=1)
    script = (
        "import time\n"
        "from cxrjax.data import sets\n"
        "from cxrjax.data.sets import _preparation\n"
        "decode = _preparation.decode\n"
        "_preparation.decode = lambda *row: time.sleep(0.2) or decode(*row)\n"
        f"sets.prepare({given!r})\n"
    )
    root = Path(__file__).parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "prepared").glob(".preparing-*/films.csv")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()

    left = list((tmp_path / "prepared").glob(".preparing-*"))
    assert len(left) == 1, "killed too late: nothing half-made to look at"
    with pytest.raises(UserError, match="is not prepared"):
        sets.load(given)
    account = sets.prepare(given)
    assert not left[0].exists() and "had been broken off" in str(account)
    films = sets.load(given)
    assert [films.source[i]["id"] for i in range(14)] == [name for name, _, _ in NIH]


def test_a_failed_preparation_clears_up(tmp_path, monkeypatch):
    monkeypatch.setattr(_preparation, "decode", lambda *_: 1 / 0)
    given = options("chestxray14", make_nih(tmp_path / "raw"), tmp_path / "prepared")
    with pytest.raises(ZeroDivisionError):
        sets.prepare(given)
    assert not [p for p in (tmp_path / "prepared").iterdir() if p.is_dir()]


def test_only_one_process_prepares(tmp_path):
    given = options("chestxray14", make_nih(tmp_path / "raw"), tmp_path / "prepared")
    directory = Path(sets.prepare(given).directory)
    with _preparation._only_one(directory.parent / f".{directory.name}.lock"):
        assert sets.prepare(given).already_prepared  # whole: nobody needs to wait
        shutil.rmtree(directory)
        with pytest.raises(UserError, match="another process"):
            sets.prepare(given)


# --- by name


def test_a_data_set_of_ones_own_by_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "my_films.py").write_text(
        "import numpy as np\n"
        "from cxrjax.data.sets.base import Account, Films, describe\n"
        "LABELS, TASK, MASKS, DEFAULTS = ('a',), 'multilabel', (), {'count': 6}\n"
        "def prepare(options):\n    return Account('mine', notes=[str(options['count'])])\n"
        "def load(options):\n"
        "    label = np.zeros((options['count'], 1), np.float32)\n"
        "    image = np.zeros((8, 8, 1), np.uint8)\n"
        "    source = [{'image': image, 'label': l, 'id': str(i)} for i, l in enumerate(label)]\n"
        "    splits = dict(zip(('train', 'val', 'test'), np.split(np.arange(6), (4, 5))))\n"
        "    table = {'id': np.arange(6).astype(str)}\n"
        "    info = describe('mine', 'plain', LABELS, label, splits)\n"
        "    return Films(source, table, splits, LABELS, TASK, MASKS, info)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sets.prepare({"name": "my_films:", "count": 9}).notes == ["9"]
    films = sets.load({"name": "my_films:"})
    assert films.info["protocol"] == "mine (train/val/test 4/1/1)"
    with pytest.raises(UserError, match="no option 'cuont'; did you mean 'count'"):
        sets.load({"name": "my_films:", "cuont": 3})


def test_films_check_themselves():
    source, table = [0, 1, 2], {"id": np.array(["a", "b", "c"])}
    good = {"train": np.array([0]), "val": np.array([1]), "test": np.array([2])}
    Films(source, table, good, ("x",), "multilabel")
    for splits, words in (
        (good | {"test": np.array([1])}, "two splits"),
        (good | {"test": np.array([3])}, "outside"),
        ({"train": np.array([0])}, "must be"),
    ):
        with pytest.raises(ValueError, match=words):
            Films(source, table, splits, ("x",), "multilabel")
    with pytest.raises(ValueError, match="2 rows for 3 films"):
        Films(source, table | {"patient": np.array([1, 2])}, good, ("x",), "multilabel")
