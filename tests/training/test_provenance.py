"""Films that were trained on are found among those held out."""

import dataclasses

import numpy as np
import pytest

from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.training import checkpoint, provenance
from tests import toy


def test_films_that_were_trained_on_are_found_in_each_split():
    films = toy.load({**toy.DEFAULTS, "image_size": 16})
    ids = {split: films.table["id"][p].tolist() for split, p in films.splits.items()}
    assert provenance.leaked(ids["train"], films) == {}
    trained = [ids["test"][2], *ids["train"], ids["test"][0], "a film of somebody else's"]
    assert provenance.leaked(trained, films) == {"test": sorted([ids["test"][0], ids["test"][2]])}
    assert list(provenance.leaked([ids["val"][1], *trained], films)) == ["val", "test"]


def test_the_sentence_names_who_how_many_and_the_first():
    films = toy.load({**toy.DEFAULTS, "image_size": 16})
    names = films.table["id"][films.splits["test"]].tolist()
    provenance.check_not_trained_on(["elsewhere"], films, "the run", "mend it")
    with pytest.raises(UserError) as error:
        provenance.check_not_trained_on(names, films, "the run", "mend it")
    first = f"the run was trained on {len(names)} films of the test split (first: {min(names)})"
    assert str(error.value) == f"{first}: mend it"


# --- through generations: accounts alone, without a training


