"""Films that were trained on are found among those held out."""

import pytest

from cxrjax.errors import UserError
from cxrjax.training import provenance
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
