"""The sets of other hospitals, each in small in its own layout, with its traps and policies."""

import numpy as np
import pytest

from cxrjax.data import sets
from cxrjax.data.sets import padchest
from cxrjax.errors import UserError
from tests.raw_films import ids, options
from tests.small_hospitals import (
    make_chexpert,
    make_mimic,
    make_padchest,
    make_rsna,
    make_vindr,
)

NAN = np.nan


def label_of(films, film, *names):
    """Labels of a film by its id's end, from its record; the table must say the same."""
    [row] = [i for i, name in enumerate(films.table["id"]) if name.endswith(film)]
    record = films.source[row]["label"]
    np.testing.assert_array_equal(record, films.table["label"][row])
    return [float(record[films.labels.index(name)]) for name in names]


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    raw = make_chexpert(tmp_path_factory.mktemp("chexpert"))
    given = options("chexpert", raw, tmp_path_factory.mktemp("prepared"), views="")
    return given, sets.prepare(given)


def test_chexpert_account(chexpert):
    _, account = chexpert
    assert (account.rows_read, account.films_stored) == (16, 15)
    assert account.dropped == {"the film is missing": 1}
    assert account.missing == ["CheXpert-v1.0-small/train/patient00004/study1/view1_frontal.jpg"]
    assert "no test.csv: valid.csv is the test split" in str(account)


@pytest.mark.parametrize("uncertain, edema, cardiomegaly", [
    ("ignore", NAN, NAN),
    ("zeros", 0, 0),
    ("ones", 1, 1),
    ("zeros,Edema=ones", 1, 0),
    ("ignore,Cardiomegaly=ones", NAN, 1),
])
def test_chexpert_policies_give_these_labels(chexpert, uncertain, edema, cardiomegaly):
    given, _ = chexpert
    films = sets.load(given | {"uncertain": uncertain})
    names = ("Edema", "Cardiomegaly", "No Finding", "Fracture")
    assert label_of(films, "patient00002/study1/view1_frontal.jpg", *names) == pytest.approx(
        [edema, 0, 0, 0], nan_ok=True)
    assert label_of(films, "patient00001/study1/view1_frontal.jpg", *names) == pytest.approx(
        [1, cardiomegaly, 0, 0], nan_ok=True)
    assert films.info["uncertain"]["Edema"] == 1 and films.info["uncertain"]["Cardiomegaly"] == 2
    films = sets.load(given | {"uncertain": uncertain, "empty": "ignore,Fracture=zeros"})
    assert label_of(films, "patient00001/study1/view1_frontal.jpg", *names) == pytest.approx(
        [1, cardiomegaly, NAN, 0], nan_ok=True)


def test_chexpert_split_views_and_people(chexpert):
    given, _ = chexpert
    films = sets.load(given | {"views": "frontal"})
    assert sorted(ids(films, "test")) == [
        f"valid/patient{64541 + i}/study1/view1_frontal.jpg" for i in range(4)
    ]
    assert films.info["left_out"] == {"not frontal": 1} and len(films.splits["val"]) in (1, 2)
    assert "official split (val: 0.1 of the training patients, seed 0)" in films.info["protocol"]
    row = {name: i for i, name in enumerate(films.table["id"].tolist())}
    third = row["train/patient00003/study1/view1_frontal.jpg"]
    assert [films.table[k][third] for k in ("sex", "age", "view")] == ["", 90, "PA"]
    lateral = row["train/patient00001/study1/view2_lateral.jpg"]
    assert films.table["view"][lateral] == "LATERAL" and films.table["sex"][lateral] == "F"
    assert films.table["age"].dtype == np.float32
    five = sets.load(given | {"labels": "competition"})
    assert five.labels == ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema",
                           "Pleural Effusion")  # fmt: skip
    assert five.source[0]["label"].shape == (5,) and sets.head(given)[0] == films.labels


def test_chexpert_test_table_and_folder_of_another_name(tmp_path):
    raw = make_chexpert(tmp_path, "CheXpert-v1.0", test=True)
    raw = raw.rename(tmp_path / "renamed")
    given = options("chexpert", raw, tmp_path / "prepared")
    account = sets.prepare(given)
    assert account.films_stored == 18 and "with CheXpert-v1.0/ left off" in str(account)
    films = sets.load(given)
    assert [len(films.splits[s]) for s in ("train", "val", "test")] == [10, 4, 3]
    with pytest.raises(UserError, match="no such|there is no label 'Oedema'.*did you mean 'Edema'"):
        sets.load(given | {"labels": "Oedema"})
    with pytest.raises(UserError, match="'one' is no policy; did you mean 'ones'"):
        sets.load(given | {"uncertain": "Edema=one"})


