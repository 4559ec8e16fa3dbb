"""Each data set's own layout: COVID-19 Radiography, JSRT, MedMNIST; and the real films."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrjax.data import preprocess, sets
from cxrjax.data.sets import _duplicates, chestxray14
from tests.raw_films import (
    COVID_FILMS,
    ids,
    make_covid,
    make_jsrt,
    make_npz,
    options,
    save,
    write_csv,
)


@pytest.fixture(scope="module")
def covid(tmp_path_factory):
    raw = make_covid(tmp_path_factory.mktemp("covid"))
    given = options("covid_radiography", raw, tmp_path_factory.mktemp("prepared"))
    sets.prepare(given)
    return given


# --- COVID-19 Radiography


def test_covid_films_masks_and_classes(covid):
    films = sets.load(covid)
    assert films.labels == ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    assert films.masks == ("lungs",) and len(films.source) == sum(COVID_FILMS.values())
    outside = np.zeros((32, 32), np.uint8)
    outside[:16, 20:] = 1  # rows 0..24 of 50 and columns 30..49 of 50
    for i in range(len(films.source)):
        record = films.source[i]
        label, number = record["id"].rsplit("-", 1)
        assert films.labels[int(record["label"].argmax())] == label and record["label"].sum() == 1
        assert record["has_mask"] is (int(number) < COVID_FILMS[label])
        assert record["mask"].dtype == np.uint8 and record["mask"].shape == (32, 32, 1)
        expected = outside if record["has_mask"] else np.zeros_like(outside)
        assert np.abs(record["mask"][..., 0].astype(int) - expected).mean() < 0.07
        if record["has_mask"]:
            assert set(np.unique(record["mask"])) == {0, 1}
            assert record["mask"][2, 29, 0] == 1 and record["mask"][2, 2, 0] == 0
    assert films.info["films_with_mask"] == 24


def test_covid_colour_films_become_the_same_gray(covid):
    films = sets.load(covid)
    where = films.table["id"].tolist().index("Viral Pneumonia-1")
    path = Path(covid["raw_dir"]) / "Viral Pneumonia" / "images" / "Viral Pneumonia-1.png"
    assert Image.open(path).mode == "RGB"
    gray = np.asarray(Image.open(path))[..., 0]
    np.testing.assert_array_equal(
        films.source[where]["image"][..., 0], preprocess.resize(gray, 32)
    )


def test_masks_of_two_definitions_are_not_mixed(tmp_path):
    raw = make_covid(tmp_path / "raw")
    mask = np.zeros((50, 50), np.uint8)
    mask[25:] = 255
    save(raw / "COVID" / "masks_v7labs" / "COVID-1.png", mask)
    given = options("covid_radiography", raw, tmp_path / "prepared")
    first = sets.prepare(given)
    second = sets.prepare(given | {"masks": "v7labs"})
    assert first.directory != second.directory
    films = sets.load(given | {"masks": "v7labs"})
    assert films.info["films_with_mask"] == 1 and "v7labs masks" in films.info["protocol"]
    record = films.source[films.table["id"].tolist().index("COVID-1")]
    assert record["mask"][20, 5, 0] == 1 and record["mask"][5, 20, 0] == 0


def test_grouped_split_keeps_copies_and_patients_together(tmp_path):
    raw = make_covid(tmp_path / "raw")
    images = raw / "Normal" / "images"
    original = Image.open(images / "Normal-1.png")
    original.resize((48, 48), Image.LANCZOS).save(images / "Normal-21.png")  # rescaled
    brighter = np.clip(np.asarray(original, np.float32) * 1.1 + 5, 0, 255).astype(np.uint8)
    save(images / "Normal-22.png", brighter)
    write_csv(
        raw / "manifest.csv", ["path", "patient_hint"],
        [["COVID/images/COVID-1.png", "p1"], ["COVID/images/COVID-2.png", "p1"],
         ["COVID/images/COVID-3.png", ""], ["COVID/images/COVID-4.png", ""]],
    )  # fmt: skip
    write_csv(
        raw / "duplicates.csv", ["image_a", "image_b", "kind"],
        [["COVID-2", "Lung_Opacity-1", "near"], ["COVID-5", "COVID-999", "near"]],
    )  # fmt: skip
    given = options("covid_radiography", raw, tmp_path / "prepared")
    sets.prepare(given)
    films = sets.load(given)
    group = dict(zip(films.table["id"].tolist(), films.table["group"].tolist()))
    assert group["Normal-1"] == group["Normal-21"] == group["Normal-22"]
    assert group["COVID-1"] == group["COVID-2"] == group["Lung_Opacity-1"]
    # Nothing else is joined; two rows without a hint are not one patient.
    assert films.info["group_sizes"] == {"1": 24, "3": 2}
    for seed in range(5):
        grouped = sets.load(given | {"seed": seed})
        assert grouped.info["leaks"] == {"train/val": 0, "train/test": 0, "val/test": 0}
        sides = [set(grouped.table["group"][p].tolist()) for p in grouped.splits.values()]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 26
        assert grouped.info["counts"]["test"] == pytest.approx(6, abs=2)
    leaking = [sets.load(given | {"split": "random", "seed": s}) for s in range(5)]
    assert any(films.info["leaks"]["train/test"] for films in leaking)
    assert all("have a near duplicate or a known patient" in f.info["protocol"] for f in leaking)
    assert leaking[0].info["counts"] == {"train": 22, "val": 2, "test": 6}


# --- JSRT, MedMNIST


def test_jsrt(tmp_path):
    raw = make_jsrt(tmp_path / "raw")
    (raw / "masks_heart" / "JPCLN002.png").unlink()
    given = options("jsrt", raw, tmp_path / "prepared", image_size=40)
    account = sets.prepare(given)
    assert account.films_without_mask == ["JPCLN002"]
    assert "JPCLN002.png has no mask of the heart" in str(account)
    films = sets.load(given)
    assert films.masks == ("lungs", "heart") and not films.allow_flip
    assert ids(films, "test") == ["JPCLN005", "JPCLN010", "JPCNN015", "JPCNN020"]
    assert ids(films, "val") == ["JPCLN009", "JPCNN019"]  # 8th and 16th of the other 16
    assert len(films.splits["train"]) == 14
    record = films.source[0]
    assert record["label"].tolist() == [1.0] and films.source[19]["label"].tolist() == [0.0]
    assert record["mask"][10, 10].tolist() == [1, 0] and record["mask"][32, 20].tolist() == [0, 1]
    assert not films.source[1]["has_mask"] and films.source[1]["mask"].max() == 0


def test_pneumoniamnist(tmp_path):
    raw = tmp_path / "raw"
    path = make_npz(raw / "pneumoniamnist.npz")
    arrays = dict(np.load(path))
    arrays["val_images"][0] = arrays["train_images"][3]  # the benchmark has such repeats
    np.savez(path, **arrays)
    given = options("pneumoniamnist", raw, tmp_path / "prepared", image_size=28)
    sets.prepare(given)
    films = sets.load(given)
    assert films.info["counts"] == {"train": 12, "val": 4, "test": 6}
    assert films.info["repeats"] == {"train/val": 1, "train/test": 0, "val/test": 0}
    for split in films.splits:
        for i, position in enumerate(films.splits[split]):
            record = films.source[int(position)]
            np.testing.assert_array_equal(
                record["image"][..., 0], arrays[f"{split}_images"][i]
            )
            assert record["label"].tolist() == [[1, 0], [0, 1]][arrays[f"{split}_labels"][i, 0]]
            assert record["id"] == f"{split}-{i:05d}"
    sets.prepare(given | {"image_size": 56, "raw_dir": str(path)})  # the file itself
    assert sets.load(given | {"image_size": 56}).source[0]["image"].shape == (56, 56, 1)


def test_chestmnist_states_its_split(tmp_path):
    counts = (5, 2, 3)
    arrays = {}
    for s, n in zip(("train", "val", "test"), counts):
        arrays[f"{s}_labels"] = np.eye(14, dtype=np.uint8)[:n]
        arrays[f"{s}_index"] = np.array([f"{s == 'val':01d}{s == 'test':01d}00000{i}_000.png"
                                         for i in range(n)])  # fmt: skip
    make_npz(tmp_path / "some.npz", counts, **arrays)
    given = options("chestmnist", tmp_path, tmp_path / "prepared", file="some.npz")
    sets.prepare(given)
    # A raw_dir that is a file is read whatever its name; the protocol says which it was.
    other = options("chestmnist", tmp_path / "some.npz", tmp_path / "prepared2")
    sets.prepare(other)
    assert "ChestX-ray14 as some.npz" in sets.load(other).info["protocol"]
    films = sets.load(given)
    assert films.labels == chestxray14.LABELS and films.info["split"] == "chexnet"
    assert "CheXNet split" in films.info["protocol"]
    assert films.table["patient"].tolist()[-1] == 1000002
    np.testing.assert_array_equal(films.table["label"][:5], np.eye(14)[:5])


# --- real films


def test_real_nih(shared_data, tmp_path):
    given = options("chestxray14", shared_data / "nih", tmp_path, labels="2017")
    account = sets.prepare(given)
    assert (account.rows_read, account.films_stored, account.missing) == (1305, 1305, [])
    films = sets.load(given)
    assert films.info["counts"]["test"] == 240
    assert "official split (75,312/11,212/25,596 by list), 2017 labels" in films.info["protocol"]
    chexnet = sets.load(given | {"split": "chexnet"})
    assert "CheXNet split (78,468/11,219/22,433 by list)" in chexnet.info["protocol"]
    assert sum(chexnet.info["counts"].values()) == 1305
    boxes = sets.boxes(given)
    assert len(boxes) == 984 and len({name for name, _, _ in boxes}) == 880
    assert len({finding for _, finding, _ in boxes}) == 8
    here = [name for name, _, _ in boxes if name in set(films.table["id"].tolist())]
    assert (len(here), len(set(here))) == (60, 55)


@pytest.mark.slow
def test_real_nih_with_the_whole_table(shared_data, tmp_path):
    account = sets.prepare(options("chestxray14", shared_data / "nih", tmp_path))
    assert (account.rows_read, account.films_stored, len(account.missing)) == (112120, 1305, 110815)
    assert "110,815 of 112,120 rows of Data_Entry_2017_v2020.csv have no film" in str(account)


def test_real_pneumoniamnist(shared_data, tmp_path):
    given = options("pneumoniamnist", shared_data / "pneumoniamnist", tmp_path, image_size=28)
    assert sets.prepare(given).films_stored == 5856
    films = sets.load(given)
    assert films.info["counts"] == {"train": 4708, "val": 524, "test": 624}
    assert films.info["positives"]["test"] == {"Normal": 234, "Pneumonia": 390}
    assert films.info["repeats"]["train/val"] == 8


def test_real_jsrt(shared_data, tmp_path):
    given = options("jsrt", shared_data / "jsrt", tmp_path, image_size=64)
    account = sets.prepare(given)
    assert account.films_stored == 246 and not account.films_without_mask
    films = sets.load(given)
    assert films.table["label"].sum() == 153
    masks = np.stack([films.source[i]["mask"] for i in range(0, 246, 10)]).astype(bool)
    # The heart lies to the right of the film's middle, as on every film that is not mirrored.
    column = np.arange(64)[None, None]
    assert (masks[..., 1] * column).sum() / masks[..., 1].sum() > 33
    assert 0.15 < masks[..., 0].mean() < 0.45


@pytest.mark.slow
def test_real_covid_radiography(shared_data, tmp_path):
    given = options("covid_radiography", shared_data / "covid_radiography", tmp_path)
    account = sets.prepare(given)
    assert account.films_stored == 3313 and len(account.films_without_mask) == 2260
    films = sets.load(given)
    assert films.info["leaks"] == {"train/val": 0, "train/test": 0, "val/test": 0}
    hints = films.table["patient_hint"]
    sides = [set(hints[p].tolist()) - {""} for p in films.splits.values()]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    share = films.table["label"][films.splits["test"]].sum(0) / films.table["label"].sum(0)
    np.testing.assert_allclose(share, 0.2, atol=0.01)
    # By the hash alone: what a person sees as one film is joined, and people are not chained.
    pairs = _duplicates.near_pairs(_phashes(account.directory), 48)
    groups = _duplicates.join(3313, pairs.tolist())
    assert max(map(int, _duplicates.group_sizes(groups))) <= 8
    name = dict(zip(films.table["id"].tolist(), groups.tolist()))
    for a, b in (("COVID-127", "COVID-1197"), ("COVID-124", "COVID-1169"),
                 ("COVID-369", "COVID-1076")):  # fmt: skip
        assert name[a] == name[b]


def _phashes(directory):
    lines = (Path(directory) / "films.csv").read_text().splitlines()[1:]
    return [line.rsplit(",", 1)[1] for line in lines]
