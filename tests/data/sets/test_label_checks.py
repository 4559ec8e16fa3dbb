"""Labels are checked film by film as films are opened, whatever the set; names meet by a table."""

import sys
import types

import numpy as np
import pytest

from cxrjax.data import sets
from cxrjax.data.sets import _synonyms, chestxray14, chexpert, padchest, vindr_cxr
from cxrjax.data.sets.base import Account, Films
from cxrjax.errors import UserError
from tests.raw_films import NIH, film, make_covid, make_nih, options, save

NAN = np.nan


class Source(list):
    """Records of given labels."""

    def __getitem__(self, i):
        return {"image": np.zeros((16, 16, 1), np.uint8), "label": list.__getitem__(self, i),
                "id": f"film{i}"}  # fmt: skip


def own_set(monkeypatch, labels, task="multilabel", table=None):
    """The options of a user's own data set with these labels, reached by a dotted path."""
    module = types.ModuleType("my_films")
    ids = np.array([f"film{i}" for i in range(len(labels))])
    columns = {"id": ids} | ({} if table is None else {"label": np.array(table)})
    module.LABELS, module.TASK, module.MASKS, module.DEFAULTS = ("A", "B"), task, (), {}
    module.prepare = lambda given: Account("my_films")
    module.load = lambda given: Films(
        Source(labels), columns,
        {"train": np.arange(len(labels)), "val": np.arange(0), "test": np.arange(0)},
        ("A", "B"), task,
    )  # fmt: skip
    module.__spec__ = types.SimpleNamespace(name="my_films")
    monkeypatch.setitem(sys.modules, "my_films", module)
    return {"name": "my_films:", "image_size": 16}


@pytest.mark.parametrize("bad, words", [
    ([2.0, 0.0], "film film3: label 'A' is 2, and must be 0, 1 or NaN"),
    ([0.0, -1.0], "film film3: label 'B' is -1"),
    ([0.0, 0.5], "film film3: label 'B' is 0.5"),
    ([0.0, np.inf], "film film3: label 'B' is inf"),
    ([0.0], "film film3: a label of shape .1., but film0 has .2."),
])
def test_every_record_of_a_set_of_ones_own_is_checked(monkeypatch, bad, words):
    labels = [[0.0, 1.0], [NAN, 0.0], [1.0, 1.0], bad, [0.0, 0.0]]
    given = own_set(monkeypatch, [np.array(label, np.float32) for label in labels])
    with pytest.raises(UserError, match=words):
        sets.load(given)


def test_good_labels_pass_and_stand_in_the_table(monkeypatch):
    labels = [np.array(label, np.float32) for label in ([0, 1], [NAN, 0])]
    films = sets.load(own_set(monkeypatch, labels))
    np.testing.assert_array_equal(films.table["label"], np.stack(labels))


@pytest.mark.parametrize("labels, words", [
    ([[1, 0], [1, 1]], "film film1: 2 of A, B are 1"),
    ([[1, 0], [0, 0]], "film film1: 0 of A, B are 1"),
    ([[1, 0], [0, 2]], "film film1: label 'B' is 2"),
    ([[1, 0], [NAN, 1]], "film film1: label 'A' is nan"),
    ([0, 2], r"film film1: class 2 is none of 0 to 1 \(A, B\)"),
    ([0, -1], "film film1: class -1 is none of"),
])
def test_one_of_n_labels(monkeypatch, labels, words):
    given = own_set(monkeypatch, [np.array(label, np.float32) for label in labels], "multiclass")
    with pytest.raises(UserError, match=words):
        sets.load(given)


def test_classes_as_numbers_become_one_hot(monkeypatch):
    films = sets.load(own_set(monkeypatch, [np.int64(1), np.int64(0)], "multiclass"))
    assert [films.source[i]["label"].tolist() for i in (0, 1)] == [[0, 1], [1, 0]]