def test_mimic(tmp_path):
    given = options("mimic_cxr", make_mimic(tmp_path / "raw"), tmp_path / "prepared")
    account = sets.prepare(given)
    # 7 patients x 3 films; the second study of the first patient has no labels.
    assert (account.rows_read, account.films_stored) == (21, 20)
    assert account.dropped == {"its study has no labels": 1}
    # A view of '' comes once as (patient 4, first), once as (patient 3, copy), once in study 2.
    assert "3 films have no view: they are not taken as frontal" in str(account)
    films = sets.load(given)
    frontal = films.table["view"][np.concatenate(list(films.splits.values()))]
    assert set(frontal) == {"AP", "PA"}
    first = films.table["study"] == "51000000"
    assert first.sum() == 2  # both films of the study have its labels
    for row in np.flatnonzero(first):
        label = dict(zip(films.labels, films.source[int(row)]["label"].tolist()))
        assert label["Edema"] == 1 and label["Pneumonia"] == 0 and label["Fracture"] == 0
    row = int(np.flatnonzero(films.table["study"] == "51100000")[0])
    assert np.isnan(films.source[row]["label"][films.labels.index("Edema")])
    assert films.table["sex"][row] == "F" and films.table["age"][row] == 51 + 2180 - 2170
    assert set(films.table["patient"][films.splits["test"]]) == {"10000006"}
    assert set(films.table["patient"][films.splits["val"]]) == {"10000005"}
    ones = sets.load(given | {"uncertain": "ones", "views": ""})
    assert ones.source[row]["label"][films.labels.index("Edema")] == 1
    assert sum(len(p) for p in ones.splits.values()) == 20


