"""The synthetic chest films: reproducible, patient-disjoint, and true to their labels and boxes."""

import pickle

import numpy as np
import pytest

from cxrjax.data import sets
from cxrjax.data.sets import chestxray14
from cxrjax.data.sets.phantom import dataset
from cxrjax.errors import UserError

SMALL = {"image_size": 32, "num_train": 40, "num_val": 16, "num_test": 24}


def gray(*args, **options) -> np.ndarray:
    return dataset.render(*args, **options)["image"][..., 0].astype(np.float32)


def inside_boxes(film: dict, size: int, margin: float = 0.01) -> np.ndarray:
    """True where a pixel lies in any box of the film, widened by `margin`."""
    at = (np.arange(size) + 0.5) / size
    x, y = at[None, :], at[:, None]
    inside = np.zeros((size, size), bool)
    for _, (x0, y0, x1, y1) in film["boxes"]:
        inside |= (x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)
    return inside


def test_same_seed_and_index_give_the_same_film_and_others_do_not():
    film = dataset.render(3, 7, 48)
    again = dataset.render(3, 7, 48)
    for key in ("image", "mask", "label"):
        np.testing.assert_array_equal(film[key], again[key])
    assert (film["boxes"], film["id"]) == (again["boxes"], again["id"])
    for seed, index in ((3, 8), (4, 7)):
        other = gray(seed, index, 48)
        assert np.mean(np.abs(other - film["image"][..., 0])) > 2


def test_films_do_not_depend_on_the_order_of_reading():
    films = dataset.load(SMALL)
    backwards = [films.source[i]["image"] for i in reversed(range(6))][::-1]
    fresh = pickle.loads(pickle.dumps(dataset.load(SMALL).source))  # as a worker process gets it
    for i in range(6):
        np.testing.assert_array_equal(fresh[i]["image"], backwards[i])


def test_record_and_table_agree_with_render():
    films = sets.load({"name": "phantom", **SMALL})
    assert films.labels == chestxray14.LABELS == dataset.LABELS
    assert len(films.source) == 80 and films.task == "multilabel" and films.masks == ("lungs",)
    assert not films.allow_flip
    for position in (0, 45, 79):
        record = films.source[position]
        film = dataset.render(0, int(films.table["index"][position]), 32)
        assert set(record) == {"image", "mask", "has_mask", "label", "id"}
        assert record["image"].shape == record["mask"].shape == (32, 32, 1)
        assert record["image"].dtype == record["mask"].dtype == np.uint8
        assert record["label"].dtype == np.float32 and record["has_mask"] is True
        np.testing.assert_array_equal(record["image"], film["image"])
        row = films.table["label"][position]
        np.testing.assert_array_equal(record["label"], row)
        assert record["id"] == films.table["id"][position] == film["id"]
        assert films.table["view"][position] == film["view"]
        assert films.table["patient"][position] == film["patient"]


def test_patients_have_several_films_and_stay_in_one_split():
    films = dataset.load({"num_train": 203, "num_val": 101, "num_test": 99})
    patients = {s: set(films.table["patient"][at]) for s, at in films.splits.items()}
    assert [len(films.splits[s]) for s in ("train", "val", "test")] == [203, 101, 99]
    assert not patients["train"] & patients["val"]
    assert not patients["train"] & patients["test"]
    assert not patients["val"] & patients["test"]
    assert len(set(films.table["id"])) == 403
    sizes = np.unique(films.table["patient"][films.splits["train"]], return_counts=True)[1]
    assert 1.5 < sizes.mean() < 4 and sizes.max() >= 4 and sizes.min() == 1


def test_a_patient_keeps_the_anatomy_but_not_the_exposure():
    followups = [i for i in range(400) if dataset.patient_of(1, i)[1] == 1][:12]
    same, other = [], []
    for second in followups:
        first = second - 1
        assert dataset.patient_of(1, first)[0] == dataset.patient_of(1, second)[0]
        masks = [
            dataset.render(1, i, 64, findings=())["mask"].astype(bool)
            for i in (first, second, second + 200)
        ]
        assert np.any(gray(1, first, 64, findings=()) != gray(1, second, 64, findings=()))
        area = [m.sum() for m in masks]
        same.append(abs(area[0] - area[1]) / area[0])
        other.append(abs(area[0] - area[2]) / area[0])
    assert np.mean(same) < 0.75 * np.mean(other)


