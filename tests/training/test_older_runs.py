"""Runs that were saved before a field was there go on, and the field is held to what they did."""

import copy

import pytest

from cxrjax.errors import UserError
from cxrjax.training import experiment, resume
from tests import toy
from tests.training.test_loop import toy_config

# How films are read is another matter (`resume.reading_as_before`): today's default is another one.
ADDED = {k: v for k, v in resume.ADDED.items() if not k.startswith("dataset.")}


def without_added(config):
    """The config as it was saved before the fields of `ADDED`."""
    old = copy.deepcopy(config)
    places = [old, *old.get("networks", {}).values()]
    for field in ADDED:
        *path, name = field.split(".")
        for place in places:
            for key in path:
                place = place.get(key, {})
            place.pop(name, None)
    return old


@pytest.fixture
def given():
    films = toy.load(toy_config().dataset.to_dict())
    config = experiment.config_json(experiment.complete(toy_config(), films))
    # As `mutual` keeps its networks: each with an optimizer of its own.
    config["networks"] = {"a": {"optimizer": copy.deepcopy(config["optimizer"])}}
    return config


def test_the_defaults_of_new_fields_do_what_older_runs_did(given):
    flat = resume.flat(given)
    assert len(ADDED) == 5 and {k: flat[k] for k in ADDED} == ADDED


def test_a_run_of_before_is_the_same_run(given):
    old = without_added(given)
    assert old != given and old["networks"] != given["networks"]
    resume.check_same_config(old, given, "runs/old")


@pytest.mark.parametrize("field, value", [
    ("optimizer.layer_decay", 0.5), ("optimizer.freeze", "encoder"),
    ("normalize.source", "weights: timm"), ("networks.a.optimizer.freeze", "encoder"),
])
def test_what_it_did_not_do_is_another_run(given, field, value):
    old, place = without_added(given), given
    *path, name = field.split(".")
    for key in path:
        place = place[key]
    place[name] = value
    with pytest.raises(UserError, match=rf"config.{field} was .*, is {value!r}"):
        resume.check_same_config(old, given, "runs/old")
