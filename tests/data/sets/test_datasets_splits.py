"""Splits: what the lists say, patients and copies on one side; hashes and groups behind them."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrjax.data import preprocess, sets
from cxrjax.data.sets import _duplicates, _splits, chestxray14
from cxrjax.errors import UserError
from tests.raw_films import NIH, ids, make_broken_nih, make_nih, options


@pytest.fixture(scope="module")
def nih(tmp_path_factory):
    """Options of a prepared ChestX-ray14 with one film missing and one cut off."""
    raw = make_broken_nih(tmp_path_factory.mktemp("nih"))
    given = options("chestxray14", raw, tmp_path_factory.mktemp("prepared"))
    sets.prepare(given)
    return given


# --- ChestX-ray14: splits, views, boxes


def test_official_split_with_seeded_validation(nih):
    films = sets.load(nih)
    assert set(ids(films, "test")) == {name for name, _, _ in NIH[10:]}
    train, val = set(ids(films, "train")), set(ids(films, "val"))
    assert train | val == {name for i, (name, _, _) in enumerate(NIH[:10]) if i not in (3, 4)}
    # 6 - 1 train_val patients are stored; an eighth of them, rounded, is one.
    assert len({name[:8] for name in val}) == 1
    assert not {name[:8] for name in val} & {name[:8] for name in train}
    others = {tuple(ids(sets.load(nih | dict(seed=s)), "val")) for s in range(8)}
    assert len(others) > 2
    assert films.info["protocol"].startswith(
        "ChestX-ray14, official split (10 train_val, 4 test by list; val: 0.125 of the patients, "
        "seed 0), 2017 labels, 32x32"
    )


def test_official_split_with_a_validation_list(nih, tmp_path):
    listed = tmp_path / "val.txt"
    listed.write_text("00000006_000.png\n00000006_001.png\n00000002_000.png\n")  # one is missing
    films = sets.load(nih | dict(val_list=str(listed)))
    assert ids(films, "val") == ["00000006_000.png", "00000006_001.png"]
    assert "(7/3/4 by list)" in films.info["protocol"]
    assert films.info["counts"] == {"train": 6, "val": 2, "test": 4}
    assert "(train/val/test 6/2/4)" in films.info["protocol"]

    listed.write_text("00000007_000.png\n")
    with pytest.raises(UserError, match="not in train_val_list.txt, for example 00000007_000"):
        sets.load(nih | dict(val_list=str(listed)))
    listed.write_text("00000006_001.png\n")
    with pytest.raises(UserError, match="1 patients are in both train and val, .* patient 6"):
        sets.load(nih | dict(val_list=str(listed)))


def test_chexnet_split_from_packed_lists(tmp_path):
    raw = make_nih(tmp_path / "raw")
    names = [name for name, _, _ in NIH]
    parts = {"train": names[5:14], "val": names[0:3], "test": names[3:5]}  # patient 3 in two
    (raw / "chexnet_split").mkdir()
    for split, members in parts.items():
        with gzip.open(raw / "chexnet_split" / f"{split}_list.txt.gz", "wt") as file:
            file.writelines(f"{name} 0 1 0\n" for name in members)
    given = options("chestxray14", raw, tmp_path / "prepared", split="chexnet")
    sets.prepare(given)
    with pytest.raises(UserError, match="patient 3:"):
        sets.load(given)
    folder = tmp_path / "lists"
    folder.mkdir()
    mended = parts | {"train": names[6:14], "test": names[3:6]}
    for split, members in mended.items():
        (folder / f"{split}_list.txt").write_text("\n".join(members))
    films = sets.load(given | {"lists": str(folder)})
    assert {s: ids(films, s) for s in films.splits} == mended
    assert "CheXNet split (8/3/3 by list)" in films.info["protocol"]
    assert films.info["split"] == "chexnet"


def test_chexnet_without_lists_is_an_error_not_the_official_lists(nih):
    with pytest.raises(UserError, match="chexnet split needs .*_list.txt.gz"):
        sets.load(nih | dict(split="chexnet"))


def test_random_split_keeps_patients_together(nih):
    films = sets.load(nih | dict(split="random", shares=(0.5, 0.25, 0.25)))
    patients = [set(films.table["patient"][films.splits[s]].tolist()) for s in films.splits]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 7
    assert [len(p) for p in patients] == [4, 1, 2]  # 3.5 and 5.25 of 7, rounded to even
    again = sets.load(nih | dict(split="random", shares=(0.5, 0.25, 0.25)))
    assert all(np.array_equal(films.splits[s], again.splits[s]) for s in films.splits)


def test_view_filter_counts_what_it_leaves_out(nih):
    everything = sets.load(nih)
    frontal = sets.load(nih | dict(view="PA"))
    for split in everything.splits:
        kept = [p for p in everything.splits[split] if everything.table["view"][p] == "PA"]
        assert frontal.splits[split].tolist() == kept
    assert frontal.info["left_out"] == {"not PA": 4}
    assert "PA views only" in frontal.info["protocol"]
    assert "left out: 4 not PA" in frontal.info["protocol"]


def test_films_in_no_list_are_left_out_loudly(nih, tmp_path):
    for name in ("train_val_list.txt", "test_list.txt"):
        lines = (Path(nih["raw_dir"]) / name).read_text().split()
        (tmp_path / name).write_text("\n".join(lines[:-1]))
    films = sets.load(nih | dict(lists=str(tmp_path)))
    assert films.info["left_out"] == {"in no list of the split": 2}
    assert sum(films.info["counts"].values()) == 10


def test_prevalence_is_counted_by_hand(nih):
    info = sets.load(nih).info
    assert info["positives"]["test"]["Mass"] == 1 and info["prevalence"]["test"]["Mass"] == 0.25
    total = sum(info["positives"][s]["Cardiomegaly"] for s in ("train", "val"))
    assert total == 2 and info["positives"]["test"]["Cardiomegaly"] == 0


def test_boxes_are_fractions_and_stay_with_the_films(nih):
    expected = [
        ("00000007_000.png", "Atelectasis", (0.25, 0.5, 0.375, 0.5625)),
        ("00000008_001.png", "Infiltration", (900 / 1024, 0.0, 1.0, 1.0)),  # cut at the border
    ]
    assert chestxray14.read_boxes(nih["raw_dir"]) == expected
    assert sets.boxes(nih | dict(raw_dir="")) == expected


# --- perceptual hash, groups, splits


def distance(a, b):
    return bin(int(_duplicates.perceptual_hash(a), 16) ^ int(_duplicates.perceptual_hash(b), 16)
               ).count("1")  # fmt: skip


def textured(seed):
    """A film with detail at several scales, as real ones have."""
    rng = np.random.default_rng(seed)
    total = sum(
        np.asarray(Image.fromarray(rng.normal(size=(n, n)).astype(np.float32)).resize(
            (150, 150), Image.BICUBIC)) / n ** 0.5
        for n in (4, 8, 16, 32)
    )  # fmt: skip
    return (60 + 130 * (total - total.min()) / np.ptp(total)).astype(np.uint8)


def test_hash_hardly_sees_size_compression_or_brightness():
    for seed in range(5):
        original = textured(seed)
        assert distance(original, original) == 0
        as_jpeg = io.BytesIO()
        Image.fromarray(original).save(as_jpeg, "JPEG", quality=60)
        copies = {
            "smaller": preprocess.resize(original, 112),
            "larger": preprocess.resize(original, 299),
            "jpeg": np.asarray(Image.open(as_jpeg)),
            "brighter": np.clip(original * 1.15 + 10, 0, 255).astype(np.uint8),
            "gamma": (255 * (original / 255) ** 0.8).astype(np.uint8),
        }
        for what, copy in copies.items():
            assert distance(original, copy) <= 24, what
        assert distance(original, textured(seed + 100)) > 80


@pytest.mark.parametrize("size", [40, 64, 224, 1000])
def test_the_quick_hash_is_nearly_the_same(size):
    rng = np.random.default_rng(size)
    for _ in range(4):
        film = Image.fromarray(rng.integers(0, 256, (90, 90), np.uint8)).resize((size, size + 9))
        full, quick = (f(np.asarray(film)) for f in (
            _duplicates.perceptual_hash, _duplicates.quick_hash))  # fmt: skip
        assert len(quick) == 64 and bin(int(full, 16) ^ int(quick, 16)).count("1") <= 24


def test_hash_of_a_blank_film_is_defined():
    assert _duplicates.perceptual_hash(np.full((50, 40), 7, np.uint8)) == "0" * 64


def test_near_pairs_against_a_slow_count():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    near = base[:10].copy()
    near[:, 0] ^= rng.integers(0, 256, 10, dtype=np.uint8)
    hashes = [row.tobytes().hex() for row in np.concatenate([base, near])]
    slow = [
        (i, j)
        for i in range(50) for j in range(i + 1, 50)
        if bin(int(hashes[i], 16) ^ int(hashes[j], 16)).count("1") <= 4
    ]  # fmt: skip
    assert 3 < len(slow) < 11
    assert sorted(map(tuple, _duplicates.near_pairs(hashes, 4).tolist())) == slow
    assert _duplicates.near_pairs([], 4).shape == (0, 2)


def test_join_is_the_connected_components():
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, 60, (30, 2)).tolist()
    group = _duplicates.join(60, pairs)
    for start in range(60):  # breadth-first search
        seen, queue = {start}, [start]
        while queue:
            at = queue.pop()
            for a, b in pairs:
                for here, there in ((a, b), (b, a)):
                    if here == at and there not in seen:
                        seen.add(there)
                        queue.append(there)
        assert seen == set(np.flatnonzero(group == group[start]).tolist())
        assert group[start] == min(seen)


def test_a_seeded_order_hardly_moves_when_patients_are_added():
    few = [str(i) for i in range(200)]
    more = [str(i) for i in range(210)]
    order = _splits.rank(few, 0)
    assert [k for k in _splits.rank(more, 0) if int(k) < 200] == order
    assert _splits.rank(few, 1) != order and sorted(order) == sorted(few)
    before = _splits.by_group(np.array(few), (0.8, 0.1, 0.1), 0)
    after = _splits.by_group(np.array(more), (0.8, 0.1, 0.1), 0)
    moved = sum(len(set(before[s].tolist()) - set(after[s].tolist())) for s in before)
    assert moved <= 4
    assert [len(before[s]) for s in ("train", "val", "test")] == [160, 20, 20]


def test_stratified_split_keeps_class_shares():
    rng = np.random.default_rng(2)
    classes = np.eye(3, dtype=np.float32)[rng.choice(3, 600, p=[0.7, 0.25, 0.05])]
    group = rng.integers(0, 400, 600)
    shares = (0.7, 0.1, 0.2)
    splits = _splits.by_group_stratified(group, classes, shares, 0)
    _splits.check_disjoint(group, splits, "group", "test")
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(600))
    for split, share in zip(("train", "val", "test"), shares):
        np.testing.assert_allclose(
            classes[splits[split]].sum(0), share * classes.sum(0), atol=3, err_msg=split
        )