def test_more_films_hold_the_fewer():
    few, many = dataset.load(SMALL), dataset.load({**SMALL, "num_train": 60})
    for split in ("train", "val", "test"):
        ids = few.table["id"][few.splits[split]]
        np.testing.assert_array_equal(ids, many.table["id"][many.splits[split]][: len(ids)])


def test_mask_is_the_dark_lung_beside_the_heart():
    shares, lefts, rights = [], [], []
    for index in range(12):
        film = dataset.render(5, index, 96, findings=())
        image, mask = film["image"][..., 0].astype(float), film["mask"][..., 0]
        assert set(np.unique(mask)) == {0, 1}
        shares.append(mask.mean())
        lefts.append(mask[:, :48].mean())
        rights.append(mask[:, 48:].mean())
        assert mask[:, 46:50].mean() < 0.05  # spine and mediastinum
        assert not mask[-8:].any() and not mask[:3].any()  # belly and neck
        # The centre of the chest and the belly are brighter than almost all of the lung.
        assert np.percentile(image[mask == 1], 90) < np.median(image[40:90, 44:52])
    assert 0.2 < np.mean(shares) < 0.42 and min(shares) > 0.15
    # The heart takes its room from the patient's left lung, on the right of the film.
    assert np.mean(lefts) > 1.05 * np.mean(rights)


@pytest.mark.parametrize("finding", ["Effusion", "Pneumothorax", "Pleural_Thickening"])
def test_pleural_disease_is_not_lung(finding):
    for index in range(4):
        without = dataset.render(2, index, 96, findings=())["mask"][..., 0]
        film = dataset.render(2, index, 96, findings=(finding,))
        left = film["mask"][..., 0]
        gone = (without == 1) & (left == 0)
        assert gone.sum() > 4 and not np.any((without == 0) & (left == 1))
        assert inside_boxes(film, 96)[gone].mean() > 0.95


@pytest.mark.parametrize("finding", dataset.LABELS)
def test_a_finding_changes_its_boxes_and_little_else(finding):
    size, within, beyond = 96, [], []
    for index in range(6):
        film = dataset.render(11, index, size, findings=(finding,))
        assert film["label"].sum() == 1 and film["label"][dataset.LABELS.index(finding)] == 1
        assert film["boxes"] and {name for name, _ in film["boxes"]} == {finding}
        change = np.abs(film["image"][..., 0] - gray(11, index, size, findings=()))
        inside = inside_boxes(film, size)
        assert 0.0003 < inside.mean() < 0.62
        within.append(change[inside].mean())
        beyond.append(change[~inside].mean())
    assert min(within) > 2.5
    assert np.mean(within) > 8 * np.mean(beyond)


def test_a_finding_looks_the_same_in_company():
    alone = gray(0, 4, 64, findings=("Nodule",)) - gray(0, 4, 64, findings=())
    together = gray(0, 4, 64, findings=("Nodule", "Hernia")) - gray(0, 4, 64, findings=("Hernia",))
    np.testing.assert_array_equal(alone, together)
    assert np.abs(alone).max() > 20


def test_boxes_lie_in_the_film_and_belong_to_labels():
    films = dataset.load(SMALL)
    found = dataset.boxes(SMALL)
    assert found
    test = films.splits["test"]
    assert {i for i, _, _ in found} <= set(films.table["id"][test])
    for position in test:
        film = dataset.render(0, int(films.table["index"][position]), 40)
        mine = [(name, box) for i, name, box in found if i == film["id"]]
        assert mine == film["boxes"]
        present = {n for n, there in zip(dataset.LABELS, film["label"]) if there}
        assert {name for name, _ in mine} == present
    corners = np.array([box for _, _, box in dataset.boxes(SMALL, range(80))])
    assert corners.min() >= 0 and corners.max() <= 1
    assert np.all(corners[:, 2:] - corners[:, :2] > 0.01)