def hospital(name_of=str, test=range(8, 12), train=range(4), **columns):
    """Twelve films of six patients, four each to train, validate and test on."""
    at = np.arange(12)
    table = {"id": np.array([name_of(i) for i in at]), "patient": at // 2, **columns}
    val = sorted({*range(12)} - {*test} - {*train})[:4]
    return Films(
        source=at, table=table, labels=("a",), task="multilabel",
        splits={"train": np.array([*train]), "val": np.array(val), "test": np.array([*test])},
    )


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """begin(folder, films, **config): a run's account, as its checkpoint keeps it."""
    saved = {}
    monkeypatch.setattr(checkpoint, "restore_variables",
                        lambda workdir, which="best": (*saved[str(workdir)], {}, 1))

    def begin(folder, films, **config):
        path = tmp_path / folder
        path.mkdir()
        config = {"dataset": {"name": "lab"}, **config}
        saved[str(path)] = (config, {"seen": provenance.account(config, films)})
        return str(path), saved[str(path)][1]["seen"]

    return begin


def said(seen, films, name="lab", split="test"):
    return [provenance.sentence(o, split) for o in provenance.overlaps(seen, films, name, split)]


OTHER = {"test": range(4), "train": range(4, 8)}  # another split of the same films


@pytest.mark.parametrize("how", [
    lambda path: {"init_from": path},
    lambda path: {"networks": {"a": {"init_from": path}, "b": {"init_from": ""}}},
    lambda path: {"scheme": {"teachers": [path], "teacher_checkpoint": "latest"}},
    lambda path: {"scheme": {"workdir": path, "checkpoint": "best"}},
])
def test_what_a_run_came_from_has_seen_the_test_films(runs, how):
    first, seen = runs("first", hospital())
    assert said(seen, hospital()) == []
    other = hospital(**OTHER)
    second, seen = runs("second", other, **how(first))
    (sentence,) = said(seen, other)
    assert sentence.startswith(f"{first} (") and "trained on 4 films of the test split" in sentence
    third, seen = runs("third", other, init_from=second)  # a generation later it is known still
    (sentence,) = said(seen, other)
    assert sentence.startswith(f"{second} (init_from), by {first} (")
    assert provenance.not_judgeable(seen, other, "lab")[0].startswith(
        "this run will not be judgeable on the test split: ")


def test_films_that_another_run_was_tuned_on_count_for_the_test_alone(runs):
    first, _ = runs("first", hospital())  # tuned on films 4 to 7
    films = hospital(test=range(4, 8), train=range(8, 12))
    _, seen = runs("second", films, init_from=first)
    assert "was tuned on 4 films" in said(seen, films)[0]
    films = hospital(test=range(8, 12), train=range(4))
    _, seen = runs("third", films, init_from=first)
    assert said(seen, films) == said(seen, films, split="val") == []


def test_patients_count_where_the_split_keeps_them_apart(runs):
    first, _ = runs("first", hospital(train=[0, 2], test=[1, 3, 8, 9, 10, 11]))
    films = hospital(test=[1, 3], train=range(8, 12))  # other films of those two patients
    _, seen = runs("second", films, init_from=first)
    (sentence,) = said(seen, films)
    assert sentence.endswith(
        "was trained on other films of the patients of 2 films of the test split")
    mixed = hospital(test=[1, 3], train=[0, 2, 8, 9])  # this split asks for no such thing
    assert said(runs("third", mixed, init_from=first)[1], mixed) == []


def test_films_of_another_set_are_known_by_their_origin_and_their_pixels(runs):
    first, _ = runs("first", hospital(lambda i: f"{i:08d}_000.png"),
                    dataset={"name": "chestxray14"})
    names = np.array([f"chestxray14/{(i + 4) % 12:08d}_000.png" for i in range(12)])
    films = hospital(lambda i: f"rsna{i}", origin_id=names)  # its test films are 0 to 3 there
    _, seen = runs("second", films, init_from=first, dataset={"name": "rsna_pneumonia"})
    assert "4 films of the test split (first: rsna10)" in said(seen, films, "rsna_pneumonia")[0]

    pixels = np.array([f"{i:032x}"[::-1] for i in range(12)])
    third, _ = runs("third", hospital(content=pixels), dataset={"name": "table"})
    copies = hospital(lambda i: f"copy{i}", content=np.roll(pixels, 8))
    _, seen = runs("fourth", copies, init_from=third, dataset={"name": "table"})
    assert "4 films of the test split (first: copy10)" in said(seen, copies, "table")[0]
    # Two tables may call their films 0.png, 1.png, ... and mean others.
    strange = hospital(test=range(4), train=range(8, 12), content=np.roll(pixels, 1) + "x")
    strange.table["content"] = np.array([f"other{i}" for i in range(12)])
    _, seen = runs("fifth", strange, init_from=third, dataset={"name": "table"})
    assert said(seen, strange, "table") == []


def test_weights_of_unknown_origin_are_said_to_be_that(runs):
    first, seen = runs("first", hospital(), init_from="weights/densenet.pth")
    assert "weights/densenet.pth (init_from), weights of unknown origin" in seen["unknown"][0]
    _, seen = runs("second", hospital(), init_from=first)
    assert seen["unknown"][0].startswith(f"{first} (init_from), by weights/densenet.pth")


def test_a_run_of_before_is_known_by_its_ids():
    config = {"dataset": {"name": "lab"}, "init_from": "runs/gone"}
    meta = {"ids": {"train": ["0", "1"], "val": ["8"], "test": []}}
    seen = provenance.of_run(config, meta)
    assert "an earlier version" in seen["unknown"][0]
    assert [o["how"] for o in provenance.overlaps(seen, hospital(**OTHER), "lab", "test")] == [
        "trained"]


def test_a_run_that_goes_on_keeps_what_it_came_from(runs):
    first, _ = runs("first", hospital())
    _, seen = runs("second", hospital(**OTHER), init_from=first)
    _, now = runs("now", dataclasses.replace(hospital(**OTHER)))
    again = provenance.continued(seen, now)
    assert again == seen


def test_films_prepared_otherwise_are_named(runs):
    normal = {"mean": 0.449, "std": 0.226}
    first, _ = runs("first", hospital(), dataset={"name": "lab", "fit": "pad"}, normalize=normal)
    other = {"dataset": {"name": "lab", "fit": "stretch"}, "normalize": {**normal, "mean": 0.5}}
    assert provenance.prepared_otherwise({**other, "init_from": first}) == [
        f"the weights of {first} (init_from) know films prepared otherwise: normalize.mean was "
        "0.449 there and is 0.5 here; dataset.fit was 'pad' there and is 'stretch' here"]
    same = {"dataset": {"fit": "pad"}, "normalize": normal}
    assert provenance.prepared_otherwise({**same, "init_from": first}) == []
    assert provenance.prepared_otherwise({**other, "init_from": "weights.pth"}) == []