def test_mimic_without_its_tables(tmp_path):
    raw = make_mimic(tmp_path / "raw", people=False)
    given = options("mimic_cxr", raw, tmp_path / "prepared")
    assert "sex and age are not known" in str(sets.prepare(given))
    (raw / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    with pytest.raises(UserError, match="has no mimic-cxr-2.0.0-split.csv.gz"):
        sets.prepare(given)


def test_padchest_names_are_tidied():
    assert padchest.names_of("[' cardiomegaly ', 'pleural  effusion', ' ']") == [
        "cardiomegaly", "pleural effusion"]
    assert padchest.names_of("") == [] == padchest.names_of("[]")


def test_padchest(tmp_path):
    given = options("padchest", make_padchest(tmp_path / "raw"), tmp_path / "prepared")
    account = sets.prepare(given)
    assert account.rows_read == 13 and account.films_stored == 9
    assert account.dropped == {
        "it is labelled 'exclude'": 1,
        "its labels are empty, or say nothing of what is seen": 2,
        "the film cannot be read": 1,
    }
    [(file, why)] = account.unreadable
    assert file.endswith("film11.png") and "truncated" in why
    films = sets.load(given)
    assert films.labels == padchest.LABELS
    names = ("normal", "cardiomegaly", "pleural effusion", "nodule")
    assert label_of(films, "film02.png", *names) == [0, 1, 1, 0]
    assert label_of(films, "film01.png", *names) == [0, 0, 1, 1]
    assert label_of(films, "film09.png", "normal", "scoliosis") == [1, 1]
    assert label_of(films, "film08.png", "nodule") == [1]  # suboptimal, and says what is seen
    assert films.info["left_out"] == {"not frontal": 2}  # L and COSTAL
    assert set(films.table["view"]) == {"PA", "AP", "LATERAL", "COSTAL"}
    assert set(films.table["age"].tolist()) == {64.0} and films.table["sex"][0] == "F"
    physicians = given | {"method": "Physician", "labels": "nodule,heart insufficiency"}
    assert sets.prepare(physicians).dropped["its labels are not by Physician"] == 6
    films = sets.load(physicians)
    assert films.labels == ("nodule", "heart insufficiency") == sets.head(physicians)[0]
    with pytest.raises(UserError, match="no film has the label 'nodul'; did you mean 'nodule'"):
        sets.prepare(given | {"labels": "nodul"})


@pytest.mark.parametrize("votes, positive", [("majority", [2, 3]), ("any", [1, 2, 3]),
                                             ("all", [3])])
def test_vindr_votes(tmp_path, votes, positive):
    given = options("vindr_cxr", make_vindr(tmp_path / "raw"), tmp_path / "prepared", votes=votes)
    account = sets.prepare(given)
    assert account.rows_read == account.films_stored == 14
    films = sets.load(given)
    for i in range(10):  # i % 4 of three readers see cardiomegaly
        assert label_of(films, f"f{i:02d}", "Cardiomegaly", "No finding") == [
            float(i % 4 in positive), i % 2]
    assert label_of(films, "t01", "Cardiomegaly") == [1.0]
    assert sorted(ids(films, "test")) == ["t00", "t01", "t02", "t03"]
    assert "patient" not in films.table and "NO PATIENTS known" in films.info["protocol"]
    assert f"by {votes} of the readers" in films.info["protocol"]
    row = films.table["id"].tolist().index("f03")
    assert films.table["sex"][row] == "F" and films.table["age"][row] == 43
    assert sets.boxes(given) == [("t01", "Cardiomegaly", (0.25, 0.5, 0.75, 1.0))]


def test_rsna_films_are_those_of_the_nih(tmp_path):
    given = options("rsna_pneumonia", make_rsna(tmp_path / "raw"), tmp_path / "prepared")
    account = sets.prepare(given)
    assert account.rows_read == account.films_stored == 8
    assert "9 rows of stage_2_train_labels.csv (one for each box) are of 8 films" in str(account)
    films = sets.load(given | {"shares": (0.5, 0.25, 0.25)})
    assert [label_of(films, f"{i:04x}-uuid", "Pneumonia")[0] for i in range(8)] == [1, 0] * 4
    assert films.table["origin_id"][0] == "chestxray14/00000011_000.png"
    assert sets.identities(films.table, "rsna_pneumonia").tolist() == [
        f"chestxray14/{min(i, 4) + 11:08d}_00{i}.png" for i in range(8)]
    assert sets.identities({"id": np.array(["a.png"])}, "chestxray14") == ["chestxray14/a.png"]
    assert films.table["patient"].tolist() == ["11", "12", "13", "14"] + ["15"] * 4
    sides = [set(films.table["patient"][p]) for p in films.splits.values()]
    assert not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])
    assert films.table["class"][1] == "No Lung Opacity / Not Normal"
    assert (films.table["sex"][0], films.table["age"][0], films.table["view"][0]) == ("F", 61, "PA")
    boxes = sets.boxes(given)
    assert boxes[0] == ("0000-uuid", "Pneumonia", (0.1, 0.2, 0.4, 0.6)) and len(boxes) == 5


def test_rsna_without_the_mapping_says_so(tmp_path):
    raw = make_rsna(tmp_path / "raw", mapping=False)
    given = options("rsna_pneumonia", raw, tmp_path / "prepared")
    assert "NO PATIENTS" in str(sets.prepare(given))
    films = sets.load(given)
    assert set(films.table["origin_id"]) == {""} and "patient" not in films.table
    assert all(len(h) == 64 for h in films.table["phash"])
    assert all(len(h) == 32 for h in films.table["content"])
    (raw / "pneumonia-challenge-dataset-mappings_2018.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="not RSNA's mapping"):
        sets.prepare(given | {"data_dir": str(tmp_path / "other")})


@pytest.mark.parametrize("make, name, words", [
    (make_chexpert, "chexpert", "CheXpert's columns"),
    (make_mimic, "mimic_cxr", "metadata.csv"),
    (make_padchest, "padchest", "PADCHEST"),
    (make_vindr, "vindr_cxr", "image_labels_train.csv"),
    (make_rsna, "rsna_pneumonia", "stage_2_train_labels.csv"),
])
def test_a_folder_of_another_set_is_recognised(tmp_path, make, name, words):
    raw = make(tmp_path / "raw")
    other = "padchest" if name != "padchest" else "vindr_cxr"
    with pytest.raises(UserError, match=f"looks like {name}$"):
        sets.prepare(options(other, raw, tmp_path / "prepared"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        sets.prepare(options(name, tmp_path / "empty", tmp_path / "prepared"))