def test_bilateral_findings_have_a_box_on_either_side():
    boxes = dataset.render(0, 1, 32, findings=("Edema",))["boxes"]
    middles = sorted((box[0] + box[2]) / 2 for _, box in boxes)
    assert len(middles) == 2 and middles[0] < 0.45 and middles[1] > 0.55


def test_artifacts_only_brighten_a_few_pixels():
    for index in range(10):
        plain = dataset.render(6, index, 128)
        film = dataset.render(6, index, 128, artifacts=1.0)
        change = film["image"].astype(int) - plain["image"]
        assert change.min() >= 0
        assert 0.0005 < np.mean(change > 20) < 0.05
        assert film["image"][change > 0].max() > 200
        for key in ("mask", "label"):
            np.testing.assert_array_equal(film[key], plain[key])
    marked = [
        np.any(gray(6, i, 32, artifacts=0.5) != gray(6, i, 32, artifacts=0.0)) for i in range(80)
    ]
    assert 0.3 < np.mean(marked) < 0.7


def test_sizes_show_the_same_scene():
    for index in range(4):
        large, small = dataset.render(9, index, 256), dataset.render(9, index, 64)
        mean = large["image"].reshape(64, 4, 64, 4).mean(axis=(1, 3))
        assert np.mean(np.abs(mean - small["image"][..., 0])) < 3.5
        assert abs(np.mean(mean - small["image"][..., 0])) < 1
        share = large["mask"].reshape(64, 4, 64, 4).mean(axis=(1, 3))
        assert np.sum((share > 0.5) != small["mask"][..., 0]) < 0.03 * np.sum(small["mask"])
        assert large["boxes"] == small["boxes"]


@pytest.mark.parametrize("prevalence", [0.14, 0.3])
def test_labels_have_the_prevalence_asked_for(prevalence):
    labels = np.array([dataset.findings_of(0, i, prevalence)[0] for i in range(2400)])
    # Films of a patient are alike, so that 2,400 films count for fewer.
    assert abs(labels.mean() - prevalence) < 0.02
    rate = labels.mean(axis=0)
    assert np.all(np.abs(rate - prevalence * dataset._COMMON) < 0.05)
    several = np.mean(labels.sum(axis=1) >= 2)
    none = np.mean(labels.sum(axis=1) == 0)
    assert several > 0.3 and none > (1 - prevalence) ** 14 + 0.05
    effusion, edema = labels[:, 2], labels[:, 9]
    assert effusion[edema == 1].mean() > 1.4 * effusion.mean()


def test_info_counts_what_is_there():
    films = dataset.load({**SMALL, "num_val": 0})
    assert films.info["counts"] == {"train": 40, "val": 0, "test": 24}
    rate = films.table["label"][films.splits["train"], films.labels.index("Mass")].mean()
    assert films.info["prevalence"]["train"]["Mass"] == pytest.approx(rate, abs=1e-4)
    assert films.info["prevalence"]["val"]["Mass"] is None


def test_prepare_says_that_nothing_is_to_be_done():
    account = sets.prepare({"name": "phantom", **SMALL})
    account.check()
    assert account.films_stored == 80 and "on the fly" in str(account)


@pytest.mark.parametrize(
    ("key", "value"),
    [("prevalence", 0.0), ("prevalence", 0.7), ("artifacts", 1.5), ("seed", -1), ("image_size", 8),
     ("num_train", 2.5)],
)
def test_options_out_of_range_are_named(key, value):
    with pytest.raises(UserError, match=key):
        dataset.load({**SMALL, key: value})


def test_unknown_finding_and_option_are_named():
    with pytest.raises(UserError, match="did you mean 'Nodule'"):
        dataset.render(0, 0, 32, findings=("Nodul",))
    with pytest.raises(UserError, match="artifacts"):
        sets.load({"name": "phantom", "artifact": 1.0})