def test_a_table_that_says_other_than_the_records(monkeypatch):
    labels = [np.array([0, 1], np.float32), np.array([0, 0], np.float32)]
    with pytest.raises(UserError, match="film film1: its record has the label .0.0, 0.0., the"):
        sets.load(own_set(monkeypatch, labels, table=[[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(UserError, match="film film0: label 'B' is 3"):
        sets.load(own_set(monkeypatch, labels, table=[[0.0, 3.0], [0.0, 0.0]]))


# --- the same films and labels elsewhere


def test_every_prepared_set_keeps_what_a_film_is(tmp_path):
    raw = make_nih(tmp_path / "raw", "flat")
    first = raw / "images" / NIH[0][0]
    (raw / "images" / NIH[1][0]).write_bytes(first.read_bytes())
    given = options("chestxray14", raw, tmp_path / "prepared", split="random")
    account = sets.prepare(given)
    films = sets.load(given)
    assert account.same_films == [f"{NIH[1][0]} = {NIH[0][0]}"]
    content = films.table["content"].tolist()
    assert content[0] == content[1] and len(set(content)) == 13
    assert films.table["age"].dtype == np.float32 and set(films.table["sex"]) == {"M"}
    # Another size and format of file, the same pixels: the same content.
    small = options("chestxray14", raw, tmp_path / "prepared", split="random", image_size=64)
    sets.prepare(small)
    assert sets.load(small).table["content"].tolist() == content
    near = [bin(int(a, 16) ^ int(b, 16)).count("1") for a, b in
            zip(films.table["phash"], sets.load(small).table["phash"])]  # fmt: skip
    assert max(near) <= 48  # of 256; random blotches: real films differ by 10 at most
    covid = options("covid_radiography", make_covid(tmp_path / "c"), tmp_path / "prepared")
    sets.prepare(covid)
    assert len(set(sets.load(covid).table["content"])) == 28


def test_ids_that_differ_only_in_case_are_said(tmp_path):
    raw = make_covid(tmp_path / "raw")
    save(raw / "COVID" / "images" / "covid-1.png", film(1))
    account = sets.prepare(options("covid_radiography", raw, tmp_path / "prepared"))
    said = "1 pairs of films have names that differ only in case: COVID-1 and covid-1"
    assert said in str(account)


def test_lists_of_other_films_are_refused_before_films_are_read(tmp_path):
    raw = make_nih(tmp_path / "raw")
    given = options("chestxray14", raw, tmp_path / "prepared")
    names = [name for name, _, _ in NIH]
    (raw / "test_list.txt").write_text("".join(f"{name[:-4]}\n" for name in names[10:]))
    with pytest.raises(UserError, match="test_list.txt: none of its 4 names .such as 00000007_000"):
        sets.prepare(given)
    (raw / "test_list.txt").write_text(names[10] + "\n")
    (raw / "train_val_list.txt").write_text("\n".join(names[:3]))
    with pytest.raises(UserError, match="name only 4 of the 14 films .3 in train_val, 1 in test"):
        sets.prepare(given)
    assert not (tmp_path / "prepared").exists()
    assert sets.prepare(given | {"split": "random"}).films_stored == 14
    make_nih(tmp_path / "raw")
    again = sets.prepare(given | {"data_dir": str(tmp_path / "other")})
    assert "lists of the official split: of 14 films 10 in train_val, 4 in test" in str(again)


def test_label_names_meet_by_the_table():
    pairs, ours, theirs = sets.match_labels(chestxray14.LABELS, chexpert.LABELS)
    assert {(chestxray14.LABELS[i], chexpert.LABELS[j]) for i, j in pairs} == {
        ("Atelectasis", "Atelectasis"), ("Cardiomegaly", "Cardiomegaly"),
        ("Effusion", "Pleural Effusion"), ("Pneumonia", "Pneumonia"),
        ("Pneumothorax", "Pneumothorax"), ("Consolidation", "Consolidation"), ("Edema", "Edema"),
    }  # fmt: skip
    assert "Infiltration" in ours and "Lung Opacity" in theirs and "Lung Lesion" in theirs
    assert len(pairs) + len(ours) == 14 == len(pairs) + len(theirs)
    pairs, ours, _ = sets.match_labels(chestxray14.LABELS, vindr_cxr.LABELS)
    met = {chestxray14.LABELS[i]: vindr_cxr.LABELS[j] for i, j in pairs}
    assert met["Pleural_Thickening"] == "Pleural thickening" and met["Fibrosis"] == (
        "Pulmonary fibrosis") and met["Infiltration"] == "Infiltration"  # fmt: skip
    assert {"Mass", "Nodule"} <= set(ours)  # Nodule/Mass is either
    pairs, ours, _ = sets.match_labels(chestxray14.LABELS, padchest.LABELS)
    met = {chestxray14.LABELS[i]: padchest.LABELS[j] for i, j in pairs}
    assert not ours and met["Hernia"] == "hiatal hernia" and met["Mass"] == "pulmonary mass"


def test_labels_that_are_spelled_alike_choose_first():
    assert sets.match_labels(["Effusion"], ["Pleural Effusion", "effusion"])[0] == [(0, 1)]
    assert sets.match_labels(["Pleural Effusion", "Effusion"], ["Effusion"]) == (
        [(1, 0)], ["Pleural Effusion"], [])
    assert sets.match_labels(["Own thing"], ["own_thing", "x"]) == ([(0, 0)], [], ["x"])
    rows = [_synonyms.plain(name) for row in _synonyms.SYNONYMS for name in row]
    assert len(set(rows)) == len(rows)  # a name stands in one row
